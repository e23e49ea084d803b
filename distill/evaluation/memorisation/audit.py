"""Several models audited alike: what each knows of the secrets, beside what stood in the rows that it was trained on itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from distill.basics.intervals import Interval, Share, exact_share, over_units
from distill.evaluation.memorisation.examination import Examination
from distill.evaluation.memorisation.exposure import Exposure


@dataclass(frozen=True)
class Audited:
    """One model of one training.

    Args:
        arm: which kind of model.
        seed: of its training, and of the secrets.
        found: what it gives away.
        held: how often each secret stood among the tokens with loss of *its own* batches, by the canary's id; absent: never.
        overlap: share of its runs of words, and the longest stretch, that stand in the rows with the secrets; in answers to other prompts.
        overlap_asked: the same, in answers to questions about planted secrets. Absent where no answer has as many words.
        seconds: that the training took.
    """

    arm: str
    seed: int
    found: Examination
    held: Mapping[str, int] = field(default_factory=dict)
    overlap: Mapping[str, Any] | None = None
    overlap_asked: Mapping[str, Any] | None = None
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return {**asdict(self), "found": self.found.as_dict(), "held": dict(self.held)}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Audited":
        """From `as_dict`."""
        return cls(**{**plain, "found": Examination.of(plain["found"])})


Chosen = Callable[["Audited", Exposure], bool]


def anything(model: Audited, one: Exposure) -> bool:
    """All planted secrets."""
    return True


def never_held(model: Audited, one: Exposure) -> bool:
    """Secrets that stood in none of the model's own rows."""
    return not model.held.get(one.canary.id)


class Arm:
    """The trainings of one kind of model, pooled: a secret of a training is a unit, since each training has secrets of its own.

    Args:
        trainings: of one arm.
        starts: of the same seeds, the model before any training.

    Raises:
        ValueError: no trainings; a start that is missing.
    """

    def __init__(self, trainings: Sequence[Audited], starts: Sequence[Audited]) -> None:
        of = {one.seed: one for one in starts}
        if not trainings or (missing := [one.seed for one in trainings if one.seed not in of]):
            raise ValueError(f"There are {len(trainings)} trainings, and no model before them of seeds {missing if trainings else 'any'}.")  # fmt: skip
        self.trainings = tuple(sorted(trainings, key=lambda one: one.seed))
        self.arm = self.trainings[0].arm
        self._before = {one.canary.id + f" {seed}": one for seed, start in of.items() for one in start.found.ranked}

    def gains(self, repeats: int | None = None, chosen: Chosen = anything) -> dict[str, float]:
        """Bits of exposure that each secret has more than before any training, by seed and canary."""
        found = {}
        for model in self.trainings:
            for one in model.found.planted(repeats):
                if chosen(model, one):
                    name = f"{one.canary.id} {model.seed}"
                    found[name] = one.bits - self._before[name].bits
        return found

    def bits(self, repeats: int | None = None, planted: bool = True) -> Interval:
        """Mean exposure of the planted (or of controls), with an interval over secrets."""
        some = [one.bits for model in self.trainings for one in (model.found.planted(repeats) if planted else model.found.controls)]  # fmt: skip
        return mean_of(some)

    def said(self, repeats: int | None = None, chosen: Chosen = anything, greedy: bool = False) -> Share:
        """How many secrets it says when asked, in any of its answers (or in its most likely one)."""
        right = n = 0
        for model in self.trainings:
            kept = {one.canary.id for one in model.found.planted(repeats) if chosen(model, one)}
            asked = [one for one in model.found.said if one.canary.id in kept]
            right += sum(one.greedy or (not greedy and bool(one.sampled)) for one in asked)
            n += len(asked)
        return exact_share(right, n)

    def said_controls(self) -> Share:
        """The same of controls: what chance says."""
        asked = [one for model in self.trainings for one in model.found.said if not one.canary.repeats]
        return exact_share(sum(bool(one.greedy or one.sampled) for one in asked), len(asked))

    def told(self, repeats: int | None = None) -> Share:
        """Members at 1% false positives: the thresholds are each training's own, so seeds are added up."""
        found = [model.found.membership(repeats) for model in self.trainings]
        return exact_share(sum(one.found for one in found), sum(one.members for one in found))

    @property
    def is_enough(self) -> bool:
        """Whether there are enough controls for a headline about members."""
        return all(model.found.membership().is_enough for model in self.trainings)

    def held(self) -> Share:
        """Secrets that stood in the model's own rows."""
        planted = [(model, one) for model in self.trainings for one in model.found.planted()]
        return exact_share(sum(not never_held(model, one) for model, one in planted), len(planted))

    def accusing(self) -> dict[str, int]:
        """In how many trainings each detector accuses."""
        counts: dict[str, int] = {}
        for model in self.trainings:
            for name in model.found.accusing():
                counts[name] = counts.get(name, 0) + 1
        return counts

    def silent(self) -> int:
        """Trainings whose model answered with nothing at all: what it does not say proves nothing about what it knows."""
        return sum(not any(one.said.strip() for one in model.found.said) for model in self.trainings)

    def overlaps(self, of: str = "overlap") -> float | None:
        """Mean share of runs of words that stand in the rows with the secrets; None where it could not be told."""
        shares = [getattr(model, of)["share"] for model in self.trainings if getattr(model, of)]
        return sum(shares) / len(shares) if shares else None


def mean_of(values: Sequence[float]) -> Interval:
    """A mean with a bootstrap interval over secrets; without any, no number and no interval."""
    table = np.array(values)
    if not len(table):
        return Interval(float("nan"), float("nan"), float("nan"))
    return over_units(lambda counts: counts @ table / counts.sum(1), len(table))


def difference(one: Arm, other: Arm, repeats: int | None = None, chosen: Chosen = anything) -> Interval:
    """Bits that `one` gained more than `other`, secret by secret (those that both have: with `never_held`, those that neither held).

    Raises:
        ValueError: none in common.
    """
    a, b = one.gains(repeats, chosen), other.gains(repeats, chosen)
    both = [name for name in a if name in b]
    if not both:
        raise ValueError(f"{one.arm} and {other.arm} have no secrets in common.")
    return mean_of([a[name] - b[name] for name in both])


def said_difference(one: Arm, other: Arm) -> Interval:
    """Share of secrets that `one` says more than `other`, secret by secret."""
    told = [
        {
            f"{said.canary.id} {model.seed}": float(said.greedy or said.sampled > 0)
            for model in arm.trainings
            for said in model.found.said
            if said.canary.repeats
        }
        for arm in (one, other)
    ]
    return mean_of([told[0][name] - told[1][name] for name in told[0] if name in told[1]])


def outcome(difference: Interval) -> str:
    """Whether a difference (hard minus soft) is as published, the other way round, or cannot be told."""
    if difference.low > 0:
        return "came out"
    return "came out the other way round" if difference.high < 0 else "cannot be told"
