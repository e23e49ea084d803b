"""A row that is no pair, or that a model cannot take, is refused by its id; whatever brought it."""

import numpy as np
import pytest
import torch
from conftest import build_tokenizer

from distill.pairs.collate import PairCollator
from distill.pairs.row_limits import RowLimits

GOOD = {"id": "good", "prompt_ids": [5, 6], "completion_ids": [7, 8, 2]}
BAD = {
    "no column": ({"prompt": "a", "completion": "b"}, r"Pair bad has no prompt_ids \(it has prompt, completion"),
    "one column": ({"prompt_ids": [1]}, "Pair bad has no completion_ids"),
    "null": ({**GOOD, "prompt_ids": None}, "Pair bad: prompt_ids must be a list of token ids, not None"),
    "text": ({**GOOD, "completion_ids": "seven"}, "Pair bad: completion_ids must be a list of token ids, not seven"),
    "words": ({**GOOD, "completion_ids": ["7", "8"]}, "completion_ids must be a list of token ids"),
    "floats": ({**GOOD, "completion_ids": [7.0, 8.5]}, "completion_ids must be a list of token ids"),
    "a number": ({**GOOD, "completion_ids": 7}, "completion_ids must be a list of token ids"),
    "a hole": ({**GOOD, "completion_ids": [7, None]}, "completion_ids must be a list of token ids"),
    "lists": ({**GOOD, "completion_ids": [[7], [8, 9]]}, "completion_ids must be a list of token ids"),
    "below zero": ({**GOOD, "completion_ids": [7, -100]}, "completion_ids must be a list of token ids"),
    "far too large": ({**GOOD, "completion_ids": [7, 10**30]}, "completion_ids must be a list of token ids"),
    "short mask": ({**GOOD, "loss_mask": [1, 0]}, "Pair bad: loss_mask has 2 places, but its completion has 3 tokens"),
    "long mask": ({**GOOD, "loss_mask": [1, 0, 1, 1]}, "loss_mask has 4 places, but its completion has 3"),
    "weights": ({**GOOD, "loss_mask": [1, 0.5, 1]}, "loss_mask must be a list of 0 and 1"),
    "twos": ({**GOOD, "loss_mask": [1, 2, 1]}, "loss_mask must be a list of 0 and 1"),
    "nothing": ({**GOOD, "completion_ids": []}, "Pair bad has no token to learn from"),
    "too long": ({**GOOD, "completion_ids": [7] * 9}, "Pair bad has 11 tokens, but the model has 8 positions; give max_length=8"),
    "other tokens": ({**GOOD, "prompt_ids": [5, 320]}, "Pair bad has token id 320, but the model's vocabulary has 320 tokens"),
    "unshared": ({**GOOD, "completion_ids": [7, 310]}, "Pair bad has token id 310 in its completion, but student and teacher share 300"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_is_refused_by_its_id(kind):
    row, message = BAD[kind]
    collate = PairCollator(build_tokenizer(), limits=RowLimits(positions=8, vocabulary=320, labels=300))
    with pytest.raises(ValueError, match=message):
        collate([GOOD, {**row, "id": "bad"}])
    with pytest.raises(ValueError, match=message.replace("Pair bad", "Pair row 1 of the batch")):
        collate([GOOD, {name: value for name, value in row.items() if name != "id"}])  # fmt: skip


def test_what_is_no_row_at_all_is_refused():
    with pytest.raises(ValueError, match="Row 0 of the batch is a str"):
        PairCollator(build_tokenizer())(["a text"])


def test_a_label_without_loss_may_be_any_token():
    """Only cross-entropy needs the label, and where there is no loss there is none."""
    collate = PairCollator(build_tokenizer(), limits=RowLimits(labels=300))
    row = {"id": "a", "prompt_ids": [310], "completion_ids": [7, 310, 2], "loss_mask": [1, 0, 1]}
    assert collate([row])["labels"].tolist() == [[-100, 7, -100, 2]]


def test_a_row_that_max_length_cuts_to_the_positions_is_taken():
    collate = PairCollator(build_tokenizer(), max_length=4, limits=RowLimits(positions=4))
    assert collate([{**GOOD, "completion_ids": [7] * 99}])["input_ids"].shape == (1, 4)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, lambda ids: np.array(ids, np.int32)])
def test_ids_may_come_as_any_row_of_integers(kind):
    row = {"id": "a", "prompt_ids": kind([5, 6]), "completion_ids": kind([7, 8]), "loss_mask": kind([0, 1])}
    batch = PairCollator(build_tokenizer())([row])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 8]]
    assert batch["input_ids"].dtype == batch["labels"].dtype == torch.int64
