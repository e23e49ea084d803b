"""The key under which a teacher's signals of a pair are kept: it tells apart what the teacher would say, and nothing else."""

import itertools

import numpy as np
import pytest
import torch

from distill.pairs.signal_keys import SIZE, key_of_pair, signal_key

PROMPT, COMPLETION = [5, 300, 7], [9, 2**31 - 1, 2]


def test_the_key_is_the_same_for_ever():
    """Golden: signals are on disk under these names; another recipe needs another version byte."""
    assert signal_key(PROMPT, COMPLETION).hex() == "f6baa5f1ebdbcacac0c57c11e620401e"
    assert signal_key(PROMPT, COMPLETION, [0, 1, 1]).hex() == "d8110bcc1f25a9d821e9b6808f721602"
    assert len(signal_key(PROMPT, COMPLETION)) == SIZE


def test_whatever_holds_the_tokens_gives_one_key():
    kinds = (list, tuple, np.int64, np.int32, ">i4", torch.tensor)
    keys = set()
    for kind in kinds:
        made = (
            kind
            if callable(kind) and kind not in (np.int64, np.int32)
            else lambda ids, kind=kind: np.asarray(ids, kind)
        )
        keys.add(signal_key(made(PROMPT), made(COMPLETION), made([1, 0, 1])))
    assert len(keys) == 1


@pytest.mark.parametrize("mask", [None, [1, 1, 1], np.ones(3, bool), np.ones(3, np.int8)])
def test_a_mask_of_ones_is_none(mask):
    assert signal_key(PROMPT, COMPLETION, mask) == signal_key(PROMPT, COMPLETION)


def test_all_that_decides_has_another_key():
    """Every way to divide a few tokens over prompt, completion and mask; ids whose bytes run into each other among them."""
    ids = [0, 1, 256, 65536, 1]
    keys = []
    for start in range(len(ids) + 1):
        prompt, completion = ids[:start], ids[start:]
        for mask in itertools.product((0, 1), repeat=len(completion)):
            keys.append(signal_key(prompt, completion, mask))
    keys += [signal_key(ids[::-1], []), signal_key([], [1, 256, 65536, 1]), signal_key([0], [])]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("wrong", [[1.0, 2.0], [[1, 2]], [-1], [2**31], ["a"], None, "text", [True, False]])
def test_what_are_no_ids_is_refused(wrong):
    with pytest.raises(ValueError, match="token ids"):
        signal_key(wrong, COMPLETION)
    with pytest.raises(ValueError, match="token ids"):
        signal_key(PROMPT, wrong)


@pytest.mark.parametrize("wrong", [[1, 1], [1, 1, 1, 1], [0, 1, 2], [0.0, 1.0, 1.0], [[1, 1, 1]], 1, "110"])
def test_what_is_no_mask_is_refused(wrong):
    with pytest.raises(ValueError, match="one 0 or 1 for each of the 3 tokens"):
        signal_key(PROMPT, COMPLETION, wrong)


def test_a_pair_has_the_key_of_what_its_teacher_was_shown():
    pair = {"id": "a", "prompt_ids": PROMPT, "completion_ids": COMPLETION}
    bare = signal_key(PROMPT, COMPLETION)
    assert key_of_pair(pair) == key_of_pair({**pair, "teacher_prompt_ids": None, "loss_mask": None}) == bare
    assert key_of_pair({**pair, "prompt_ids": [1], "teacher_prompt_ids": PROMPT, "id": "b", "teacher": "c"}) == bare
    assert key_of_pair({**pair, "loss_mask": [0, 1, 1]}) == signal_key(PROMPT, COMPLETION, [0, 1, 1])
    assert key_of_pair({**pair, "teacher_prompt_ids": [1]}) == signal_key([1], COMPLETION)


def test_the_first_token_of_a_student_without_a_prompt_is_asked_of_no_teacher():
    shown = {"prompt_ids": [], "completion_ids": COMPLETION, "teacher_prompt_ids": PROMPT}
    masks = ([0, 1, 1], None), ([0, 1, 1], [1, 1, 1]), ([0, 1, 0], [1, 1, 0]), ([0, 0, 1], [0, 0, 1])
    for expected, mask in masks:
        given = None if mask is None else list(mask)
        assert key_of_pair({**shown, "loss_mask": given}) == signal_key(PROMPT, COMPLETION, expected)
        assert given == mask, "the pair's own mask is left alone"


def test_a_pair_with_no_ids_is_refused_by_its_id():
    with pytest.raises(ValueError, match="Pair a: teacher_prompt_ids must be a list of token ids"):
        key_of_pair({"id": "a", "prompt_ids": PROMPT, "completion_ids": COMPLETION, "teacher_prompt_ids": [-1]})
