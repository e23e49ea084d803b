"""Rows with a teacher's prompt in a trainer: looked at before any step, part of what a run is, and nothing to a black box."""

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from datasets import Dataset, List, Value

from distill import BlackBoxTrainer
from distill.pairs.collate import PairCollator
from distill.pairs.packing import pack_pairs
from distill.pairs.row_limits import RowLimits
from distill.pairs.schema import pairs_from_rows
from distill.trainers.base import PairTrainer
from distill.trainers.identity import describe_rows, run_settings
from distill.trainers.shown_checks import check_shown

TOKENIZER = build_tokenizer()
LIMITS = RowLimits(positions=64, vocabulary=320, whose="the teacher")


def with_prompts(pairs=None, shown=None):
    """Pairs of which every second has a teacher's prompt of 20 tokens, or what `shown` says by row."""
    rows = (pairs or build_pairs()).to_list()
    for i, row in enumerate(rows):
        ids = (shown or {}).get(i, [3 + i] * 20 if i % 2 and not shown else None)
        if ids is not None:
            row |= {"teacher_prompt": "more", "teacher_prompt_ids": ids}
    return pairs_from_rows(rows, where="test")


class Looking(PairTrainer):
    """A trainer that has teacher's rows made, and keeps the batches it got."""

    collated = {"teacher_rows": True, "columns": ("source",)}  # noqa: RUF012

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.seen = getattr(self, "seen", [])
        self.seen.append({name: inputs.pop(name) for name in list(inputs) if name.startswith(("teacher_", "columns"))})
        return super().compute_loss(model, inputs, *args, **kwargs)


def trainer(arguments, pairs, kind=Looking, **changes):
    settings = {"model": build_model(), "args": arguments(), "processing_class": TOKENIZER}
    return kind(**{**settings, "train_dataset": pairs, **changes})


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("own", [None, PairCollator(TOKENIZER, max_length=48)])
def test_a_trainer_that_asks_for_teachers_rows_gets_them(arguments, packing, own):
    """Trainer removes columns that no model reads; packing keeps the ones it needs; a collator of the user's is told, too."""
    pairs = with_prompts().add_column("source", list("abcdefghijkl"))
    run = trainer(arguments, pairs, packing=packing, max_length=48, data_collator=own)
    run.train()
    assert len(run.seen) == 4
    assert any("teacher_input_ids" in batch for batch in run.seen)
    assert all(len(name) == 1 for batch in run.seen for row in batch["columns"]["source"] for name in row)
    assert own is None or not own.teacher_rows, "the user's own is left alone"


def test_a_column_that_a_teacher_reads_is_asked_for_before_any_step(arguments):
    with pytest.raises(ValueError, match="train_dataset has no column source, which the teacher reads"):
        trainer(arguments, with_prompts())


