"""Signals from a folder are those of the teacher itself, whatever the batch; what is not there is named."""

import copy
import gc
import json
import pickle
import shutil

import datasets
import pytest
import torch
from conftest import build_pairs, build_tokenizer, family
from signal_runs import batch_of, captured, live, positions_of, teacher

from distill.basics.jsonl import CHECKSUM, seal
from distill.pairs.packing import pack_pairs
from distill.signals import SignalRequest, StoredSignals, probe_head
from distill.signals.shards import shards_in
from distill.teachers import LocalTeacher

HEAD = SignalRequest(head=probe_head(teacher().model))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return captured(tmp_path_factory.mktemp("stored") / "signals")


@pytest.mark.parametrize("form", ["right", "left", "packed", "cut"])
def test_hidden_states_and_logits_are_the_teachers_in_any_batch(stored, form):
    pairs = build_pairs(30)
    items = [pairs[i] for i in (29, 3, 17, 3, 0, 8)]
    settings = {"padding_side": "left"} if form == "left" else {"max_length": 14} if form == "cut" else {}
    if form == "packed":
        packed = pack_pairs(pairs, 60)
        items = [packed[1], packed[0]]
    if form == "cut":
        items = [pair for pair in items if len(pair["prompt_ids"]) < 14]
    batch, where = batch_of(items, **settings)
    if form == "cut":
        assert len(where) < sum(map(positions_of, items)), "something is cut"
    truth = live(teacher().model, batch, where)
    found = stored.signals(batch, where, SignalRequest(head=HEAD.head, logits=True))
    torch.testing.assert_close(found.head.hidden, truth.head.hidden, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.logits, truth.logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.head.weight, truth.head.weight)
    assert found.supervised is where
    assert stored.signals(batch, where, HEAD).logits is None


@pytest.mark.parametrize("name", ["gemma2", "granite", "cohere", "gpt2", "mamba"])
def test_heads_that_scale_cap_or_have_a_bias(tmp_path, name):
    """A head's whole way to the logits is kept: GPT-2 shares its embeddings, Gemma 2 caps, Granite and Cohere scale."""
    asked = LocalTeacher(family(name), build_tokenizer())
    pairs = build_pairs(6)
    found = captured(tmp_path / "signals", pairs, asked)
    assert found.facts.transform() == probe_head(asked.model)
    assert found.facts.config.model_type == name
    batch, where = batch_of(list(pairs))
    truth = live(asked.model, batch, where)
    said = found.signals(batch, where, SignalRequest(head=found.facts.transform(), logits=True))
    torch.testing.assert_close(said.logits, truth.logits, rtol=1e-4, atol=1e-4)


def test_a_head_with_a_bias(tmp_path):
    asked = LocalTeacher(family("phi"), build_tokenizer())
    torch.nn.init.normal_(asked.model.get_output_embeddings().bias)
    batch, where = batch_of(list(build_pairs(4)))
    said = captured(tmp_path / "signals", build_pairs(4), asked).signals(batch, where, SignalRequest(logits=True))
    torch.testing.assert_close(said.logits, live(asked.model, batch, where).logits, rtol=1e-4, atol=1e-4)


def test_half_precision_comes_back_bit_by_bit(tmp_path):
    """A batch of the very rows that the capture ran: no other order of sums, so no other bit."""
    asked = teacher()
    asked.model.to(torch.bfloat16)
    pairs = build_pairs(1)
    found = captured(tmp_path / "signals", pairs, asked)
    batch, where = batch_of(list(pairs))
    truth, said = live(asked.model, batch, where), found.signals(batch, where, HEAD)
    assert said.head.hidden.dtype == said.head.dtype == torch.bfloat16
    assert torch.equal(said.head.hidden, truth.head.hidden)


def test_sparse_encodings_give_sparse_signals(tmp_path):
    pairs = build_pairs(4)
    batch, where = batch_of(list(pairs))
    for name, kind in (("threshold:8", "atoms"), ("draws:4", "atoms"), ("top:8", "top")):
        found = captured(tmp_path / name, pairs, encoding=name, temperature=2.0)
        said = found.signals(batch, where, SignalRequest())
        assert said.head is None
        assert len(said.sparse.ids) == len(where)
        assert said.sparse.temperature == found.facts.temperature == 2.0
        assert (found.facts.next_token, found.facts.transform()) == (kind, None)


def test_rows_that_fill_up_a_batch_need_no_signals(stored):
    from distill.pairs.labels import EMPTY

    batch, where = batch_of([build_pairs(30)[2], EMPTY])
    assert len(stored.signals(batch, where, HEAD).head.hidden) == len(where)
    batch, where = batch_of([EMPTY, EMPTY])
    assert stored.signals(batch, where, HEAD).head.hidden.shape == (0, 32)


