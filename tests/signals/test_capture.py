"""A capture: each pair once, through whatever interrupts it; nothing of another teacher, tokenizer or encoding beside it."""

import json
import os
import resource
import signal
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer, family, save_teacher, wait_until
from processes import run_processes, start_processes
from signal_runs import ENDLESS, batch_of, captured, contents, endless, live, share_of_a_capture, small_shards, teacher
from white_box_runs import fill

from distill.basics import processes
from distill.basics.disk import make_folder
from distill.models.adapters import add_adapter, lora_config
from distill.models.quantising import in_bits
from distill.pairs.collate import PairCollator, supervised_rows
from distill.pairs.packing import pack_pairs
from distill.pairs.row_limits import RowLimits
from distill.pairs.signal_keys import key_of_pair
from distill.signals import SignalRequest, StoredSignals, capture, shard_writer
from distill.signals.capturing import _check_written
from distill.signals.shards import shards_in
from distill.signals.teacher_rows import as_tables, layout, rows_of, teachers_pairs
from distill.teachers import LocalTeacher


@pytest.fixture(autouse=True)
def usual_shards():
    before = shard_writer.SHARD_BYTES
    yield
    shard_writer.SHARD_BYTES = before


def shown(pairs, prompts):
    """The pairs with what their teacher was shown; None: the prompt."""
    return pairs.add_column("teacher_prompt_ids", prompts)


@pytest.fixture
def asked():
    """A teacher that counts the rows of its forward passes."""
    made = teacher()
    made.seen = Counter()

    def count(module, args, kwargs):
        made.seen["rows"] += len(kwargs["input_ids"])
        made.seen["passes"] += 1
        made.seen["most"] = max(made.seen["most"], kwargs["input_ids"].numel())

    made.model.register_forward_pre_hook(count, with_kwargs=True)
    return made


def test_each_pair_is_run_once_whatever_comes_again(tmp_path, asked):
    pairs, folder = build_pairs(30), tmp_path / "signals"
    captured(folder, pairs, asked)
    assert asked.seen["rows"] == 30 + 2, "and two probes of the head"
    before = contents(folder)
    captured(folder, pairs, asked)
    assert asked.seen["rows"] == 32 + 2
    more = build_pairs(40)
    captured(folder, more.shuffle(seed=1), asked)
    assert asked.seen["rows"] == 34 + 10 + 2
    assert {key: value for key, value in contents(folder).items() if key in before} == before
    StoredSignals(folder).check(more)


def test_pairs_that_are_there_twice_are_run_once(tmp_path, asked):
    from datasets import concatenate_datasets

    pairs = build_pairs(10)
    found = captured(tmp_path / "signals", concatenate_datasets([pairs, pairs]), asked)
    assert (len(found), asked.seen["rows"]) == (10, 12)


def test_a_longer_max_length_captures_what_was_cut(tmp_path, asked):
    pairs, folder = build_pairs(12), tmp_path / "signals"
    captured(folder, pairs, asked, max_length=14)
    before = asked.seen["rows"]
    lengths = [len(pair["prompt_ids"]) + len(pair["completion_ids"]) for pair in pairs]
    found = captured(folder, pairs, asked)
    assert asked.seen["rows"] - before - 2 == sum(length > 14 for length in lengths) > 3
    found.check(pairs)
    assert len(found) == 12
    batch, where = batch_of(list(pairs))
    said = found.signals(batch, where, SignalRequest(logits=True))
    torch.testing.assert_close(said.logits, live(asked.model, batch, where).logits, rtol=1e-4, atol=1e-4)


def test_batches_keep_to_their_tokens_and_hold_every_pair_once(tmp_path, asked):
    lengths = np.random.default_rng(0).integers(1, 400, 9000).astype(np.int32)
    seen = []
    for batch in layout(lengths, 512):
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= 512
        seen += batch.tolist()
    assert sorted(seen) == list(range(9000))
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in layout(lengths, 512))
    assert padded < 1.05 * lengths.sum()
    captured(tmp_path / "signals", asked=asked, batch_tokens=60)
    assert asked.seen["most"] <= 60
    assert asked.seen["passes"] > 5


