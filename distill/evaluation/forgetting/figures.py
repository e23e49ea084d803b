"""The figures of forgetting: what was, what is, and their difference with its interval."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill.basics.intervals import over_units


class Measure(NamedTuple):
    """One measure in words.

    Args:
        title: what it is called.
        unit: of its figures.
        own_tokens: whether it needs the start's tokens, and so cannot be had of a student with another tokenizer.
    """

    title: str
    unit: str
    own_tokens: bool = True


MEASURES: dict[str, Measure] = {
    "kl_old": Measure("KL to the start on old prompts", "nats a token"),
    "kl_new": Measure("KL to the start on new prompts", "nats a token"),
    "loss_old": Measure("loss on old prompts", "nats a token"),
    "loss_new": Measure("loss on new prompts", "nats a token"),
    "bytes_old": Measure("loss on old prompts", "nats a byte", own_tokens=False),
    "bytes_new": Measure("loss on new prompts", "nats a byte", own_tokens=False),
    "same_old": Measure("same most likely token on old prompts", "share"),
    "same_new": Measure("same most likely token on new prompts", "share"),
    "ece_old": Measure("calibration error on old prompts", "ECE"),
    "ece_new": Measure("calibration error on new prompts", "ECE"),
    "tokens": Measure("length of an answer to an old prompt", "tokens"),
    "characters": Measure("length of an answer to an old prompt", "characters", own_tokens=False),
    "ended": Measure("answers that end by themselves", "share", own_tokens=False),
    "empty": Measure("answers without a word", "share", own_tokens=False),
}


@dataclass(frozen=True)
class Change:
    """One measure before and after.

    Args:
        before, after: of the start and the student.
        difference: after minus before, of the same pairs.
        low, high: its 95% interval, a bootstrap over pairs.
    """

    before: float
    after: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Forgetting:
    """What a student's training changed, against the model it started from.

    Args:
        measures: by the names of `MEASURES`, in their order. KL is KL(start || student).
        not_comparable: names of measures that cannot be had, since student and start have different tokenizers.
        pairs, tokens: how many of `"old"` and of `"new"` pairs there were, and their supervised positions of the start.
        by_pair: of each pair its KL, summed over its positions, and these counted: `{"old": {"kl": [...], "tokens": [...]}, ...}`; for intervals over
            several trainings. Empty where there is no KL.

    Example:
        >>> Before(start, old, new, tokenizer).measure(student)["kl_old"].after
    """

    measures: Mapping[str, Change]
    not_comparable: tuple[str, ...] = ()
    pairs: Mapping[str, int] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    by_pair: Mapping[str, Mapping[str, list[float]]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Change:
        return self.measures[name]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `Forgetting.of` takes them back."""
        return {
            "measures": {name: vars(change).copy() for name, change in self.measures.items()},
            "not_comparable": list(self.not_comparable),
            "pairs": dict(self.pairs),
            "tokens": dict(self.tokens),
            "by_pair": {name: dict(found) for name, found in self.by_pair.items()},
        }

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Forgetting":
        """What `as_dict` gave."""
        measures = {name: Change(**change) for name, change in values["measures"].items()}
        return cls(measures, tuple(values["not_comparable"]), values["pairs"], values["tokens"], values["by_pair"])

    def table(self) -> str:
        """Markdown: a row a measure, differences with their intervals, and what cannot be compared."""
        lines = ["| measure | before | after | difference | 95% |", "|---|---|---|---|---|"]
        for name, one in self.measures.items():
            lines.append(
                f"| {MEASURES[name].title}, {MEASURES[name].unit} | {one.before:.3g} | {one.after:.3g} | {one.difference:+.3g} | "
                f"{one.low:+.3g} to {one.high:+.3g} |"
            )
        if self.not_comparable:
            titles = dict.fromkeys(f"{MEASURES[name].title} ({MEASURES[name].unit})" for name in self.not_comparable)
            lines += ["", f"Not comparable, since the tokenizers are two: {'; '.join(titles)}."]
        return "\n".join(lines)


def of_ratio(before: Any, after: Any, sizes: Any, draws: int) -> Change:
    """A measure that is a sum over pairs divided by a sum of sizes: `[pairs]` each.

    Args:
        before, after: sums of each pair.
        sizes: what they are divided by (tokens, bytes, or 1 each); of both sides, or a tuple of each side's.
        draws: of the bootstrap.
    """
    one, other = np.asarray(before, np.float64), np.asarray(after, np.float64)
    both = sizes if isinstance(sizes, tuple) else (sizes, sizes)
    own, theirs = (np.asarray(part, np.float64) for part in both)
    return _change(
        lambda counts: (counts @ one) / (counts @ own), lambda counts: (counts @ other) / (counts @ theirs), len(one), draws
    )  # fmt: skip


def of_calibration(before: NDArray[Any], after: NDArray[Any], sizes: Any, draws: int) -> Change:
    """ECE from gaps of the bins of each pair, `[pairs, bins]` (`bin_gaps`); `sizes`: positions of each pair."""
    tokens = np.asarray(sizes, np.float64)
    return _change(
        lambda counts: np.abs(counts @ before).sum(1) / (counts @ tokens),
        lambda counts: np.abs(counts @ after).sum(1) / (counts @ tokens),
        len(tokens),
        draws,
    )


def _change(before: Any, after: Any, units: int, draws: int) -> Change:
    everyone = np.ones((1, units))
    found = over_units(lambda counts: after(counts) - before(counts), units, draws)
    return Change(float(before(everyone)[0]), float(after(everyone)[0]), *found)
