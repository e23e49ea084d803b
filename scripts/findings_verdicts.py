"""The seven findings of `findings.py` as comparisons, and verdicts that are computed from the figures alone."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from findings_bed import FIGURES

from distill.evaluation.accuracy import Interval, over_seeds

CAME, NOT, UNKNOWN, PART = "came out", "did not", "cannot be told at this size", "came out in part"
MARGIN = 0.05  # of the gain of the live forward KL: less than that is called nothing
BOTH = ("teachers_forward", "own_reverse")  # each text by the divergence that its own training goes down
Found = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]  # by arm: of each seed the measured points


@dataclass(frozen=True)
class Test:
    """One comparison: a value for each seed, and the side of a bound on which the finding expects it.

    Args:
        what: in words.
        values: one a seed.
        expected: `"above"`, `"below"`, or `"apart"` (further from 0 than the bound, on either side).
        bound: see there.
    """

    what: str
    values: Sequence[float]
    expected: str = "above"
    bound: float = 0.0

    @property
    def interval(self) -> Interval:
        """Mean, and half of the 95% interval over seeds."""
        return over_seeds(list(self.values))

    @property
    def verdict(self) -> str:
        """From the interval alone."""
        middle, half = self.interval
        low, high = middle - half, middle + half
        if self.expected == "apart":
            yes, no = low > self.bound or high < -self.bound, -self.bound < low and high < self.bound
        else:
            yes, no = low > self.bound, high < self.bound
            if self.expected == "below":
                yes, no = no, yes
        return CAME if yes else NOT if no else UNKNOWN


def overall(tests: Sequence[Test]) -> str:
    """The verdict on a finding: of all its comparisons together."""
    said = {test.verdict for test in tests}
    if len(said) == 1:
        return said.pop()
    return PART if CAME in said else NOT if NOT in said else UNKNOWN


@dataclass(frozen=True)
class Finding:
    """A published statement: who says so, and how it is tried here."""

    title: str
    papers: str
    tests: Callable[["Figures"], list[Test]]


class Figures:
    """What was measured, by arm; the differences that the findings are about."""

    def __init__(self, found: Found) -> None:
        self.found = found

    def of(self, arm: str, name: str) -> list[float]:
        """A figure of an arm at its end, of each seed; `"own_both"`: both directions on the student's own text together."""
        names = ("own_forward", "own_reverse") if name == "own_both" else (name,)
        return [sum(points[-1][one] for one in names) for points in self.found[arm]]

    def less(self, one: str, other: str, name: str) -> list[float]:
        """One arm's figure less another's, of each seed."""
        return [a - b for a, b in zip(self.of(one, name), self.of(other, name), strict=True)]

    def gain(self, name: str, arm: str = "forward KL") -> list[float]:
        """How far an arm went down from the start."""
        return self.less("the start", arm, name)

    def shares(self, one: str, other: str, name: str) -> list[float]:
        """A difference as a share of the live forward KL's gain."""
        return [a / b for a, b in zip(self.less(one, other, name), self.gain(name), strict=True)]

    def at_equal_tokens(self, one: str, other: str, name: str) -> list[float]:
        """One arm's figure less another's where both have had the same tokens: at the end of whichever had fewer."""
        found: list[float] = []
        for start, points, others in zip(*(self.found[arm] for arm in ("the start", one, other)), strict=True):
            begin = {**start[-1], "tokens": 0}
            curves = [
                ([point["tokens"] for point in (begin, *some)], [point[name] for point in (begin, *some)])
                for some in (points, others)
            ]
            tokens = min(counts[-1] for counts, _ in curves)
            ours, other_kl = (float(np.interp(tokens, counts, kls)) for counts, kls in curves)
            found.append(ours - other_kl)
        return found


def _white(figures: Figures) -> list[Test]:
    return [
        Test(f"fine-tuning less forward KL; {FIGURES[name]}", figures.less("fine-tuning", "forward KL", name))
        for name in BOTH
    ]


def _direction(figures: Figures) -> list[Test]:
    def reverse(forward: str, backward: str) -> list[float]:
        return figures.less(backward, forward, "own_both")

    plain = reverse("forward KL", "reverse KL")
    bound = MARGIN * statistics.fmean(figures.gain("own_both"))
    others = {
        "on own text less on the teacher's": reverse("own text, forward KL", "own text, reverse KL"),
        "at T=2 less at T=1 (teacher's text)": reverse("forward KL, T=2", "reverse KL, T=2"),
    }
    return [
        Test(
            f"reverse KL less forward KL, {what}; own text, both directions added",
            [a - b for a, b in zip(other, plain, strict=True)],
            "apart",
            bound,
        )
        for what, other in others.items()
    ]


def _hidden(figures: Figures) -> list[Test]:
    return [
        Test(f"what {arm} adds, of the gain; {FIGURES[name]}", figures.shares("forward KL", arm, name), "below", MARGIN)
        for arm in figures.found if arm.startswith("hidden states") for name in BOTH
    ]  # fmt: skip


def _drawn(figures: Figures) -> list[Test]:
    return [
        Test(f"what {arm} loses, of the gain; {FIGURES[name]}", figures.shares(arm, "forward KL", name), "below", MARGIN)
        for arm in ("draws", "threshold") for name in BOTH
    ]  # fmt: skip


def _renormalised(figures: Figures) -> list[Test]:
    return [
        Test(f"top, renormalised, less {arm}; {FIGURES[name]}", figures.less("top, renormalised", arm, name))
        for arm in ("top and tail", "draws", "threshold") for name in BOTH
    ]  # fmt: skip


def _first(figures: Figures) -> list[Test]:
    whole = "own text, reverse KL"
    return [
        Test(f"gain of the first third over that of all tokens; {FIGURES[name]}",
             [a / b for a, b in zip(figures.gain(name, "own text, first third"), figures.gain(name, whole), strict=True)], "above", 0.5)
        for name in BOTH
    ] + [Test(f"last third less first third; {FIGURES[name]}", figures.less("own text, last third", "own text, first third", name)) for name in BOTH]  # fmt: skip


def _tokens(figures: Figures) -> list[Test]:
    return [
        Test(f"on-policy less {arm} on the teacher's text, at equal tokens; {FIGURES[name]}", figures.at_equal_tokens("own text, reverse KL", arm, name), "below")
        for arm in ("forward KL", "reverse KL") for name in BOTH
    ]  # fmt: skip


FINDINGS = [
    Finding(
        "White box beats black box at equal data",
        "Hinton et al. 2015; Agarwal et al. 2024 (supervised KD against SFT)",
        _white,
    ),
    Finding(
        "Forward or reverse KL: it depends on temperature and on whose text",
        "Agarwal et al. 2024; Wu et al. 2024; Zhao et al. 2026",
        _direction,
    ),
    Finding("Matching hidden states adds nothing consistent", "Muralidharan et al. 2024 (Minitron)", _hidden),
    Finding("About a dozen drawn tokens match the full distribution", "Anshumann et al. 2025", _drawn),
    Finding("Renormalised top-k is the worst way to store", "Anshumann et al. 2025", _renormalised),
    Finding("The first part of rollouts carries most of the gain", "Zhang et al. 2026", _first),
    Finding("On-policy reaches a given KL with fewer tokens", "Agarwal et al. 2024; Lu 2025", _tokens),
]


def control(figures: Figures) -> Test:
    """What must fail: signals of other positions have to lose half of the gain and more."""
    return Test(f"shuffled rows less top and tail, of the gain; {FIGURES['teachers_forward']}", figures.shares("top, shuffled rows", "top and tail", "teachers_forward"), "above", 0.5)  # fmt: skip
