"""Every border of a row: where the prompt ends, where the EOS is, where padding begins, what is cut."""

import numpy as np
import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer

from distill.pairs.collate import IGNORE, PairCollator, in_arrays, supervised_rows
from distill.pairs.schema import pairs_from_rows

STOPPED = {"id": "a", "prompt_ids": [5, 6, 7], "completion_ids": [8, 9, 2]}
CUT = {"id": "b", "prompt_ids": [5], "completion_ids": [8, 9, 10, 11, 12]}


def test_prompt_carries_no_loss_and_completion_all_of_it(tokenizer):
    batch = PairCollator(tokenizer)([STOPPED, CUT])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 2], [5, 8, 9, 10, 11, 12]]
    assert batch["labels"].tolist() == [[IGNORE] * 3 + [8, 9, 2], [IGNORE, 8, 9, 10, 11, 12]]


def test_supervised_rows_are_those_before_a_label(tokenizer):
    """The last prompt token predicts the first completion token: that is the row that is supervised."""
    rows = supervised_rows(PairCollator(tokenizer)([STOPPED])["labels"])
    assert rows.tolist() == [[False, False, True, True, True, False]]


def test_emitted_eos_is_a_label_and_none_is_invented(tokenizer):
    labels = PairCollator(tokenizer)([STOPPED, CUT])["labels"]
    assert labels[0].tolist().count(tokenizer.eos_token_id) == 1
    assert tokenizer.eos_token_id not in labels[1].tolist()


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_is_masked_although_pad_is_eos(tokenizer, side):
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    short = {"id": "c", "prompt_ids": [5], "completion_ids": [2]}
    batch = PairCollator(tokenizer, padding_side=side)([STOPPED, short])
    assert batch["attention_mask"][1].sum() == 2
    assert (batch["labels"][1] != IGNORE).sum() == 1
    assert (batch["input_ids"][1][batch["attention_mask"][1].bool()]).tolist() == [5, 2]
    if side == "left":
        assert batch["position_ids"][1].tolist() == [0, 0, 0, 0, 0, 1]


def test_without_prompt_the_first_token_is_no_label():
    """Nothing precedes it; with left padding it would else be predicted from a pad token."""
    tokenizer = build_tokenizer()
    alone = {"id": "d", "prompt_ids": [], "completion_ids": [8, 9, 2]}
    for side in ("right", "left"):
        batch = PairCollator(tokenizer, padding_side=side)([alone, STOPPED])
        assert batch["labels"][0][batch["attention_mask"][0].bool()].tolist() == [IGNORE, 9, 2]


def test_an_over_long_row_loses_its_end_and_its_eos(tokenizer):
    batch = PairCollator(tokenizer, max_length=5)([STOPPED])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert batch["labels"].tolist() == [[IGNORE, IGNORE, IGNORE, 8, 9]]


@pytest.mark.parametrize(
    "pair",
    [{"id": "e", "prompt_ids": [5, 6], "completion_ids": []}, {"id": "e", "prompt_ids": [], "completion_ids": [8]}],
)
def test_a_row_without_supervised_token_is_refused(tokenizer, pair):
    with pytest.raises(ValueError, match="Pair e has no token to learn from"):
        PairCollator(tokenizer)([pair])


def test_a_prompt_that_fills_the_row_is_refused(tokenizer):
    with pytest.raises(ValueError, match="max_length 3"):
        PairCollator(tokenizer, max_length=3)([STOPPED])


def test_pad_to_multiple_of(tokenizer):
    assert PairCollator(tokenizer, pad_to_multiple_of=8)([STOPPED])["input_ids"].shape == (1, 8)


def test_unknown_padding_side(tokenizer):
    with pytest.raises(ValueError, match="padding_side is 'middle'"):
        PairCollator(tokenizer, padding_side="middle")


def test_a_mask_equals_deletion(tokenizer):
    """The loss of a padded batch is the sum of the losses of its rows alone, whichever side is padded."""
    model, pairs = build_model().double(), [STOPPED, CUT, {"id": "f", "prompt_ids": [], "completion_ids": [4, 5, 2]}]
    alone = sum(_sum_loss(model, PairCollator(tokenizer)([pair])) for pair in pairs)
    for side in ("right", "left"):
        together = _sum_loss(model, PairCollator(tokenizer, padding_side=side, pad_to_multiple_of=16)(pairs))
        torch.testing.assert_close(together, alone, rtol=1e-6, atol=0)


def _sum_loss(model, batch):
    return model(**batch, num_items_in_batch=torch.tensor(1)).loss


@pytest.mark.parametrize("masked", [False, True])
def test_rows_read_as_arrays_give_the_same_batch(masked):
    """Rows without a prompt and without a mask among them; a form that the caller chose is left alone."""
    rows = list(build_pairs(6))
    rows[2]["prompt_ids"] = []
    for i, row in enumerate(rows if masked else ()):
        row["loss_mask"] = None if i % 2 else [1] * len(row["completion_ids"])
    pairs = pairs_from_rows(rows, where="test")
    collate, read = PairCollator(build_tokenizer(), with_ids=True), in_arrays(pairs)
    assert isinstance(read[0]["prompt_ids"], np.ndarray)
    ours, theirs = collate([read[i] for i in range(6)]), collate([pairs[i] for i in range(6)])
    assert ours.pop("ids") == theirs.pop("ids")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert in_arrays(pairs.with_format("torch")).format["type"] == "torch"
    assert in_arrays(rows) is rows