def test_batches_and_their_order_change_no_draw(tmp_path):
    """What is drawn depends on the pair alone; one float32 rounding of logits may move a draw that lies at its edge."""
    pairs = build_pairs(30)
    one, other = (
        contents(captured(tmp_path / str(tokens), some, encoding="draws:8", batch_tokens=tokens).folder)
        for tokens, some in ((30, pairs), (900, pairs.shuffle(seed=3)))
    )
    assert one.keys() == other.keys()
    assert sum(one[key] == other[key] for key in one) >= 28


@pytest.mark.parametrize("seed", range(3))
def test_keys_positions_and_lengths_are_those_of_the_collator(seed):
    """Of tables, many at once, as of each pair by itself: masks, teacher prompts, students without a prompt, cut or not."""
    draw = np.random.default_rng(seed)
    pairs, masks, prompts = build_pairs(60, seed), [], []
    students = [[] if draw.random() < 0.2 else ids for ids in pairs["prompt_ids"][:]]
    for completion in pairs["completion_ids"][:]:
        mask = draw.integers(0, 2, len(completion))
        mask[-1] = 1
        masks.append(None if draw.random() < 0.4 else mask.tolist())
        prompts.append(None if draw.random() < 0.4 else draw.integers(3, 300, draw.integers(1, 30)).tolist())
    pairs = shown(
        pairs.remove_columns("prompt_ids").add_column("prompt_ids", students).add_column("loss_mask", masks), prompts
    )
    for max_length in (None, 20):
        useful = [i for i, pair in enumerate(pairs) if _positions(pair, max_length)]
        some = pairs.select(useful)
        found = rows_of(some, max_length, RowLimits())
        assert [key.tobytes() for key in found.keys] == [key_of_pair(pair) for pair in some]
        assert found.positions.tolist() == [_positions(pair, max_length) for pair in some]
        batch = PairCollator(build_tokenizer())(
            made := teachers_pairs(as_tables(some), np.arange(len(some)), max_length)
        )
        assert batch["attention_mask"].sum(1).tolist() == found.lengths.tolist()
        assert supervised_rows(batch["labels"]).sum(1).tolist() == found.positions.tolist()
        for pair, row in zip(some, made, strict=True):
            theirs = pair["prompt_ids"] if pair["teacher_prompt_ids"] is None else pair["teacher_prompt_ids"]
            assert row["prompt_ids"].tolist() == theirs
    assert len(useful) > 30


def _positions(pair, max_length):
    try:
        labels = PairCollator(build_tokenizer(), max_length=max_length)([pair])["labels"]
    except ValueError:
        return 0
    return int(supervised_rows(labels).sum())


def test_a_column_in_which_all_is_null_is_none(tmp_path):
    pairs = build_pairs(4)
    empty = pairs.add_column("loss_mask", [None] * 4).add_column("teacher_prompt_ids", [None] * 4)
    empty = empty.add_column("teacher_prompt", [None] * 4)
    captured(tmp_path / "signals", empty)
    captured(tmp_path / "plain", pairs)
    assert contents(tmp_path / "signals") == contents(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"Pair row0 has no prompt_ids \(null\)"):
        captured(tmp_path / "other", pairs.remove_columns("prompt_ids").add_column("prompt_ids", [None] * 4))


def test_a_key_of_a_teachers_prompt_in_words_alone_is_refused():
    pair = {**build_pairs(1)[0], "teacher_prompt": "Look at this."}
    with pytest.raises(ValueError, match=r"Pair row0 has a teacher_prompt without teacher_prompt_ids"):
        key_of_pair(pair)
    key_of_pair({**pair, "teacher_prompt_ids": [4]})


def test_a_tokenizer_with_several_templates_is_kept_whole(tmp_path):
    asked = teacher()
    asked.tokenizer.chat_template = {"default": "{{ messages[0]['content'] }}", "tool_use": "{{ 1 }}"}
    found = captured(tmp_path / "signals", build_pairs(3), asked)
    assert found.tokenizer.chat_template == asked.tokenizer.chat_template
    assert (tmp_path / "signals" / "tokenizer" / "additional_chat_templates").is_dir()


