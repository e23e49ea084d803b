"""Figures of several models side by side, as plain values: what a page shows and a threshold reads."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from distill.basics.intervals import exact_share, over_units

SECTIONS = {"gained": "Gained", "lost": "Lost", "risk": "At risk"}
SIDES = {"student": "Student", "base": "Base", "teacher": "Teacher"}
KINDS = ("share", "nats", "words", "tokens", "bits", "number")


@dataclass(frozen=True)
class Value:
    """A number with its 95% interval, where there is one.

    Args:
        value: the number; a share lies between 0 and 1.
        low, high: the interval; None: none is known.
        n: how many units it is of; 0: that is not said.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int = 0


@dataclass(frozen=True)
class Figure:
    """One figure of every model that it could be measured of.

    Args:
        name: by which thresholds and programs know it, as `membership_tpr`.
        title: for people.
        section: a key of `SECTIONS`.
        kind: one of `KINDS`: how its numbers are written.
        better: `"more"`, `"less"`, or empty where neither is.
        of: by side (keys of `SIDES`), its value.
        change: student minus base, where the two are compared unit by unit.
        said: one sentence that the figures alone do not say.
        origin: one sentence on where it comes from: the teacher, the data, or neither.
        missing: why it could not be measured; empty: it was.
        given: whether what it needs was given; a shipped threshold on what nobody asked for does not count.
        doubted: why it is printed and no headline is made of it; a threshold on it is then not shown to hold.

    Example:
        >>> Figure("overlap_share", "Overlap", "risk", "share", "less", {"student": Value(0.1)}).is_measured
        True
    """

    name: str
    title: str
    section: str
    kind: str
    better: str = ""
    of: Mapping[str, Value] = field(default_factory=dict)
    change: Value | None = None
    said: str = ""
    origin: str = ""
    missing: str = ""
    given: bool = True
    doubted: str = ""

    def __post_init__(self) -> None:
        assert self.section in SECTIONS, self.section
        assert self.kind in KINDS, self.kind
        assert set(self.of) <= set(SIDES), self.of
        assert bool(self.missing) is not bool(self.of), f"{self.name} is measured, or says why not"

    @property
    def is_measured(self) -> bool:
        """Whether there is a value of the student."""
        return "student" in self.of

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def of_dict(cls, found: Mapping[str, Any]) -> "Figure":
        """What `as_dict` gave."""
        of = {side: Value(**value) for side, value in found["of"].items()}
        change = None if found["change"] is None else Value(**found["change"])
        return cls(**{**found, "of": of, "change": change})


def missing(name: str, title: str, section: str, why: str, *, given: bool = True) -> Figure:
    """A figure that could not be measured, and why."""
    return Figure(name, title, section, "number", missing=why, given=given)


def of_share(found: int, n: int) -> Value:
    """A share with its exact interval."""
    one = exact_share(found, n)
    return Value(one.mean, one.low, one.high, n)


def of_mean(values: Sequence[float]) -> Value:
    """A mean with its bootstrap interval."""
    table = np.asarray(values, dtype=float)
    return Value(*over_units(lambda counts: counts @ table / len(table), len(table)), n=len(table))


def of_ratio(sides: Sequence[Sequence[tuple[float, float]]]) -> Value:
    """Sum over sum, its units drawn anew; of two sides the first one's ratio minus the second one's, the same units drawn for both.

    Args:
        sides: of each side, of each unit (a text, say) what is counted and out of what.
    """
    tables = [np.asarray(side, dtype=float) for side in sides]

    def figure(counts: Any) -> Any:
        ratios = [(counts @ one[:, 0]) / np.maximum(counts @ one[:, 1], 1e-12) for one in tables]
        return ratios[0] if len(ratios) == 1 else ratios[0] - ratios[1]

    return Value(*over_units(figure, len(tables[0])), n=len(tables[0]))
