"""Replay of own samples: none at share 0, exactly the share otherwise; and sides of a split with nothing in common."""

import pytest
from conftest import build_pairs, build_tokenizer

from distill.pairs.apart import check_apart, rows_by_question
from distill.pairs.replay import replayed
from distill.pairs.schema import complete_row, pairs_from_rows
from distill.running.stages import split_pairs


def asked(*prompts):
    tokenizer = build_tokenizer()
    rows = [{"id": f"{n}", "prompt": prompt, "completion": f"so it is {n}"} for n, prompt in enumerate(prompts)]
    return pairs_from_rows([complete_row(row, "test", tokenizer) for row in rows], where="test")


def test_share_0_is_the_pairs_themselves():
    pairs = build_pairs(5)
    assert replayed(pairs, build_pairs(4, seed=1), 0) is pairs


@pytest.mark.parametrize(("share", "count"), [(0.25, 4), (0.5, 12), (0.05, 1)])
def test_the_share_is_of_all_rows(share, count):
    pairs, own = build_pairs(12), build_pairs(20, seed=1)
    mixed = replayed(pairs, own, share)
    assert len(mixed) == 12 + count
    assert mixed["completion_ids"][:12] == pairs["completion_ids"][:]
    assert mixed["completion_ids"][12:] == own["completion_ids"][:count]


def test_prompts_that_are_trained_are_not_replayed(capsys):
    pairs = build_pairs(6)
    own = pairs_from_rows([*pairs.select(range(2)), *build_pairs(3, seed=1)], where="test")
    mixed = replayed(pairs, own, 0.25)
    assert mixed["prompt_ids"][6:] == own["prompt_ids"][2:4]
    assert "2 of 5 own samples are on prompts that are trained" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("share", "said"), [(1.0, "replay is 1.0"), (-0.1, "replay is -0.1"), (0.01, "not one"), (0.5, "give more")]
)
def test_a_share_that_cannot_be_is_refused(share, said):
    with pytest.raises(ValueError, match=said):
        replayed(build_pairs(12), build_pairs(4, seed=1), share)


def test_prompts_that_differ_in_case_and_blanks_alone_fall_on_one_side():
    """By their ids they are four prompts, and each split by ids parts some of them for some seed."""
    pairs = asked("the cat", "The  cat", "a dog", "A DOG ", "why so", "it is", "what is a mat", "the cat")
    assert rows_by_question(pairs) == [[0, 1, 7], [2, 3], [4], [5], [6]]
    for count in (1, 2, 3, 4):
        train, held_out = split_pairs(pairs, count)
        check_apart(train, held_out)
        assert len(train) + len(held_out) == len(pairs)
    with pytest.raises(ValueError, match="there are 5 distinct prompts"):
        split_pairs(pairs, 5)


@pytest.mark.parametrize("there", ["the cat", "THE\ncat "])
def test_sides_with_a_prompt_in_common_are_refused(there):
    train, held_out = asked("a dog", "the cat", "the cat"), asked("why so", there, there)
    with pytest.raises(ValueError, match=r"2 of 3 held-out pairs, of 1 prompts, .*split_pairs"):
        check_apart(train, held_out)
    check_apart(train, held_out.select([0]))