def test_the_teacher_is_shown_its_own_prompt(tmp_path):
    pairs = shown(build_pairs(5), [[5, 6, 7, 8], None, [9], None, [4, 4]])
    found = captured(tmp_path / "signals", pairs)
    rows = [{**pair, "prompt_ids": pair["teacher_prompt_ids"] or pair["prompt_ids"]} for pair in pairs]
    batch, where = batch_of(rows)
    truth = live(teacher().model, batch, where)
    said = found.signals(
        {**batch, "documents": batch_of(list(pairs))[0]["documents"]}, where, SignalRequest(logits=True)
    )
    torch.testing.assert_close(said.logits, truth.logits, rtol=1e-4, atol=1e-4)


BAD = {
    "words without tokens": (
        lambda: build_pairs(3).add_column("teacher_prompt", [None, "Look at this.", None]),
        r"the pairs: 1 of 3 pairs have a teacher_prompt without teacher_prompt_ids, its tokens, the first is row 1 \(pair row1\)",
    ),
    "words, and tokens of other rows": (
        lambda: shown(build_pairs(3), [[7], None, None]).add_column("teacher_prompt", ["a", None, "b"]),
        r"the first is row 2 \(pair row2\); load_pairs",
    ),
    "no prompt": (
        lambda: _with(build_pairs(3), "prompt_ids", [[3], None, [4]]),
        r"Pair row1 has no prompt_ids \(null\)",
    ),
    "no completion ids": (
        lambda: _with(build_pairs(3), "completion_ids", [[3], [4], None]),
        r"Pair row2 has no completion_ids \(null\)",
    ),
    "too long, without ids": (
        lambda: _with(build_pairs(3), "completion_ids", [[3], [4], [5] * 130]).remove_columns("id"),
        r"Pair number 2 has 1\d\d tokens",
    ),
    "too long": (
        lambda: shown(build_pairs(3), [None, [7] * 125, None]),
        r"Pair row1 has 125 tokens in its teacher's prompt and \d+ behind it, but the teacher has 128 positions; shorten the",
    ),
    "too long by itself": (
        lambda: _with(build_pairs(3), "prompt_ids", [[3], [3], [4] * 130]),
        r"Pair row2 has 1\d\d tokens, but the teacher has 128 positions; give max_length=128 or less",
    ),
    "unknown token": (
        lambda: shown(build_pairs(3), [None, None, [7, 320, 7]]),
        r"Pair row2 has token id 320, but the teacher's vocabulary has 320 tokens",
    ),
    "unknown token of the completion": (
        lambda: _with(build_pairs(3), "completion_ids", [[3], [999], [4]]),
        r"Pair row1 has token id 999",
    ),
    "empty teacher prompt": (
        lambda: shown(build_pairs(3), [None, [], None]),
        r"Pair row1 has an empty teacher_prompt_ids",
    ),
    "no completion": (
        lambda: _with(build_pairs(3), "completion_ids", [[3], [], [4]]),
        r"Pair row1 has no token to learn from: \d+ prompt tokens, 0 completion tokens, max_length None",
    ),
    "masked": (
        lambda: build_pairs(1).add_column("loss_mask", [[0] * len(build_pairs(1)[0]["completion_ids"])]),
        r"Pair row0 has no token to learn from: .* not all of them with loss",
    ),
    "mask of another length": (lambda: build_pairs(1).add_column("loss_mask", [[1, 0, 1]]), r"loss_mask has 3 places"),
    "mask of other numbers": (
        lambda: build_pairs(1).add_column("loss_mask", [[7] * len(build_pairs(1)[0]["completion_ids"])]),
        "loss_mask must be lists of 0 and 1",
    ),
    "negative ids": (lambda: _with(build_pairs(2), "prompt_ids", [[3], [-1]]), "must be lists of token ids"),
    "a list": (lambda: list(build_pairs(2)), r"These are no pairs but a list; distill.load_pairs"),
    "text": (lambda: build_pairs(2).remove_columns("prompt_ids"), r"there is no column prompt_ids"),
    "none": (lambda: build_pairs(2).select([]), "There are no pairs"),
}


