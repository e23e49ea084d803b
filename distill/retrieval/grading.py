"""Grading of short answers by their words, what chance alone would give, and intervals with facts as the units."""

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from distill.basics.intervals import DRAWS, Interval, sign_flips, wilson
from distill.text.saying import said_at, value_words


def first_said(text: str, values: Sequence[str]) -> str | None:
    """Which of some values a text says first; of two at one place the longer one. None where it says none."""
    found = [
        (place, -len(value_words(value)), value) for value in values if (place := said_at(text, value)) is not None
    ]
    return min(found)[2] if found else None


class Difference(NamedTuple):
    """A paired difference: its mean, its 95% bootstrap interval, and the exact test of its signs over facts."""

    mean: float
    low: float
    high: float
    p: float

    @property
    def clear(self) -> bool:
        """Whether it is spoken of as one: the interval leaves out 0, and p is below 0.05. With few facts the interval alone is too narrow."""
        return not self.low <= 0 <= self.high and self.p < 0.05


def over_facts(values: Sequence[Mapping[str, float]], *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Mean over facts with a bootstrap interval; the units are the facts, and the trainings where there are several.

    Wordings of one fact stand and fall together, so a fact counts once, with the mean of its wordings. For a difference of
    two arms give the differences per fact (`paired`): what is hard about a fact is then in neither.

    Args:
        values: of each training (seed) what each fact got; the same facts in all.
        draws: resamples.
        seed: of the resamples.

    Raises:
        ValueError: no values, or other facts in another training.

    Source: Efron 1979; facts and trainings are drawn each by themselves.
    """
    if not values or not values[0]:
        raise ValueError("There are no values to take a mean of.")
    facts = list(values[0])
    if any(one.keys() != values[0].keys() for one in values):
        raise ValueError("Each training has other facts; a mean over trainings is of the same facts.")
    table = np.array([[one[fact] for fact in facts] for one in values])
    random_state = np.random.default_rng(seed)
    trainings, count = table.shape
    # how often each is drawn: of 10,000 draws a table of draws x facts, and no copies of the values
    facts_drawn = random_state.multinomial(count, np.full(count, 1 / count), size=draws) / count
    trainings_drawn = random_state.multinomial(trainings, np.full(trainings, 1 / trainings), size=draws) / trainings
    means = np.einsum("ds,sf,df->d", trainings_drawn, table, facts_drawn)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(table.mean()), float(low), float(high))


def share_over_facts(values: Sequence[Mapping[str, float]]) -> Interval:
    """`over_facts` of shares (each from 0 to 1), and no narrower than Wilson's interval with the facts as units.

    Of eight facts that are all wrong a bootstrap knows nothing but 0; they may be one in three.

    Raises:
        ValueError: as `over_facts`; a mean that is no share.

    Example:
        >>> share_over_facts([dict.fromkeys("abcdefgh", 0.0)]).high > 0.3
        True
    """
    found = over_facts(values)
    low, high = wilson(round(found.mean, 12), len(values[0]))
    return Interval(found.mean, min(found.low, low), max(found.high, high))


def paired(one: Sequence[Mapping[str, float]], other: Sequence[Mapping[str, float]]) -> Difference:
    """`one` minus `other`, fact by fact and training by training; an arm without trainings (one row) stands for each.

    Returns:
        The difference; for p the trainings of a fact are one unit, with their mean.

    Raises:
        ValueError: other facts, or other numbers of trainings.
    """
    count = max(len(one), len(other))
    if len(one) not in (1, count) or len(other) not in (1, count):
        raise ValueError(f"There are {len(one)} trainings on one side and {len(other)} on the other; give as many.")
    rows = [(one[i % len(one)], other[i % len(other)]) for i in range(count)]
    if any(a.keys() != b.keys() for a, b in rows):
        raise ValueError("Both sides of a paired difference must be about the same facts.")
    apart = [{fact: a[fact] - b[fact] for fact in a} for a, b in rows]
    found = over_facts(apart)
    return Difference(*found, sign_flips([sum(one[fact] for one in apart) / count for fact in apart[0]]))


def by_chance(answers: Sequence[tuple[str, str, str]]) -> float:
    """Share of answers that say the value of *another* fact of their kind: what a grader gives to no knowledge at all.

    The control that must be low: a model that says every number, or a grader that finds values in any text, shows here.
    Every answer is held against every other value of its kind, which is the mean over all permutations.

    Args:
        answers: (kind, expected value, text). Kinds with one value alone are held against all values.

    Raises:
        ValueError: no answers, or one value only.
    """
    values = {(kind, expected) for kind, expected, _ in answers}
    if len({tuple(value_words(value)) for _, value in values}) < 2:
        raise ValueError("The control holds answers against the values of other facts; there is one value only.")
    shares = []
    for kind, expected, text in answers:
        others = [v for k, v in values if k == kind and value_words(v) != value_words(expected)]
        others = others or [v for _, v in values if value_words(v) != value_words(expected)]
        shares.append(sum(said_at(text, other) is not None for other in others) / len(others))
    return sum(shares) / len(shares)


def permuted(facts: Sequence[str], seed: int = 0) -> dict[str, str]:
    """For each fact another one, none itself: a permutation in one cycle (Sattolo 1986).

    Raises:
        ValueError: fewer than two facts.
    """
    if len(facts) < 2:
        raise ValueError(f"{len(facts)} facts cannot be exchanged; give two or more.")
    drawn, order = random.Random(seed), list(facts)
    for i in range(len(order) - 1, 0, -1):
        j = drawn.randrange(i)
        order[i], order[j] = order[j], order[i]
    return dict(zip(facts, order, strict=True))