def test_missing_pairs_are_named(stored):
    more = build_pairs(33)
    stored.check(build_pairs(30), "train_dataset")
    stored.check(list(build_pairs(30)))
    stored.check(pack_pairs(build_pairs(30), 60))
    stored.check(more.to_iterable_dataset())  # its rows are met when they come
    with pytest.raises(ValueError, match=r"lacks 1 of 2 pairs of a list: row31\."):
        stored.check([more[0], more[31]], "a list")
    with pytest.raises(
        ValueError, match=r"lacks 3 of 33 pairs of train_dataset: row30, row31, row32\. `distill capture` with the same"
    ):
        stored.check(more, name="train_dataset")
    batch, where = batch_of([more[0], more[31]])
    batch["ids"] = ["row0", "row31"]
    with pytest.raises(ValueError, match=r"holds not pair row31\. `distill capture`"):
        stored.signals(batch, where, HEAD)
    del batch["ids"]
    with pytest.raises(ValueError, match=r"holds not the pair with the key [0-9a-f]{32}"):
        stored.signals(batch, where, HEAD)


def test_pairs_without_an_id_are_named_by_their_number(stored):
    more = build_pairs(33).remove_columns("id")
    with pytest.raises(ValueError, match=r"lacks 3 of 33 pairs of train_dataset: number 30, number 31, number 32\."):
        stored.check(more, name="train_dataset")


def test_a_teachers_prompt_in_words_alone_is_refused(stored):
    pair = {**build_pairs(1)[0], "teacher_prompt": "Look at this."}
    for rows in ([pair], datasets.Dataset.from_list([pair])):
        with pytest.raises(ValueError, match=r"a teacher_prompt without teacher_prompt_ids"):
            stored.check(rows)


def test_a_source_is_copied_and_sent_to_other_processes(stored):
    """After it has read: a descriptor is of one object in one process."""
    batch, where = batch_of([build_pairs(30)[i] for i in (1, 2)])
    truth = stored.signals(batch, where, HEAD).head.hidden
    assert stored.index._files
    for copied in (copy.deepcopy(stored), pickle.loads(pickle.dumps(stored)), copy.copy(stored.index)):
        index = getattr(copied, "index", copied)
        assert not index._files
        if index is not copied:
            assert torch.equal(copied.signals(batch, where, HEAD).head.hidden, truth)
        index.close()
        del copied, index
        gc.collect()
        assert torch.equal(stored.signals(batch, where, HEAD).head.hidden, truth)


def test_signals_of_other_pairs_are_named_as_such(stored):
    with pytest.raises(
        ValueError,
        match=r"holds signals of other pairs: none of the 9 pairs of the pairs is among its 30 \(row0, row1, .* and 4 more\)",
    ):
        stored.check(build_pairs(9, seed=5))
    pairs = build_pairs(4)
    shown = pairs.add_column("teacher_prompt_ids", [[9, 8, *ids] for ids in pairs["prompt_ids"][:]])
    with pytest.raises(
        ValueError,
        match=r"They are there without their teacher prompts, which the pairs had not when they were captured",
    ):
        stored.check(shown)
    with pytest.raises(ValueError, match=r"They are there without their teacher prompts"):
        stored.check(shown.add_column("teacher_prompt", ["Look at this."] * 4))


def test_pairs_that_were_cut_when_they_were_captured_are_named(tmp_path):
    pairs = build_pairs(8)
    found = captured(tmp_path / "signals", pairs, max_length=14)
    found.check(pairs, max_length=14)
    found.check(pairs, max_length=13)
    with pytest.raises(
        ValueError, match=r"holds \d of 8 pairs of the pairs in part only, captured with a smaller max_length: row\d"
    ):
        found.check(pairs)
    long = max(pairs, key=positions_of)
    batch, where = batch_of([long])
    with pytest.raises(ValueError, match=r"to its first \d+ positions, where \d+ are wanted"):
        found.signals(batch, where, HEAD)
    captured(tmp_path / "signals", pairs).check(pairs)


def test_a_changed_shard_is_named_with_its_pair(tmp_path):
    found = captured(tmp_path / "signals", build_pairs(5))
    (path,) = shards_in(found.folder)
    data = bytearray(path.read_bytes())
    place = int(found.index._start[found.index.find(_key(build_pairs(5)[2]))[0]]) + 3
    data[place] ^= 1
    path.write_bytes(data)
    opened = StoredSignals(found.folder)
    batch, where = batch_of([build_pairs(5)[i] for i in (0, 1)])
    opened.signals(batch, where, HEAD)
    batch, where = batch_of([build_pairs(5)[i] for i in (1, 2)])
    batch["ids"] = ["row1", "row2"]
    with pytest.raises(
        ValueError,
        match=r"shard-0-00000.safetensors was changed after it was written: what it holds for pair row2 has not",
    ):
        opened.signals(batch, where, HEAD)


def _key(pair):
    import numpy as np

    from distill.pairs.signal_keys import key_of_pair

    return np.frombuffer(key_of_pair(pair), np.uint8).reshape(1, -1)