def _with(pairs, column, values):
    return pairs.remove_columns(column).add_column(column, values)


@pytest.mark.parametrize("name", BAD)
def test_pairs_that_cannot_be_captured_are_refused_by_their_id_before_anything_is_run(tmp_path, asked, name):
    make, said = BAD[name]
    with pytest.raises(ValueError, match=said):
        captured(tmp_path / "signals", make(), asked)
    assert not asked.seen
    assert not (tmp_path / "signals").exists()


def test_student_tokens_that_the_teacher_never_sees_may_be_unknown_to_it(tmp_path):
    pairs = shown(_with(build_pairs(2), "prompt_ids", [[3], [900]]), [None, [7]])
    assert len(captured(tmp_path / "signals", pairs)) == 2


def test_signals_of_another_teacher_tokenizer_precision_or_encoding_are_refused_with_both_values(tmp_path):
    folder = tmp_path / "signals"
    captured(folder)
    there = json.loads((folder / "manifest.json").read_text())
    half = teacher()
    half.model.to(torch.bfloat16)
    other = LocalTeacher(build_model(), build_tokenizer(special=["<|endoftext|>", "<|im_end|>", "<|im_start|>"]))
    for changes, said in (
        ({"asked": teacher(seed=1)}, f"teacher.weights: '{there['teacher']['weights']}' there, '"),
        ({"asked": half}, "teacher.dtype: 'torch.float32' there, 'torch.bfloat16' now"),
        ({"asked": teacher(layers=3)}, "teacher.layers: 2 there, 3 now"),
        ({"asked": other}, f"tokenizer: '{there['tokenizer']}' there, '308 tokens, "),
        ({"encoding": "threshold"}, "encoding.name: 'hidden' there, 'threshold' now"),
        ({"encoding": "hidden:8"}, "encoding.settings.bits: None there, 8 now"),
    ):
        with pytest.raises(ValueError, match=r"holds other signals") as error:
            captured(folder, **changes)
        assert said in str(error.value)
    captured(tmp_path / "top", encoding="top", temperature=1.0)
    with pytest.raises(ValueError, match=r"temperature: 1.0 there, 2.0 now"):
        captured(tmp_path / "top", encoding="top", temperature=2.0)


def test_folders_that_hold_something_else(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file; give a folder"):
        captured(tmp_path / "file")
    make_folder(tmp_path / "mine")
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"holds other files \(thesis.tex\); give another output"):
        captured(tmp_path / "mine")
    captured(tmp_path / "half")
    (tmp_path / "half" / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"holds shards without a manifest.json"):
        captured(tmp_path / "half")


def test_a_start_that_was_killed_before_its_manifest_is_begun_anew(tmp_path):
    folder = tmp_path / "signals"
    captured(folder)
    wanted = contents(folder)
    (folder / "manifest.json").unlink()
    (folder / "head.safetensors").write_bytes(b"half of it")
    (folder / "shard-0-00000.safetensors").rename(folder / "shard-0-00000.safetensors.part")
    captured(folder)
    assert contents(folder) == wanted
    assert not list(folder.glob("*.part"))
    assert StoredSignals(folder).facts.transform()


def test_damaged_shards_are_set_aside_and_their_rows_captured_again(tmp_path, capsys):
    small_shards()
    folder = tmp_path / "signals"
    captured(folder, batch_tokens=60)
    wanted, paths = contents(folder), shards_in(folder)
    assert len(paths) > 3
    data = bytearray(paths[1].read_bytes())
    paths[0].write_bytes(paths[0].read_bytes()[:700])
    with pytest.raises(ValueError, match=rf"{paths[0].name} is damaged .* `distill capture` with the same settings"):
        StoredSignals(folder)
    captured(folder, batch_tokens=60)
    assert contents(folder) == wanted
    assert (
        "It is set aside as shard-0-00000.safetensors.damaged, and its rows are captured again."
        in capsys.readouterr().err
    )
    start = StoredSignals(folder).index._start
    data[int(start.min()) + 5] ^= 1  # a byte of a row, which opening does not read
    paths[1].write_bytes(data)
    captured(folder, batch_tokens=60)
    with pytest.raises(ValueError, match="has not its checksum"):
        contents(folder)
    captured(folder, batch_tokens=60, verify=True)
    assert contents(folder) == wanted
    assert "shard-0-00001.safetensors has rows that were changed. It is set aside" in capsys.readouterr().err


