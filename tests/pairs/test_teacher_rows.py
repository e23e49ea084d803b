"""What the teacher is shown: another prompt before the very completion, with the very labels, that the student has."""

import random

import pytest
import torch
from conftest import build_pairs, build_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.pairs.collate import EMPTY, IGNORE, PairCollator, in_arrays, supervised_rows, supervised_tokens
from distill.pairs.packing import pack_pairs
from distill.pairs.row_limits import RowLimits
from distill.pairs.schema import pairs_from_rows
from distill.pairs.signal_keys import key_of_pair

TOKENIZER = build_tokenizer()
WAYS = [
    {},
    {"padding_side": "left"},
    {"max_length": 14},
    {"max_length": 14, "padding_side": "left", "pad_to_multiple_of": 8},
    {"flatten_bins": True, "max_length": 40},
]
GOOD = {"id": "good", "prompt_ids": [5, 6], "completion_ids": [7, 8, 2]}


def rows_of(seed, count=9, shown="some"):
    """Pairs with and without prompts, masks, and teacher's prompts shorter and longer than theirs."""
    draw = random.Random(seed)
    rows = []
    for i, row in enumerate(build_pairs(count, seed=seed).to_list()):
        size = len(row["completion_ids"])
        if i % 4 == 3:
            row["prompt_ids"] = []
        if size < 3:
            row["completion_ids"] += [9, 10, 11]
            size += 3
        if i % 3 == 1:
            mask = [draw.randrange(2) for _ in range(size)]
            mask[1] = 1  # behind the first token, and before what any of these lengths cuts
            row["loss_mask"] = mask
        if (shown == "some" and i % 2) or shown == "all":
            row["teacher_prompt"] = "more"
            row["teacher_prompt_ids"] = [draw.randrange(3, 300) for _ in range(draw.randrange(1, 30))]
        if shown == "same":
            row["teacher_prompt"], row["teacher_prompt_ids"] = row["prompt"], row["prompt_ids"]
        rows.append(row)
    return rows


def learnable(rows, **way):
    """Those that `max_length` leaves a label."""
    collate, kept = PairCollator(TOKENIZER, **way), []
    for row in rows:
        try:
            collate([row])
        except ValueError:
            continue
        kept.append(row)
    assert len(kept) > 4
    return kept


def together(rows, way, **more):
    """A batch of all rows, in bins of three where the way flattens bins."""
    items = [rows[i : i + 3] for i in range(0, len(rows), 3)] if "flatten_bins" in way else rows
    return PairCollator(TOKENIZER, **way, **more)(items)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shown", ["none", "some", "all"])
def test_the_student_sees_what_it_saw_before(way, shown):
    """With teacher's rows or without: its own tensors are the same bits; and there are no others where no pair has a teacher's prompt."""
    rows = learnable(rows_of(1, shown=shown), **way)
    bare = together([{k: v for k, v in row.items() if not k.startswith("teacher_")} for row in rows], way)
    batch = together(rows, way, teacher_rows=True)
    assert batch.keys() - bare.keys() == (set() if shown == "none" else {f"teacher_{name}" for name in bare})
    assert all(torch.equal(batch[name], tensor) and batch[name].dtype == tensor.dtype for name, tensor in bare.items())
    assert together(rows, way).keys() == bare.keys(), "who does not ask for them gets none"