def test_folders_that_are_none_or_were_changed(stored, tmp_path):
    with pytest.raises(
        ValueError, match=r"nowhere is not there, so it is no folder of stored signals; `distill capture` makes one"
    ):
        StoredSignals(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no manifest.json"):
        StoredSignals(tmp_path)
    folder = tmp_path / "signals"
    shutil.copytree(stored.folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())

    def changed(**parts):
        (folder / "manifest.json").write_text(json.dumps({**manifest, **parts}))
        return pytest.raises(ValueError, match=r"manifest.json")

    with changed(encoding={**manifest["encoding"], "name": "top"}) as error:
        StoredSignals(folder)
    assert "was changed after it was written" in str(error.value)
    with changed(format=7) as error:
        StoredSignals(folder)
    assert "of format 7, from another version of distill; this one reads 1" in str(error.value)
    (folder / "manifest.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"manifest.json is damaged"):
        StoredSignals(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    StoredSignals(folder)
    head = (folder / "head.safetensors").read_bytes()
    (folder / "head.safetensors").write_bytes(head[:-1] + b"?")
    with pytest.raises(ValueError, match=r"head.safetensors was changed after it was written"):
        StoredSignals(folder).facts.transform()
    (folder / "head.safetensors").unlink()
    with pytest.raises(ValueError, match=r"head.safetensors cannot be read .* capture anew into another folder"):
        StoredSignals(folder).facts.transform()


@pytest.mark.parametrize("name", ["config.json", "tokenizer/tokenizer.json"])
def test_a_changed_config_or_tokenizer_is_refused(stored, tmp_path, name):
    folder = tmp_path / "signals"
    shutil.copytree(stored.folder, folder)
    StoredSignals(folder)
    text = (folder / name).read_text()
    (folder / name).write_text(text.replace("2", "3", 1))
    with pytest.raises(ValueError, match=rf"{name} was changed after it was written .* put back the file"):
        StoredSignals(folder)
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} is gone"):
        StoredSignals(folder)


def test_a_tokenizer_that_is_not_the_manifests_is_refused(stored, tmp_path):
    """Of a folder whose files have no checksums, as the first ones had none."""
    folder = tmp_path / "signals"
    shutil.copytree(stored.folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["record"]["files_crc32"], manifest[CHECKSUM]
    (folder / "manifest.json").write_text(json.dumps({**manifest, CHECKSUM: seal(manifest)}))
    StoredSignals(folder)
    other = build_tokenizer(special=["<|endoftext|>", "<|im_end|>", "<|im_start|>"])
    other.save_pretrained(folder / "tokenizer")
    with pytest.raises(
        ValueError, match=r"is another tokenizer \(\d+ tokens, .*\) than that of the signals \(\d+ tokens, "
    ):
        StoredSignals(folder)


def test_a_packed_row_names_the_pair_that_is_missing(stored):
    more = build_pairs(33)
    batch, where = batch_of([[more[0], more[31]], [more[2]]])
    batch["ids"] = ["row0, row31", "row2"]
    with pytest.raises(ValueError, match=r"holds not pair row31\."):
        stored.signals(batch, where, HEAD)
    batch["ids"] = ["row, 0, row31", "row2"]
    with pytest.raises(ValueError, match=r"holds not pair 1 \(from 0\) of the packed row of row, 0, row31\."):
        stored.signals(batch, where, HEAD)


def test_logits_are_the_teachers_in_an_autocast_of_the_students(stored):
    batch, where = batch_of([build_pairs(30)[1]])
    truth = live(teacher().model, batch, where)
    with torch.autocast("cpu", torch.bfloat16):
        found = stored.signals(batch, where, SignalRequest(head=HEAD.head, logits=True))
    assert found.logits.dtype == torch.float32
    torch.testing.assert_close(found.logits, truth.logits, rtol=1e-5, atol=1e-5)


def test_only_next_token_distributions_are_stored(stored):
    for ask in (
        lambda: stored.facts.widths(frozenset({0})),
        lambda: stored.facts.attention(frozenset({0})),
        stored.facts.attention_layers,
    ):
        with pytest.raises(
            ValueError,
            match=r"alone, and no (hidden states|attention); take HiddenStates and AttentionMaps out of objectives",
        ):
            ask()
    batch, where = batch_of([build_pairs(1)[0]])
    with pytest.raises(ValueError, match="no hidden states"):
        stored.signals(batch, where, SignalRequest(hidden=frozenset({1})))
    del batch["documents"]
    with pytest.raises(ValueError, match=r"PairCollator\(documents=True\)"):
        stored.signals(batch, where, HEAD)


def test_facts(stored):
    facts = stored.facts
    assert (facts.vocabulary, facts.next_token, facts.temperature, facts.model) == (320, "head", None, None)
    assert facts.find_tokenizer().get_vocab() == build_tokenizer().get_vocab()
    assert facts.config.num_hidden_layers == 2
    again = StoredSignals(stored.folder)
    assert again.identity(None) == stored.identity(None)
    assert stored.identity(None).startswith("stored hidden of LlamaForCausalLM of 2 layers in float32, weights ")
    assert "30 pairs" in repr(stored)
