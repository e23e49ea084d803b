"""A figure with its 95% interval: by the bootstrap (units drawn anew, as counts and not as copies), of a share exactly; and a test that is exact for few units."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
_ALL_SIGNS = 16  # units up to which every choice of signs is looked at, 65,536
_SIGNS_DRAWN = 50_000


class Interval(NamedTuple):
    """A mean with its 95% interval."""

    mean: float
    low: float
    high: float


def drawn_counts(units: int, draws: int = DRAWS, seed: int = 0) -> NDArray[np.float64]:
    """`[draws, units]`: how often each unit comes in each resample (Efron 1979).

    Raises:
        ValueError: no units.
    """
    if units < 1:
        raise ValueError("There are no units to draw from; a bootstrap needs at least one.")
    drawn = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=draws)
    return np.asarray(drawn, np.float64)


def over_units(
    figure: Callable[[NDArray[np.float64]], NDArray[np.float64]], units: int, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """A figure over all units once, and between which values 95% of its resamples lie.

    Two figures of the same units are compared by the interval of their difference, made here in one go: then each resample
    takes the same units for both (paired).

    Args:
        figure: from counts `[draws, units]` to `[draws]`; a ratio of sums, say `lambda c: (c @ sums) / (c @ sizes)`.
        units: what is drawn: pairs, questions, facts.
        draws, seed: of the resamples.

    Raises:
        ValueError: no units.

    Source: Efron 1979, percentile intervals.

    Example:
        >>> over_units(lambda counts: counts @ np.array([1.0, 3.0]) / counts.sum(1), 2).mean
        2.0
    """
    resampled = figure(drawn_counts(units, draws, seed))
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(float(figure(np.ones((1, units)))[0]), float(low), float(high))


@dataclass(frozen=True)
class Share:
    """How many of how many, with the exact 95% interval.

    Args:
        right: how many.
        n: of how many.
        low, high: the interval; 0 and 1 where there are none to count.
    """

    right: int
    n: int
    low: float
    high: float

    @property
    def mean(self) -> float:
        """The share itself; 0 of none."""
        return self.right / self.n if self.n else 0.0

    def __str__(self) -> str:
        return f"{self.right}/{self.n} = {self.mean:.0%} [{self.low:.0%} to {self.high:.0%}]"


def exact_share(right: int, n: int) -> Share:
    """A share with its exact interval; the units are those that are counted, which must be independent.

    Args:
        right: how many.
        n: of how many.

    Raises:
        ValueError: more than there are, or fewer than none; scipy is missing.

    Source: Clopper and Pearson 1934.

    Example:
        >>> print(exact_share(9, 12))
        9/12 = 75% [43% to 95%]
    """
    if not 0 <= right <= n:
        raise ValueError(f"{right} of {n} is no share.")
    try:
        from scipy import stats
    except ImportError:
        raise ValueError("An exact interval needs the 'scipy' package: pip install 'distill[report]'.") from None
    low = float(stats.beta.ppf(0.025, right, n - right + 1)) if right else 0.0
    high = float(stats.beta.ppf(0.975, right + 1, n - right)) if right < n else 1.0
    return Share(right, n, low, high)


def over_trainings(
    values: Sequence[Sequence[float]], sizes: Sequence[Sequence[float]] | None = None, *, same_units: bool,
    draws: int = DRAWS, seed: int = 0,
) -> Interval:  # fmt: skip
    """A mean over trainings (seeds), and in each over its units, with both drawn anew.

    For a difference of two ways give differences, unit by unit and training by training. With three trainings the interval is a rough one: there are ten
    ways to draw them.

    Args:
        values: of each training what each unit has.
        sizes: what a training's sum is divided by, unit by unit (tokens); None: 1 each.
        same_units: the units are the same in each training (questions that all are asked), so a resample takes the same of them in all;
            False: each training has its own.
        draws, seed: of the resamples.

    Raises:
        ValueError: no values, or trainings with other numbers of units.

    Source: Efron 1979; Davison and Hinkley 1997, section 3.8, for two levels.

    Example:
        >>> over_trainings([[1.0, 0.0], [1.0, 1.0]], same_units=True).mean
        0.75
    """
    if not values or len({len(one) for one in values}) != 1 or not len(values[0]):
        raise ValueError(f"There are {[len(one) for one in values]} values of {len(values)} trainings; give as many, at least one, of each.")  # fmt: skip
    table = np.asarray([list(one) for one in values], np.float64)
    parts = np.ones_like(table) if sizes is None else np.asarray([list(one) for one in sizes], np.float64)
    trainings, units = table.shape
    often = drawn_counts(trainings, draws, seed) / trainings
    total = np.zeros(draws)
    for number in range(trainings):
        counts = drawn_counts(units, draws, seed + 1 + (0 if same_units else number))
        total += often[:, number] * (counts @ table[number]) / (counts @ parts[number])
    low, high = np.quantile(total, [0.025, 0.975])
    return Interval(float(np.mean(table.sum(1) / parts.sum(1))), float(low), float(high))


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95% interval of a share of `n` units, not empty at 0 and 1 either.

    Args:
        share: from 0 to 1; also a mean of units that are each between 0 and 1, which vary no more than those that are 0 or 1.
        n: units, which must be independent.

    Raises:
        ValueError: no units; a share out of range.

    Source: Wilson 1927.

    Example:
        >>> [round(bound, 2) for bound in wilson(0, 8)]
        [0.0, 0.32]
    """
    if n < 1 or not 0 <= share <= 1:
        raise ValueError(f"A share of {share} of {n} units has no interval; it is from 0 to 1, of at least one.")
    z = statistics.NormalDist().inv_cdf(0.975)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def sign_flips(differences: Sequence[float], seed: int = 0) -> float:
    """p of paired differences: how often their sum would be as far from 0 if each could as well have the other sign.

    A bootstrap of seven or eight units calls one null difference in nine clear; this test holds its level for any number of them.
    With five units nothing is below 0.05.

    Args:
        differences: one a unit.
        seed: of the signs that are drawn where there are more than 16 units; all 2^n are looked at before.

    Raises:
        ValueError: no differences.

    Source: Fisher 1935 (The design of experiments, section 21); drawn ones count themselves (Phipson and Smyth 2010).

    Example:
        >>> sign_flips([0.5, 0.5, 0.5, 0, 0, 0, 0])
        0.25
    """
    values = np.asarray(differences, np.float64)
    if not len(values):
        raise ValueError("There are no differences to test.")
    least = abs(values.sum()) - 1e-9
    if len(values) <= _ALL_SIGNS:
        numbers = np.arange(2 ** len(values))[:, None] >> np.arange(len(values))
        return float((np.abs((1 - 2 * (numbers & 1)) @ values) >= least).mean())
    drawn = np.random.default_rng(seed).integers(0, 2, (_SIGNS_DRAWN, len(values)), dtype=np.int8)
    hits = int((np.abs((1 - 2 * drawn) @ values) >= least).sum())
    return (hits + 1) / (_SIGNS_DRAWN + 1)