@pytest.mark.parametrize("way", WAYS)
def test_the_same_prompts_on_both_sides_give_the_same_tensors(way):
    rows = [row for row in learnable(rows_of(2, shown="same"), **way) if row["prompt_ids"]]
    batch = together(rows, way, teacher_rows=True)
    own = {name for name in batch if not name.startswith("teacher_")}
    assert {f"teacher_{name}" for name in own} == batch.keys() - own
    for name in own:
        assert torch.equal(batch[name], batch[f"teacher_{name}"]), name


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.sampled_from(WAYS))
def test_both_sides_have_the_same_supervised_tokens_in_the_same_order(seed, way):
    """Whatever is cut, masked, without a prompt, packed or padded; and each row is the naive one."""
    rows = learnable(rows_of(seed), **way)
    batch = together(rows, way, teacher_rows=True)
    own, shown = supervised_rows(batch["labels"]), supervised_rows(batch["teacher_labels"])
    assert torch.equal(own.sum(1), shown.sum(1)), "row by row"
    tokens = supervised_tokens(batch["labels"], own)
    assert torch.equal(tokens, supervised_tokens(batch["teacher_labels"], shown))
    assert torch.equal(tokens, batch["teacher_input_ids"][:, 1:][shown[:, :-1]]), "a label is the next token"
    ids, labels, positions = [], [], []
    for row in rows:  # the twin: by the words of the rule
        kept = row["completion_ids"][: max(way.get("max_length", 10**9) - len(row["prompt_ids"]), 0)]
        carries = [bool(m) for m in (row.get("loss_mask") or [1] * len(row["completion_ids"]))][: len(kept)]
        carries[0] = carries[0] and bool(row["prompt_ids"])
        before = row.get("teacher_prompt_ids") or row["prompt_ids"]
        ids += before + kept
        labels += [IGNORE] * len(before) + [i if c else IGNORE for i, c in zip(kept, carries, strict=True)]
        positions += range(len(before) + len(kept))
    if "attention_mask" in batch:
        there = batch["teacher_attention_mask"].bool()
    else:
        there = torch.ones_like(batch["teacher_labels"], dtype=torch.bool)
    assert batch["teacher_input_ids"][there].tolist() == ids
    assert batch["teacher_labels"][there].tolist() == labels
    assert (batch["teacher_labels"][~there] == IGNORE).all()
    if "position_ids" in batch:
        assert batch["teacher_position_ids"][there].tolist() == positions


@pytest.mark.parametrize("max_length", [16, 48])
def test_packed_bins_hold_the_rows_of_their_pairs(max_length):
    """Of each document, in its bin, the tokens and labels that it has alone."""
    pairs = pairs_from_rows(learnable(rows_of(3, 14), max_length=max_length), where="test")
    packed = pack_pairs(pairs, max_length)
    collate = PairCollator(TOKENIZER, max_length=max_length, teacher_rows=True)
    for bin_ in packed:
        batch = collate([bin_])
        alone = [collate([pair]) for pair in bin_]
        for name in ("input_ids", "labels"):
            whole = [one.get(f"teacher_{name}", one[name])[0] for one in alone]
            assert torch.equal(batch.get(f"teacher_{name}", batch[name])[0], torch.cat(whole))


@pytest.mark.parametrize("shown", ["some", "all"])
def test_a_dataset_gives_what_its_rows_give(shown):
    """Arrays in place of lists, and Arrow's null in place of no key; whole batches, as a loader reads them."""
    rows = learnable(rows_of(4, shown=shown))
    pairs = in_arrays(pairs_from_rows(rows, where="test"))
    assert isinstance(pairs[1]["teacher_prompt_ids"], list) == (shown == "some"), (
        "read as arrays where that can be done"
    )
    collate = PairCollator(TOKENIZER, teacher_rows=True, documents=True, columns=("teacher",))
    batch, expected = collate(pairs.__getitems__(list(range(len(pairs))))), collate(rows)
    for name in expected:
        same = torch.equal if isinstance(expected[name], torch.Tensor) else lambda a, b: a == b
        assert same(batch[name], expected[name]), name


