"""Pass rates: how often each prompt was answered correctly."""

import math
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from distill.pairs.batches import column
from distill.pairs.groups import prompt_numbers


@dataclass(frozen=True)
class PassRates:
    """How often each prompt was answered correctly.

    Args:
        rates: share of correct completions of each prompt, in the order of the pairs; only prompts with a score.
        samples: scored completions of each of these prompts.
        unscored: completions without a score (the verifier raised, or gave no number).
        without_score: prompts none of whose completions has a score.
        first_error: what the verifier said the first time, if it ever failed.
    """

    rates: tuple[float, ...]
    samples: tuple[int, ...]
    unscored: int
    without_score: int
    first_error: str | None

    @property
    def mean(self) -> float:
        """Mean over prompts; NaN if none has a score."""
        return sum(self.rates) / len(self.rates) if self.rates else math.nan

    @property
    def never(self) -> int:
        """Prompts that were never solved."""
        return sum(rate == 0 for rate in self.rates)

    @property
    def always(self) -> int:
        """Prompts that were solved by every completion."""
        return sum(rate == 1 for rate in self.rates)

    def histogram(self) -> list[tuple[str, int]]:
        """Prompts by pass rate: never, five ranges in between, always."""
        bins = [0] * 5
        for rate in self.rates:
            if 0 < rate < 1:
                bins[min(int(rate * 5), 4)] += 1
        ranges = [(f"{20 * i}-{20 * (i + 1)}%", count) for i, count in enumerate(bins)]
        return [("never", self.never), *ranges, ("always", self.always)]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; a summary without the rates of single prompts."""
        return {
            "prompts": len(self.rates),
            "completions": sum(self.samples),
            "mean": self.mean,
            "never": self.never,
            "always": self.always,
            "unscored": self.unscored,
            "without_score": self.without_score,
            "first_error": self.first_error,
            "histogram": dict(self.histogram()),
        }

    def __str__(self) -> str:
        rows = self.histogram()
        widest = max(1, *(count for _, count in rows))
        lines = [
            f"{len(self.rates)} prompts, {sum(self.samples)} scored completions: mean pass rate {self.mean:.1%}; "
            f"{self.never} never solved, {self.always} always."
        ]
        if self.unscored:
            lines.append(
                f"{self.unscored} completions have no score, and {self.without_score} prompts none at all"
                + (f"; the first error: {self.first_error}" if self.first_error else ".")
            )
        lines += [f"{name:>8} {'█' * -(-24 * count // widest)} {count}" for name, count in rows]
        return "\n".join(lines)


def pass_rates(pairs: datasets.Dataset, threshold: float = 1.0) -> PassRates:
    """How often each prompt was answered correctly.

    Args:
        pairs: with a `score`, as `distill.curation.verifiers.verify` gives them.
        threshold: a completion with this score or more is correct.

    Raises:
        ValueError: the pairs have no score.
    """
    prompt, scores = prompt_numbers(pairs), scores_of(pairs)
    scored = ~np.isnan(scores)
    prompts = int(prompt.max(initial=-1)) + 1
    samples = np.bincount(prompt[scored], minlength=prompts)
    correct = np.bincount(prompt[scored & (scores >= threshold)], minlength=prompts)
    there = samples > 0
    errors = column(pairs, "score_error").drop_null() if "score_error" in pairs.column_names else []
    return PassRates(
        rates=tuple((correct[there] / samples[there]).tolist()),
        samples=tuple(samples[there].tolist()),
        unscored=int((~scored).sum()),
        without_score=int((~there).sum()),
        first_error=next((str(error) for error in errors if str(error)), None),
    )


def scores_of(pairs: datasets.Dataset) -> NDArray[np.float64]:
    """`[rows]`: the scores, NaN where there is none.

    Raises:
        ValueError: no pair has a score, nor an error in place of one.
    """
    if "score" in pairs.column_names:
        return np.asarray(column(pairs, "score").to_numpy(), dtype=np.float64)
    if "score_error" in pairs.column_names:  # a file leaves out a column that is empty: no completion got a score
        return np.full(len(pairs), np.nan)
    raise ValueError("The pairs have no score; give them one with distill.curation.verifiers.verify.")
