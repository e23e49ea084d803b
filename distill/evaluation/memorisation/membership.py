"""Membership: can it be told which rows a model was trained on? True positives at few false ones, with exact intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from distill.basics.intervals import exact_share

ENOUGH = 100  # controls; of fewer the threshold for one false positive in a hundred is not known


@dataclass(frozen=True)
class Membership:
    """How many members are told from controls.

    Args:
        found: members above the threshold.
        members, controls: how many there are.
        false: controls above it.
        allowed: share of controls that may be above it.
        low, high: 95% interval of the share of members that are found, given the threshold.
    """

    found: int
    members: int
    false: int
    controls: int
    allowed: float
    low: float
    high: float

    @property
    def by_chance(self) -> float:
        """How likely so many members or more are found where members are drawn as controls are: exact, over both draws (hypergeometric).

        The interval holds for the threshold that these controls gave; this one holds for whatever threshold they might have given.
        """
        from scipy import stats

        # so many are found: among the highest so many and the controls that may pass, no more than those are controls
        passing = math.floor(self.allowed * self.controls)
        return float(stats.hypergeom.cdf(passing, self.members + self.controls, self.controls, self.found + passing))

    @property
    def rate(self) -> float:
        """Share of members that are found."""
        return self.found / self.members

    @property
    def is_enough(self) -> bool:
        """Whether there are enough controls for a headline."""
        return self.controls >= max(ENOUGH, math.ceil(1 / self.allowed))

    def __str__(self) -> str:
        said = (
            f"{self.found} of {self.members} members ({self.rate:.0%} [{self.low:.0%} to {self.high:.0%}]) lie above all but {self.false} of "
            f"{self.controls} controls"
        )
        if self.is_enough:
            return f"At {self.allowed:.0%} false positives: {said}."
        return f"No headline, with {self.controls} controls (at least {max(ENOUGH, math.ceil(1 / self.allowed))} are needed): {said}."


def membership(members: Sequence[float], controls: Sequence[float], allowed: float = 0.01) -> Membership:
    """How many members score above nearly all controls.

    The threshold is the highest that lets as many controls pass as are allowed; who scores equal to it does not pass, so a score that tells
    nothing finds no more members than controls.

    Args:
        members: scores of what was trained on; larger is more suspicious (`Exposure.log_likelihood`; ranks of a few values tie).
        controls: scores of what was not, of the same form.
        allowed: share of false positives.

    Raises:
        ValueError: no members or controls, a share out of range, a score that is no number; scipy is missing.

    Source: Carlini et al. 2022 (Membership inference from first principles); Clopper and Pearson 1934.

    Example:
        >>> membership([3.0, 2.0], [0.5] * 100).found
        2
    """
    if not members or not controls or not 0 < allowed < 1:
        raise ValueError(
            f"There are {len(members)} members and {len(controls)} controls (at least 1 of each), and allowed is {allowed} (above 0, below 1)."
        )
    if bad := [value for value in (*members, *controls) if math.isnan(value)]:
        raise ValueError(f"{len(bad)} scores are no numbers.")
    passing = math.floor(allowed * len(controls))
    threshold = sorted(controls, reverse=True)[passing]
    found, n = sum(value > threshold for value in members), len(members)
    share = exact_share(found, n)
    return Membership(
        found, n, sum(value > threshold for value in controls), len(controls), allowed, share.low, share.high
    )