BAD = {
    "no token": ({3: []}, r"1 of 12 pairs have teacher_prompt_ids without a token, the first is row 3 \(pair row3\)"),
    "too long": ({3: [5] * 60}, r"row 3 \(pair row3\) has 60 tokens in its teacher's prompt and \d+ behind it, but the teacher has 64"),
    "other tokens": ({3: [320]}, "train_dataset has token id 320, but the teacher's vocabulary has 320 tokens"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_rows_are_found_at_once_and_one_by_one(kind):
    """Over the whole table, and by the collator: the same are refused."""
    shown, message = BAD[kind]
    pairs = with_prompts(shown=shown)
    with pytest.raises(ValueError, match=message):
        check_shown(pairs, "train_dataset", None, LIMITS)
    check_shown(pairs, "train_dataset", None, LIMITS, own_rows=False)
    collate = PairCollator(TOKENIZER, teacher_rows=True, teacher_limits=LIMITS)
    for i, pair in enumerate(pairs):
        if i != 3:
            collate([pair])
    with pytest.raises(ValueError, match="Pair row3"):
        collate([pairs[3]])


@pytest.mark.parametrize("max_length", [None, 20, 26])
@pytest.mark.parametrize("positions", range(18, 52, 3))
def test_the_length_of_a_teachers_row_is_that_of_its_batch(max_length, positions):
    """What `max_length` cuts is not shown to the teacher; a table and a collator agree on which rows are too long."""
    limits = RowLimits(positions=positions, whose="the teacher")
    collate = PairCollator(TOKENIZER, max_length=max_length, teacher_rows=True, teacher_limits=limits)

    def refused(function, *args):
        try:
            function(*args)
        except ValueError as error:
            return "positions" in str(error)
        return False

    pairs = with_prompts()
    one_by_one = [refused(collate, [pair]) for pair in pairs]
    alone = [refused(check_shown, pairs.select([i]), "rows", max_length, limits) for i in range(len(pairs))]
    assert alone == one_by_one
    assert refused(check_shown, pairs, "rows", max_length, limits) == any(one_by_one)


def test_a_column_of_another_type_is_refused():
    pairs = build_pairs(2).add_column("teacher_prompt_ids", ["a", "b"])
    with pytest.raises(ValueError, match="teacher_prompt_ids is a column of string; it must be one of lists"):
        check_shown(pairs, "train_dataset", None, LIMITS)
    none = build_pairs(2).add_column("teacher_prompt_ids", [None, None])
    check_shown(none, "train_dataset", None, LIMITS)
    null = build_pairs(2).add_column("teacher_prompt_ids", [None, None], feature=List(Value("int32")))
    check_shown(null, "train_dataset", None, LIMITS)


def test_limits_of_the_teacher_are_not_the_students(arguments):
    """A document that fits the teacher only; and a later look, when the limits are known."""
    pairs = with_prompts(shown={3: [5] * 140}).add_column("source", list("abcdefghijkl"))
    run = trainer(arguments, pairs)
    assert run.data_collator.limits.positions == 128
    run.limit_rows(RowLimits(positions=300, whose="the teacher"), of_teacher=True)
    assert (run.row_limits.positions, run.teacher_limits.positions) == (128, 300)
    assert (run.data_collator.limits.positions, run.data_collator.teacher_limits.positions) == (128, 300)
    with pytest.raises(ValueError, match="row 3.* has 140 tokens in its teacher's prompt"):
        run.limit_rows(RowLimits(positions=100, whose="the teacher"), of_teacher=True)


def test_a_run_is_known_by_what_its_teacher_was_shown(arguments):
    """Runs of earlier versions go on: without such a column the words are the very same."""
    pairs = build_pairs(12)
    assert describe_rows(pairs) == "12 rows, sha256 f2b494f50221ae4c"
    masked = pairs.add_column("loss_mask", [[1] * len(ids) for ids in pairs["completion_ids"]])
    assert describe_rows(masked) == "12 rows, sha256 0f398ef9b9609bd7"
    shown, other = with_prompts(pairs), with_prompts(pairs, shown={1: [9], 3: [10]})
    swapped = with_prompts(pairs, shown={3: [9], 5: [10]})
    assert len({describe_rows(one) for one in (pairs, shown, other, swapped)}) == 4
    source = [pairs.add_column("source", list(letters)) for letters in ("abcdefghijkl", "bacdefghijkl")]
    found = [run_settings(trainer(arguments, one))["pairs"] for one in source]
    assert found[0] != found[1], "a column that a teacher reads"
    black = [run_settings(trainer(arguments, one, kind=BlackBoxTrainer))["pairs"] for one in (pairs, shown, *source)]
    assert set(black) == {describe_rows(pairs)}, "a black box reads none of these"


@pytest.mark.parametrize("packing", [False, True])
def test_to_a_black_box_it_is_nothing(arguments, packing):
    """SFT on the student's prompt and the completion: the same bits with a teacher's prompt beside them, a bad one, too."""
    ends = []
    for pairs in (build_pairs(), with_prompts(), with_prompts(shown={1: [], 3: [10**6] * 500})):
        run = trainer(arguments, pairs, kind=BlackBoxTrainer, packing=packing, max_length=48)
        run.train()
        ends.append(run.model.state_dict())
    assert not torch.equal(ends[0]["lm_head.weight"], build_model().state_dict()["lm_head.weight"])
    for other in ends[1:]:
        assert all(torch.equal(tensor, other[name]) for name, tensor in ends[0].items())


def test_packed_pairs_that_were_made_by_hand_keep_it():
    packed = pack_pairs(with_prompts(), 40)
    assert "teacher_prompt_ids" in packed.pairs.column_names


def test_rows_of_a_list_and_of_a_stream_are_looked_at(arguments):
    rows = with_prompts(shown={1: [5], 3: []}).add_column("source", list("abcdefghijkl"))
    with pytest.raises(ValueError, match="Pair row3: teacher_prompt_ids has no token"):
        trainer(arguments, rows.to_list())
    with pytest.raises(ValueError, match="Pair row3: teacher_prompt_ids has no token"):
        trainer(arguments, Dataset.from_list(rows.to_list()).to_iterable_dataset()).train()