BAD = {
    "no token": ([], "Pair bad: teacher_prompt_ids has no token.*or null"),
    "text": ("seven", "Pair bad: teacher_prompt_ids must be a list of token ids, not seven"),
    "floats": ([1.0, 2.5], "Pair bad: teacher_prompt_ids must be a list of token ids"),
    "below zero": ([7, -1], "Pair bad: teacher_prompt_ids must be a list of token ids"),
    "lists": ([[7], [8, 9]], "Pair bad: teacher_prompt_ids must be a list of token ids"),
    "too long": ([7] * 6, "Pair bad has 6 tokens in its teacher's prompt and 3 behind it, but the teacher has 8 positions"),
    "other tokens": ([320], "Pair bad has token id 320, but the teacher's vocabulary has 320 tokens"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_no_teacher_can_be_shown_is_refused_by_the_pairs_id(kind):
    shown, message = BAD[kind]
    limits = RowLimits(positions=8, vocabulary=320, whose="the teacher")
    collate = PairCollator(TOKENIZER, teacher_rows=True, teacher_limits=limits)
    with pytest.raises(ValueError, match=message):
        collate([GOOD, {**GOOD, "id": "bad", "teacher_prompt_ids": shown}])
    with pytest.raises(ValueError, match=message.replace("Pair bad", "Pair row 1 of the batch")):
        collate([GOOD, {k: v for k, v in GOOD.items() if k != "id"} | {"teacher_prompt_ids": shown}])


def test_each_sides_limits_are_of_its_own_row():
    """A student of few positions may learn from a teacher that was shown a long document, and the other way round."""
    collate = PairCollator(
        TOKENIZER,
        teacher_rows=True,
        limits=RowLimits(positions=6),
        teacher_limits=RowLimits(positions=12, whose="the teacher"),
    )
    row = {**GOOD, "teacher_prompt_ids": [7] * 9}
    assert collate([row])["teacher_input_ids"].shape == (1, 12)
    with pytest.raises(ValueError, match="10 tokens in its teacher's prompt"):
        collate([{**row, "teacher_prompt_ids": [7] * 10}])
    short = {**GOOD, "prompt_ids": [5] * 5, "teacher_prompt_ids": [7]}
    with pytest.raises(ValueError, match="Pair good has 8 tokens, but the model has 6 positions"):
        collate([short])
    bare = PairCollator(TOKENIZER, teacher_limits=RowLimits(positions=4, whose="the teacher"))
    with pytest.raises(ValueError, match="Pair good has 5 tokens, but the teacher has 4 positions; give max_length=4"):
        bare([{**GOOD, "teacher_prompt_ids": [7]}])


@pytest.mark.parametrize("way", WAYS)
def test_documents_say_whose_signals_and_how_many_of_them(way):
    rows = learnable(rows_of(5), **way)
    filler = [[EMPTY]] if "flatten_bins" in way else [EMPTY]
    items = ([rows[:3], rows[3:]] if "flatten_bins" in way else rows) + filler
    batch = PairCollator(TOKENIZER, **way, teacher_rows=True, documents=True, columns=("id", "sample"))(items)
    found = [one for documents in batch["documents"] for one in documents]
    assert [key for key, _ in found] == [key_of_pair(row) for row in rows]
    assert len({key for key, _ in found}) == len(rows)
    counts = [sum(count for _, count in documents) for documents in batch["documents"]]
    assert counts == supervised_rows(batch["labels"]).sum(1).tolist()
    assert [name for names in batch["columns"]["id"] for name in names] == [row["id"] for row in rows]
    assert [list(map(len, batch["columns"][name])) for name in ("id", "sample")] == [
        list(map(len, batch["documents"]))
    ] * 2, "what fills up a batch is nobody's document"


def test_the_positions_in_a_batch_are_the_first_of_the_whole_pair():
    """What was stored of a whole completion is read from its beginning on, with a mask and without a prompt, too."""
    for row in rows_of(6, 16, shown="all"):
        whole = PairCollator(TOKENIZER, teacher_rows=True)([row])
        tokens = supervised_tokens(whole["teacher_labels"], supervised_rows(whole["teacher_labels"])).tolist()
        for length in range(len(row["prompt_ids"]) + 3, len(row["prompt_ids"]) + len(row["completion_ids"])):
            cut = PairCollator(TOKENIZER, max_length=length, teacher_rows=True, documents=True)([row])
            found = supervised_tokens(cut["teacher_labels"], supervised_rows(cut["teacher_labels"])).tolist()
            assert found == tokens[: len(found)]
            assert cut["documents"] == [[(key_of_pair(row), len(found))]]


def test_a_column_that_a_teacher_reads_must_be_there():
    with pytest.raises(ValueError, match="Pair bad has no column source, which its teacher reads"):
        PairCollator(TOKENIZER, columns=("source",))([{**GOOD, "source": "a"}, {**GOOD, "id": "bad"}])


def test_what_is_read_is_said():
    assert PairCollator(TOKENIZER).reads == ("id", "prompt_ids", "completion_ids", "loss_mask")
    both = PairCollator(TOKENIZER, teacher_rows=True, columns=("source",)).reads
    assert both == ("id", "prompt_ids", "completion_ids", "loss_mask", "teacher_prompt_ids", "source")
    pairs = build_pairs(6).add_column("source", list("abcabc"))
    packed = pack_pairs(pairs, 40, columns=both)
    assert packed.pairs.column_names == ["id", "prompt_ids", "completion_ids", "source"]
