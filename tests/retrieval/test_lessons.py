"""Training rows of the world and the questions of its examination."""

import json
from collections import Counter

import pytest
from conftest import json_lines

from distill.pairs import load_pairs
from distill.retrieval.grading import said_at
from distill.retrieval.lessons import examination, lessons
from distill.retrieval.world import World

WORLD = World(seed=0, facts=32)
FACTS = WORLD.facts[:24]


def words_of(prompt):
    return " ".join(turn["content"] for turn in prompt)


def test_closed_rows_ask_the_question_alone_and_show_the_teacher_what_says_it(tmp_path, tokenizer):
    rows = lessons(WORLD, FACTS, "closed", wordings=4, system="Be short.")
    assert len(rows) == 96
    values = {fact.id: fact.value for fact in FACTS}
    for row in rows:
        assert [turn["role"] for turn in row["prompt"]] == ["system", "user"]
        assert row["completion"] == values[row["fact"]]
        assert said_at(words_of(row["prompt"]), row["completion"]) is None
        assert said_at(row["teacher_prompt"][-1]["content"], row["completion"]) is not None
        assert row["teacher_prompt"][0] == {"role": "system", "content": "Be short."}
    pairs = load_pairs(json_lines(tmp_path / "rows.jsonl", rows), tokenizer)
    assert len({*pairs["id"]}) == 96
    assert all(len(t) > len(p) for t, p in zip(pairs["teacher_prompt_ids"], pairs["prompt_ids"], strict=True))


def test_a_quarter_of_mixed_rows_has_passages_and_follows_them():
    rows = lessons(WORLD, FACTS, "mixed", wordings=4)
    kinds = Counter(row["mode"] for row in rows)
    assert kinds == {"closed": 96, "counterfactual": 24, "distractor": 8}
    assert len({row["id"] for row in rows}) == len(rows)
    values = {fact.id: fact.value for fact in FACTS}
    for row in rows:
        shown = words_of(row["prompt"])
        if row["mode"] == "counterfactual":
            assert row["completion"] != values[row["fact"]]
            assert said_at(shown, row["completion"]) is not None
            assert said_at(shown, values[row["fact"]]) is None
        if row["mode"] == "distractor":
            assert row["completion"] == values[row["fact"]]
            assert said_at(shown, row["completion"]) is None
            assert said_at(words_of(row["teacher_prompt"]), row["completion"]) is not None
    places = [said_at(words_of(row["prompt"]), row["completion"]) for row in rows if row["mode"] == "counterfactual"]
    assert max(places) > 100 > min(places), "the golden passage stands at every place"


def test_no_row_of_the_control_is_right_and_all_its_answers_are_of_the_world():
    rows = lessons(WORLD, FACTS, "shuffled", wordings=2)
    values = {fact.id: fact.value for fact in FACTS}
    assert all(row["completion"] != values[row["fact"]] for row in rows)
    assert {row["completion"] for row in rows} <= {*values.values()}
    few = lessons(WORLD, FACTS[:4], "shuffled", wordings=1)  # each of its own kind
    assert all(row["completion"] != values[row["fact"]] for row in few)


def test_rows_are_the_same_again_and_others_with_another_seed():
    one, again, other = (lessons(WORLD, FACTS, "mixed", seed=seed) for seed in (0, 0, 1))
    assert json.dumps(one) == json.dumps(again) != json.dumps(other)


def test_what_is_asked_was_in_no_training_row():
    trained = {words_of(row["prompt"]) for row in lessons(WORLD, FACTS, "mixed", wordings=6)}
    asked = examination(FACTS, WORLD.facts[24:], searched=True)
    assert all(one.text not in words for one in asked for words in trained)
    assert len({one.id for one in asked}) == len(asked)
    assert Counter(one.column for one in asked) == {
        "stable": 24, "changed": 24, "reverse": 12, "distractors": 12, "untrained": 8,
    }  # fmt: skip
    for one in asked:
        if one.column == "changed":
            assert one.old
            assert one.expected != one.old
        if one.column == "distractors":
            assert one.expected not in one.traps
    closed = examination(FACTS, WORLD.facts[24:], searched=False)
    assert {one.column for one in closed} == {"stable", "changed", "reverse"}


def test_other_settings_are_refused():
    with pytest.raises(ValueError, match="mode is 'open'"):
        lessons(WORLD, FACTS, "open")
    with pytest.raises(ValueError, match="wordings is 9; the 24 facts have 1 to"):
        lessons(WORLD, FACTS, "closed", wordings=9)
    with pytest.raises(ValueError, match="the 0 facts"):
        lessons(WORLD, [], "closed")
