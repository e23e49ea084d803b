"""One rule says which positions carry loss; whoever counts them counts the same: provenance, collator, packing."""

import pytest
from conftest import build_pairs, build_tokenizer

from distill.pairs.collate import PairCollator, supervised_rows
from distill.pairs.measures import PairArrays
from distill.pairs.packing import pack_pairs
from distill.pairs.schema import pairs_from_rows
from distill.reports.provenance import describe_pairs


def without_prompt(rows):
    return [{**row, "prompt_ids": [] if i % 3 == 0 else row["prompt_ids"]} for i, row in enumerate(rows)]


def masked(rows):
    """Some with a mask; the first label of some of them is masked, the last of others."""
    mask = lambda i, ids: [int((place + i) % 3 > 0) for place in range(len(ids))]  # noqa: E731
    return [{**row, "loss_mask": mask(i, row["completion_ids"])} if i % 2 else row for i, row in enumerate(rows)]


@pytest.mark.parametrize("change", [list, without_prompt, masked, lambda rows: masked(without_prompt(rows))])
@pytest.mark.parametrize("max_length", [None, 12, 16])
def test_the_supervised_tokens_of_a_card_are_the_rows_that_carry_loss(change, max_length):
    """With and without a prompt (the first token of a row is no label), a mask, and what is cut."""
    collate = PairCollator(build_tokenizer(), max_length=max_length)
    rows = []
    for row in change(build_pairs(24).to_list()):
        try:
            collate([row])
        except ValueError:  # a row without any label is refused by the collator, so it is in no training
            continue
        rows.append(row)
    assert len(rows) > 12
    pairs = pairs_from_rows(rows, where="test")
    each = [int(supervised_rows(collate([row])["labels"]).sum()) for row in pairs]
    expected = sum(each)
    assert PairArrays(pairs, max_length).supervised().tolist() == each
    assert describe_pairs(pairs, max_length)["supervised_tokens"] == expected
    assert int(supervised_rows(collate(list(pairs))["labels"]).sum()) == expected, "padding counts nothing"


@pytest.mark.parametrize("max_length", [24, 40])
def test_packed_rows_have_the_tokens_and_the_labels_of_their_pairs(max_length):
    pairs = pairs_from_rows(masked(build_pairs(14).to_list()), where="test")
    collate, packed = PairCollator(build_tokenizer(), max_length=max_length), pack_pairs(pairs, max_length)
    bins = collate([packed[i] for i in range(len(packed))])
    assert int(supervised_rows(bins["labels"]).sum()) == describe_pairs(pairs, max_length)["supervised_tokens"]
    assert packed.tokens == int(collate(list(pairs))["attention_mask"].sum())
