"""Pairs looked at before a training, a batch of rows at a time: the same as all at once, in any order."""

import datasets
import numpy as np
import pytest

from distill.curation.duplicates import drop_duplicates
from distill.pairs import batches
from distill.pairs.groups import first_like, numbered
from distill.pairs.packing import pair_lengths
from distill.pairs.row_limits import RowLimits
from distill.trainers.pair_checks import check_pairs

PAIRS = [
    {"prompt_ids": [1] * (n % 4), "completion_ids": [2 + n, *[3] * (n % 3)], "loss_mask": [1] * (1 + n % 3)}
    for n in range(1, 11)
]


@pytest.fixture(autouse=True)
def few_rows_at_once(monkeypatch):
    monkeypatch.setattr(batches, "ROWS", 3)


@pytest.mark.parametrize("order", [range(10), [9, 0, 7, 2, 5, 4, 3, 6, 1, 8]])
def test_what_is_found_beyond_the_first_batch_is_named_by_its_row(order):
    def given(changed=(), **change):
        rows = [{**row, **(change if n in changed else {})} for n, row in enumerate(PAIRS)]
        return datasets.Dataset.from_list(rows).select(order)

    place = list(order).index(8)
    limits = RowLimits(positions=6, vocabulary=13)
    check_pairs(given(), "train_dataset", None, limits)
    wanted = [len(PAIRS[n]["prompt_ids"]) + len(PAIRS[n]["completion_ids"]) for n in order]
    assert pair_lengths(given(), 5).tolist() == [min(length, 5) for length in wanted]
    for change, words in (
        ({"loss_mask": [1] * 7}, f"loss_mask of row {place} has 7 places, but its completion has 1 tokens"),
        ({"loss_mask": [0], "completion_ids": [7]}, f"1 of 10 pairs have no token to learn from, the first is row {place} "),
        ({"completion_ids": [13], "loss_mask": [1]}, "token id 13"),
        ({"prompt_ids": [1] * 6, "completion_ids": [7], "loss_mask": None}, "a row of 7 tokens"),
        ({"prompt_ids": None}, f"1 of 10 pairs have no prompt_ids, the first is row {place}"),
        ({"completion_ids": None}, f"1 of 10 pairs have no completion_ids, the first is row {place}"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            check_pairs(given([8], **change), "train_dataset", None, limits)


def test_repeated_rows_are_found_by_sorting_as_by_looking_each_up():
    draw = np.random.default_rng(0)
    for rows in (0, 1, 200):
        columns = draw.integers(0, 6, rows), draw.integers(0, 4, rows).astype(np.uint64)
        first: dict = {}
        keys = list(zip(*(column.tolist() for column in columns), strict=True))
        assert first_like(*columns).tolist() == [first.setdefault(key, i) for i, key in enumerate(keys)]
        places = list(first)
        assert numbered(*columns).tolist() == [places.index(key) for key in keys]


def test_a_draw_is_the_same_only_with_its_teacher_and_its_number():
    """A missing teacher is one of its own, and equal to another missing one."""
    row = {"id": "a", "prompt_ids": [1], "completion_ids": [2, 0], "teacher": "x", "sample": 0}
    others = [{"teacher": None}, {"teacher": ""}, {"sample": 1}, {"prompt_ids": [1, 0]}, {"completion_ids": [2]}, {}]
    rows = [row, *({**row, **other} for other in others), {**row, "teacher": None}]
    kept, step = drop_duplicates(datasets.Dataset.from_list(rows), "draw")
    assert (len(kept), step.rows_in - step.rows_out) == (6, 2)
    empty = datasets.Dataset.from_list(rows).select([])
    assert len(drop_duplicates(empty)[0]) == 0
