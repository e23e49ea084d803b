"""Examination of the world: what is asked stood in no training row; and rows with shuffled answers."""

from collections import Counter

import pytest

from distill.retrieval.examination import examination, shuffled
from distill.retrieval.examining import graded
from distill.retrieval.rows import rows_of_world
from distill.retrieval.world import World

WORLD = World(seed=0, facts=32)
FACTS = WORLD.facts[:24]


def test_what_is_asked_was_in_no_training_row():
    rows = rows_of_world(WORLD, "mixed", facts=FACTS, wordings=6, reverse=2).rows
    trained = [" ".join(turn["content"] for turn in row["prompt"]) for row in rows]
    asked = examination(FACTS, WORLD.facts[24:], searched=True)
    assert all(one.text not in words for one in asked for words in trained)
    assert len({one.id for one in asked}) == len(asked)
    assert Counter(one.column for one in asked) == {
        "stable": 24, "changed": 24, "reverse": 12, "distractors": 12, "untrained": 8,
    }  # fmt: skip
    taught = {row["fact"] for row in rows}
    for one in asked:
        assert (one.fact in taught) == (one.column != "untrained")
        if one.column == "changed":
            assert one.old
            assert one.expected != one.old
        if one.column == "distractors":
            assert one.only_distractors
            assert one.expected not in one.traps
    closed = examination(FACTS, WORLD.facts[24:], searched=False)
    assert {one.column for one in closed} == {"stable", "changed", "reverse"}


def test_what_is_told_of_a_namesake_is_a_trap_where_distractors_are_shown():
    """Its document says it, and is among what is shown: a model that takes it took a distractor."""
    told = WORLD.namesakes
    text = " ".join(document.text for document in WORLD.documents(1))
    assert len(told) == 2
    assert all(value in text for value in told.values())
    asked = examination(WORLD.facts, searched=True, namesakes=told)
    kinds = {fact.kind: told[fact.id] for fact in WORLD.facts if fact.id in told}
    looked = [one for one in asked if one.column == "distractors" and one.kind in kinds]
    assert looked
    for one in looked:
        assert kinds[one.kind] in one.traps
        assert graded(one, f"It is {kinds[one.kind]}.") == (False, True)
    assert not any(set(one.traps) & set(told.values()) for one in examination(WORLD.facts, searched=True))


@pytest.mark.parametrize("count", [2, 5, 24])
def test_no_shuffled_row_is_right_and_all_answers_are_of_the_world(count):
    facts = FACTS[:count]
    rows = rows_of_world(WORLD, facts=facts, wordings=2, reverse=0).rows
    values = {fact.id: fact.value for fact in facts}
    assert all(row["completion"] == values[row["fact"]] for row in rows)
    found = shuffled(rows)
    assert all(row["completion"] != values[row["fact"]] for row in found)
    assert sorted({row["completion"] for row in found}) == sorted(values.values())
    assert [row["prompt"] for row in found] == [row["prompt"] for row in rows]
    assert not {row["id"] for row in found} & {row["id"] for row in rows}


def test_what_cannot_be_shuffled_is_refused():
    with pytest.raises(ValueError, match="two or more"):
        shuffled(rows_of_world(WORLD, facts=FACTS[:1], reverse=0).rows)
    with pytest.raises(ValueError, match="has two answers"):
        shuffled(rows_of_world(WORLD, facts=FACTS, reverse=1).rows)
