"""Grading by words, chance, and intervals over facts."""

import math
import random

import pytest

from distill.retrieval.grading import by_chance, first_said, over_facts, paired, permuted


def test_of_several_values_the_first_counts_and_of_two_at_one_place_the_longer():
    assert first_said("It was 84 and is 90", ["90", "84"]) == "84"
    assert first_said("Lake Osk Minor", ["Lake Osk", "Lake Osk Minor"]) == "Lake Osk Minor"
    assert first_said("nothing", ["90"]) is None


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    """Binomial facts: 95% of intervals of the mean over 60 facts hold the truth, within what 200 worlds can tell."""
    drawn, hits = random.Random(0), 0
    for _ in range(200):
        values = {f"f{i}": float(drawn.random() < 0.7) for i in range(60)}
        found = over_facts([values], draws=1000)
        hits += found.low <= 0.7 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_the_units_are_facts_and_not_wordings():
    """Both wordings of a fact stand and fall together: with twice the wordings the interval is as wide as before."""
    right = {f"f{i}": float(i % 2) for i in range(40)}
    width = over_facts([right]).high - over_facts([right]).low
    assert width == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 40), rel=0.1)


def test_what_is_hard_about_a_fact_is_in_no_paired_difference():
    hard = {f"f{i}": float(i % 2) for i in range(40)}
    better = {fact: value / 2 + 0.5 for fact, value in hard.items()}
    found = paired([better], [hard])
    assert found.mean == pytest.approx(0.25)
    same = paired([hard], [hard])
    assert same == (0.0, 0.0, 0.0)
    alone = over_facts([hard])
    assert alone.high - alone.low > 0.25


def test_trainings_that_differ_widen_an_interval():
    one = [{f"f{i}": 1.0 for i in range(20)}, {f"f{i}": 0.0 for i in range(20)}]
    assert over_facts(one) == pytest.approx((0.5, 0.0, 1.0))
    # an arm without trainings stands beside each of the other's
    assert paired(one, [{f"f{i}": 0.0 for i in range(20)}]).mean == 0.5


def test_other_facts_are_refused():
    with pytest.raises(ValueError, match="the same facts"):
        paired([{"a": 1.0}], [{"b": 1.0}])
    with pytest.raises(ValueError, match="other facts"):
        over_facts([{"a": 1.0}, {"b": 1.0}])
    with pytest.raises(ValueError, match="no values"):
        over_facts([])
    with pytest.raises(ValueError, match="2 trainings on one side and 3"):
        paired([{"a": 1.0}] * 2, [{"a": 1.0}] * 3)


def test_chance_is_what_an_answer_gets_for_other_facts():
    values = [str(n) for n in range(10)]
    knows = [("n", value, f"It is {value}.") for value in values]
    babbles = [("n", value, " ".join(values)) for value in values]
    assert by_chance(knows) == 0
    assert by_chance(babbles) == 1
    half = [("n", value, " ".join(values[:5])) for value in values]
    assert by_chance(half) == pytest.approx(5 / 10, abs=0.06)


def test_a_kind_with_one_value_is_held_against_all():
    answers = [("a", "1", "1 and 2"), ("b", "2", "2")]
    assert by_chance(answers) == 0.5
    with pytest.raises(ValueError, match="one value only"):
        by_chance([("a", "1", "1"), ("a", "1", "2")])


def test_a_permutation_leaves_no_fact_where_it_was():
    facts = [f"f{i}" for i in range(30)]
    for seed in range(20):
        moved = permuted(facts, seed)
        assert sorted(moved.values()) == sorted(facts)
        assert all(fact != other for fact, other in moved.items())
    assert permuted(facts, 1) != permuted(facts, 2)
    with pytest.raises(ValueError, match="two or more"):
        permuted(["a"])
