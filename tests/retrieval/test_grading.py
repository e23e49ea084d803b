"""Grading by words, chance, and intervals over facts."""

import itertools
import math
import random

import pytest

from distill.basics.intervals import sign_flips
from distill.retrieval.grading import by_chance, first_said, over_facts, paired, permuted, share_over_facts


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
    assert same == (0.0, 0.0, 0.0, 1.0)
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


def arm(draw, facts, share=0.4, alike=0.8):
    """Two wordings of each fact, which mostly stand and fall together."""
    found = {}
    for i in range(facts):
        first = draw.random() < share
        second = first if draw.random() < alike else draw.random() < share
        found[f"f{i}"] = (first + second) / 2
    return found


@pytest.mark.parametrize("facts", [7, 8])
def test_of_differences_that_are_none_at_most_one_in_twenty_is_clear(facts):
    """The bootstrap alone called one in nine clear."""
    draw, clear, outside = random.Random(facts), 0, 0
    for _ in range(200):
        found = paired([arm(draw, facts)], [arm(draw, facts)])
        clear += found.clear
        outside += not found.low <= 0 <= found.high
    assert clear / 200 <= 0.05
    assert outside / 200 > 0.07


def test_a_difference_is_clear_if_enough_facts_moved():
    none = dict.fromkeys("abcdefg", 0.0)
    three = paired([none], [{**none, "a": 0.5, "b": 0.5, "c": 0.5}])
    assert (three.high < 0, three.p, three.clear) == (True, 0.25, False)
    assert paired([dict.fromkeys(none, 1.0)], [none]).clear
    assert paired([none], [none])[1:] == (0.0, 0.0, 1.0)


def test_p_is_that_of_all_signs():
    drawn = random.Random(2)
    for count in (1, 3, 6, 11):
        values = [drawn.choice([-1, -0.5, 0, 0.5, 1]) for _ in range(count)]
        sums = [
            sum(s * v for s, v in zip(signs, values, strict=True)) for signs in itertools.product((-1, 1), repeat=count)
        ]
        assert sign_flips(values) == sum(abs(one) >= abs(sum(values)) - 1e-9 for one in sums) / len(sums)
    many = [drawn.gauss(0.3, 1) for _ in range(40)]
    t = sum(many) / math.sqrt(sum(v * v for v in many))  # normal under random signs
    assert sign_flips(many) == pytest.approx(math.erfc(abs(t) / math.sqrt(2)), abs=0.01)
    assert 0 < sign_flips([1.0] * 40) < 1e-4
    with pytest.raises(ValueError, match="no differences"):
        sign_flips([])


def test_a_share_of_none_or_all_has_an_interval():
    facts = [f"f{i}" for i in range(8)]
    none = share_over_facts([dict.fromkeys(facts, 0.0)])
    every = share_over_facts([dict.fromkeys(facts, 1.0)])
    assert (none.mean, none.low, every.mean, every.high) == (0, 0, 1, 1)
    assert none.high == pytest.approx(0.324, abs=0.001)  # Wilson, 0 of 8
    assert every.low == pytest.approx(1 - none.high)
    one = share_over_facts([{**dict.fromkeys(facts, 0.0), "f0": 0.5}])
    assert one.high > none.high, "more right answers, and no lower bound above"
    with pytest.raises(ValueError, match="no interval"):
        share_over_facts([{"a": 2.0}])