def test_two_writers_at_once(tmp_path, asked):
    folder, told = tmp_path / "signals", []

    def meanwhile(*_):
        if (folder / "manifest.json").exists() and not told:
            with pytest.raises(ValueError, match=r"is being written by another process; wait for it") as error:
                captured(folder)
            told.append(error)

    asked.model.register_forward_pre_hook(meanwhile)
    captured(folder, asked=asked)
    assert told
    captured(folder)


def test_a_reader_beside_a_writer_sees_whole_shards(tmp_path, asked):
    small_shards(1)
    folder, seen = tmp_path / "signals", []

    def look(*_):
        if shards_in(folder):
            seen.append(len(contents(folder)))

    asked.model.register_forward_pre_hook(look)
    captured(folder, asked=asked, batch_tokens=60)
    assert seen == sorted(seen)
    assert 0 < seen[0] < seen[-1] < 30


def test_a_full_disk_keeps_what_is_whole_and_the_next_call_goes_on(tmp_path):
    small_shards()
    wanted = contents(captured(tmp_path / "whole").folder)
    folder, before = tmp_path / "signals", resource.getrlimit(resource.RLIMIT_FSIZE)
    captured(folder, build_pairs(2))
    there, handler = len(contents(folder)), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(OSError, match=r"could not write .*shard-0-00001.safetensors \(File too large\)"):
            captured(folder, batch_tokens=100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert len(contents(folder)) == there
    captured(folder)
    assert contents(folder).keys() == wanted.keys()


def test_ctrl_c_keeps_what_is_done(tmp_path, asked):
    def stop(*_):
        if asked.seen["rows"] > 15:
            raise KeyboardInterrupt

    asked.model.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        captured(tmp_path / "signals", asked=asked, batch_tokens=60)
    assert len(contents(tmp_path / "signals")) >= 10


def test_several_processes_share_a_capture_and_end_with_the_rows_of_one(tmp_path):
    wanted = contents(captured(tmp_path / "one", batch_tokens=60).folder)
    assert run_processes(2, share_of_a_capture, tmp_path / "two", 30, 60) == [30, 30]
    assert contents(tmp_path / "two") == wanted
    places = {path.name.split("-")[1] for path in shards_in(tmp_path / "two")}
    assert places == {"0", "1"}
    assert run_processes(3, share_of_a_capture, tmp_path / "two", 36, 60) == [36] * 3
    assert contents(tmp_path / "two").items() >= wanted.items()


def one_of_two(patch, rank, told=None):
    """This process is one of two, and the other says `told`, or what this one says."""
    patch.setattr(processes, "count", lambda: 2)
    patch.setattr(processes, "rank", lambda: rank)
    patch.setattr(processes, "from_all", lambda value: [value, value if told is None else told])


def test_a_capture_waits_for_all_processes_of_one_whose_first_has_failed(tmp_path, asked):
    folder, told = tmp_path / "signals", []
    captured(folder, build_pairs(4))

    def meanwhile(*_):
        if told or asked.seen["rows"] <= 2:  # the probes of its head come first
            return
        patch.undo()
        with pytest.raises(ValueError, match=r"is being written by another process; wait for it"):
            captured(folder)
        one_of_two(patch, 1)
        told.append(True)

    with pytest.MonkeyPatch.context() as patch:
        one_of_two(patch, 1)
        asked.model.register_forward_pre_hook(meanwhile)
        captured(folder, asked=asked, share=True, batch_tokens=60)  # no lock of a first process is held
    assert told
    captured(folder)


def test_folders_that_are_not_shared_are_told_before_anything_is_run(tmp_path, asked):
    with pytest.MonkeyPatch.context() as patch:
        one_of_two(patch, 1)
        with pytest.raises(
            ValueError, match=r"signals of process 1 is not that of process 0, .* no manifest.json is there"
        ):
            captured(tmp_path / "signals", asked=asked, share=True)
        assert asked.seen["rows"] == 2, "the probes of its head"
        captured_alone = teacher(seed=3)
        patch.undo()
        captured(tmp_path / "other", build_pairs(3), captured_alone)
        one_of_two(patch, 1)
        with pytest.raises(ValueError, match=r"holds other signals \(teacher.weights"):
            captured(tmp_path / "other", build_pairs(3), share=True)
        one_of_two(patch, 0, told=["shard-1-00000.safetensors"])
        with pytest.raises(ValueError, match=r"is not one folder: process 0 does not see all shards"):
            _check_written(tmp_path / "other", [])


def test_what_a_server_says_last_loses_no_row(tmp_path, asked):
    """An error of the teacher's that is an OSError is none of the disk's."""

    def gone(*_):
        if asked.seen["rows"] > 15:
            raise ConnectionError("the socket is closed")

    asked.model.register_forward_pre_hook(gone)
    with pytest.raises(ConnectionError):
        captured(tmp_path / "signals", asked=asked, batch_tokens=60)
    assert len(contents(tmp_path / "signals")) >= 10


@pytest.mark.parametrize(("part", "value"), [("weight", torch.nan), ("weight", -torch.inf), ("bias", torch.nan)])
def test_a_head_that_is_not_finite_is_not_stored(tmp_path, part, value):
    asked = LocalTeacher(family("phi"), build_tokenizer())
    with torch.no_grad():
        getattr(asked.model.get_output_embeddings(), part)[7] = value
    with pytest.raises(ValueError, match=r"head of .* (has weights that are not finite, the first|is nan) for token 7"):
        captured(tmp_path / "signals", build_pairs(3), asked)
    assert not (tmp_path / "signals").exists()


def test_what_is_wrong_with_a_folder_is_told_by_every_process(tmp_path):
    captured(tmp_path / "signals", encoding="top")
    with pytest.raises(AssertionError, match=r"encoding.name: 'top' there, 'hidden' now"):
        run_processes(2, share_of_a_capture, tmp_path / "signals")


def test_a_killed_capture_goes_on_to_the_rows_of_an_unbroken_one(tmp_path):
    """scripts/kill_capturing.py kills it thirty times."""
    folder = tmp_path / "signals"
    seen = []
    for _ in range(3):
        _, (process,) = start_processes(1, endless, folder)
        goal = (seen[-1] if seen else 0) + 3
        wait_until(lambda goal=goal: len(shards_in(folder)) >= goal)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        seen.append(len(shards_in(folder)))
        contents(folder)
    assert seen == sorted(seen)
    small = build_pairs(ENDLESS)
    found = captured(folder, small, batch_tokens=40)
    wanted = contents(captured(tmp_path / "whole", small, batch_tokens=40).folder)
    assert contents(folder) == wanted
    assert seen[-1] < len(shards_in(folder)), "each was killed before its end"
    assert sum(map(len, _keys_by_shard(folder))) == len(found) == len(wanted), "no pair twice"


def _keys_by_shard(folder):
    from distill.signals.shards import read_shard

    return [read_shard(path).keys for path in shards_in(folder)]


def test_teachers_of_every_kind(tmp_path):
    """A name, a loaded model that says where it came from, an adapter, packed pairs."""
    save_teacher(tmp_path / "model")
    pairs = build_pairs(6)
    by_name = capture(str(tmp_path / "model"), pairs, output=tmp_path / "name", progress=False)
    from distill.models.load import load_model

    loaded = capture(
        load_model(tmp_path / "model", dtype=by_name_dtype(by_name)),
        pack_pairs(pairs, 60),
        output=tmp_path / "loaded",
        progress=False,
    )
    assert contents(loaded.folder) == contents(by_name.folder)
    with pytest.raises(ValueError, match=r"its tokenizer is not known; give capture\(LocalTeacher\(model, tokenizer\)"):
        capture(build_model(), pairs, output=tmp_path / "bare", progress=False)
    adapted = fill(add_adapter(build_model(), lora_config(4), 0))
    found = captured(tmp_path / "adapted", pairs, LocalTeacher(adapted, build_tokenizer()))
    batch, where = batch_of(list(pairs))
    said = found.signals(batch, where, SignalRequest(logits=True)).logits
    with torch.no_grad():
        whole = adapted.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(said, where.take(whole), rtol=1e-4, atol=1e-4)
    assert "adapters" in found.manifest["teacher"]
    with pytest.raises(ValueError, match=r"teacher.adapters"):
        captured(tmp_path / "adapted", pairs, LocalTeacher(build_model(), build_tokenizer()))


def by_name_dtype(found):
    return getattr(torch, found.manifest["teacher"]["dtype"].removeprefix("torch."))


def test_a_head_that_is_no_matrix_product(tmp_path):
    """An adapter on the head: its input does not give the logits, and the logits themselves are encoded."""
    adapted = fill(add_adapter(build_model(), lora_config(4, targets="q_proj,lm_head"), 0))
    asked = LocalTeacher(adapted, build_tokenizer())
    with pytest.raises(
        ValueError,
        match=r"The head of .* is no plain matrix product .* choose another encoding: threshold, draws or top",
    ):
        captured(tmp_path / "hidden", asked=asked)
    pairs = build_pairs(4)
    found = captured(tmp_path / "top", pairs, asked, encoding="top:320")
    batch, where = batch_of(list(pairs))
    said = found.signals(batch, where, SignalRequest()).sparse
    with torch.no_grad():
        whole = adapted.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    truth = where.take(whole).log_softmax(-1).gather(1, said.ids)
    torch.testing.assert_close(said.log_probs, truth, rtol=1e-2, atol=1e-2)


def test_a_quantised_teacher(tmp_path):
    save_teacher(tmp_path / "model")
    asked = LocalTeacher(tmp_path / "model", quantization_config=in_bits(8), dtype=torch.float32)
    pairs = build_pairs(6)
    found = captured(tmp_path / "signals", pairs, asked)
    assert found.manifest["teacher"]["quantisation"]["load_in_8bit"]
    batch, where = batch_of(list(pairs))
    said, truth = found.signals(batch, where, SignalRequest(logits=True)), live(asked.model, batch, where)
    torch.testing.assert_close(said.logits.float(), truth.logits.float(), rtol=0.1, atol=0.1)
    plain = LocalTeacher(tmp_path / "model", dtype=torch.float32)
    with pytest.raises(ValueError, match=r"teacher.quantisation.load_in_8bit: True there, None now"):
        captured(tmp_path / "signals", pairs, plain)


def test_teachers_that_cannot_be_captured(tmp_path):
    with torch.device("meta"):
        empty = type(build_model())(build_model().config)
    with pytest.raises(ValueError, match=r"The teacher has no weights: \d+ of its parameters are on the meta device"):
        captured(tmp_path / "meta", asked=LocalTeacher(empty, build_tokenizer()))
    broken = teacher()
    broken.model.model.norm.weight.data[:] = float("nan")
    with pytest.raises(
        ValueError, match=r"not finite at supervised position 0 of document 0 of the batch.* The batch holds row\d"
    ):
        captured(tmp_path / "nan", asked=broken)
    with pytest.raises(ValueError, match=r"batch_tokens is 0; it must be at least 1"):
        captured(tmp_path / "zero", batch_tokens=0)
    with pytest.raises(ValueError, match=r"max_length is 0; it must be at least 1"):
        captured(tmp_path / "zero", max_length=0)


def test_models_of_other_families_and_modes_are_left_as_they_were(tmp_path):
    model = family("gpt2").train()
    captured(tmp_path / "signals", build_pairs(4), LocalTeacher(model, build_tokenizer()))
    assert model.training
    assert all(p.grad is None for p in model.parameters())
