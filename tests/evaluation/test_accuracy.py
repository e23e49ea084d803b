"""Accuracy on held-out questions, and its two intervals."""

import math
import random

import pytest
from conftest import build_model, build_tokenizer

from distill.curation.verifiers import exact_match
from distill.evaluation.accuracy import Accuracy, accuracy, accuracy_table, over_questions, over_seeds


def one(share, n=100):
    return Accuracy([i < share * n for i in range(n)], 1.0, 0, ["x"] * n)


def test_it_counts_what_the_model_itself_says():
    model, tokenizer = build_model(), build_tokenizer()
    rows = [{"prompt": word, "answer": "?"} for word in ("the cat", "a dog", "why so")]
    said = accuracy(model, tokenizer, rows, exact_match(), max_new_tokens=4, progress=False)
    assert said.mean == 0
    rows[1]["answer"] = said.completions[1]
    again = accuracy(model, tokenizer, rows, exact_match(), max_new_tokens=4, batch_size=1, progress=False)
    assert again.correct == [False, True, False]
    assert again.completions == said.completions, "most likely tokens, whatever the batch"


def test_a_verifier_that_raises_counts_as_wrong():
    def fails(row, completion):
        raise KeyError("nothing")

    rows = [{"prompt": "the cat"}, {"prompt": "a dog"}]
    said = accuracy(build_model(), build_tokenizer(), rows, fails, max_new_tokens=2, progress=False)
    assert (said.mean, said.errors) == (0, 2)


def test_a_verifier_that_hangs_counts_as_wrong_where_there_is_a_limit():
    def stuck(row, completion):
        while row["prompt"] == "the cat":
            pass
        return True

    rows = [{"prompt": "the cat"}, {"prompt": "a dog"}]
    said = accuracy(build_model(), build_tokenizer(), rows, stuck, max_new_tokens=2, progress=False, timeout=1)
    assert (said.correct, said.errors) == ([False, True], 1)


def test_repeated_questions_are_refused():
    rows = [{"prompt": "the cat", "answer": 1}, {"prompt": "the cat", "answer": 1}]
    with pytest.raises(ValueError, match="1 of 2 held-out prompts repeat"):
        accuracy(build_model(), build_tokenizer(), rows, exact_match(), max_new_tokens=2, progress=False)


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_the_interval_over_questions_covers_the_truth_in_95_of_100_cases(share):
    draw = random.Random(0)
    inside = 0
    for _ in range(2000):
        middle, half = over_questions([draw.random() < share for _ in range(120)])
        inside += middle - half <= share <= middle + half
    assert 0.93 < inside / 2000 < 0.985


def test_the_interval_over_seeds_covers_the_truth_in_95_of_100_cases():
    draw = random.Random(0)
    inside = sum(
        abs((interval := over_seeds([draw.gauss(0.4, 0.02) for _ in range(3)])).middle - 0.4) <= interval.half
        for _ in range(2000)
    )
    assert 0.935 < inside / 2000 < 0.965


def test_a_single_seed_has_no_interval():
    assert over_seeds([0.5]) == (0.5, math.inf)
    with pytest.raises(ValueError, match="no values"):
        over_seeds([])
    with pytest.raises(ValueError, match="no answers"):
        over_questions([])


def test_the_table_holds_the_ways_against_each_other_seed_by_seed():
    table = accuracy_table(
        {"untouched": one(0.1)}, {"unverified": [one(0.2), one(0.3)], "verified": [one(0.4), one(0.6)]}
    )
    rows = {line.split(" | ")[0].strip("| *"): line for line in table.splitlines()}
    assert "+40.0%" in rows["verified, minus untouched"]
    assert "+20.0%, +30.0%" in rows["verified, minus unverified"]
    assert "+25.0%" in rows["verified, minus unverified"]
    alone = accuracy_table({"untouched": one(0.1)}, {"verified": [one(0.4)]})
    assert "*verified, minus untouched* | +30.0% |  |" in alone
