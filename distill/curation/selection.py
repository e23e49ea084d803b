"""Which scored completions are distilled, and what that does to the distribution that is distilled."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import datasets

from distill.basics.curation_step import Step
from distill.pairs.groups import rows_by_prompt

KEEP = ("all", "best", "first_correct", "up_to")
UNSCORED = ("drop", "raise")


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
    groups, scores = rows_by_prompt(pairs).values(), _scores(pairs)
    scored = [[scores[i] for i in group if scores[i] is not None] for group in groups]
    correct = [sum(score >= threshold for score in group if score is not None) for group in scored]
    errors = pairs["score_error"] if "score_error" in pairs.column_names else []
    return PassRates(
        rates=tuple(right / len(group) for right, group in zip(correct, scored, strict=True) if group),
        samples=tuple(len(group) for group in scored if group),
        unscored=sum(score is None for score in scores),
        without_score=sum(not group for group in scored),
        first_error=next((error for error in errors if error), None),
    )


def select(
    pairs: datasets.Dataset,
    keep: str = "all",
    *,
    k: int | None = None,
    threshold: float | None = 1.0,
    unscored: str = "drop",
) -> tuple[datasets.Dataset, Step]:
    """Keep scored completions, and say what that does to the distribution that is distilled.

    Args:
        pairs: with a `score`.
        keep: `"all"` that reach the threshold; of each prompt the `"best"` of them, the `"first_correct"`, or
            `"up_to"` the first `k`. First means the lowest `sample`; it also decides between equally good ones.
        k: for `"up_to"`.
        threshold: a completion below this score is never kept; `None` sets no limit.
        unscored: completions without a score are no evidence of anything: `"drop"` removes and counts them, `"raise"`
            stops at the first.

    Returns:
        The pairs that are kept, in their order, and a record with the figures of `effect_of` in its settings.

    Raises:
        ValueError: no score; nothing is left; a setting out of range.

    Example:
        >>> kept, step = select(verify(pairs, rows, number_match()), "up_to", k=2)
    """
    _check(keep, k, unscored)
    groups, scores = rows_by_prompt(pairs).values(), _scores(pairs)
    missing = [i for i, score in enumerate(scores) if score is None]
    if missing and unscored == "raise":
        error = pairs[missing[0]].get("score_error") or "no reason is given"
        raise ValueError(f"{len(missing)} of {len(pairs)} pairs have no score; the first: {error}")
    samples = pairs["sample"]
    chosen: list[int] = []
    for group in groups:
        good = [i for i in group if (s := scores[i]) is not None and (threshold is None or s >= threshold)]
        good.sort(key=lambda i: samples[i])
        if keep == "best":
            good.sort(key=lambda i: -(scores[i] or 0.0))  # stable: the first of the best
        chosen += good[: {"all": None, "up_to": k}.get(keep, 1)]
    chosen.sort()
    if not chosen:
        raise ValueError(
            f"None of the {len(pairs)} completions has a score of at least {threshold} ({len(missing)} have none"
            + (f", the first because of {pairs[missing[0]].get('score_error')}" if missing else "")
            + "). Take easier prompts, more samples, a better teacher or another verifier."
        )
    kept = pairs.select(chosen)
    effect = effect_of(pairs, kept, threshold)
    left_out = sorted(set(range(len(pairs))) - set(chosen))[:3]
    settings = {"keep": keep, "k": k, "threshold": threshold, "unscored": len(missing), **effect.as_dict()}
    completions = pairs.select(left_out)["completion"] if left_out else []
    examples = tuple(f"score {scores[i]}: {text[:100]}" for i, text in zip(left_out, completions, strict=True))
    return kept, Step(f"keep {keep}", len(pairs), len(kept), effect.in_words(keep, k, threshold), settings, examples)


@dataclass(frozen=True)
class Effect:
    """What a selection does to the distribution p(x) p(y|x) of prompts and completions; estimated from the samples.

    Args:
        pass_rate: share of the teacher's probability that is kept, as a mean over prompts. 1 minus it is the total
            variation between p(y|x) and p(y|x, correct), exactly so for each prompt.
        pass_rate_solved: the same over the prompts that are left.
        kl_solved: mean over those of -log(pass rate), the KL divergence of p(y|x, correct) from p(y|x), in nats.
        prompts, prompts_kept: how many.
        effective_prompts: 1 / (sum of squared weights) of the prompts that are left: as many equally weighted ones would
            be worth as much.
        prompt_shift: total variation between the weights of the prompts before and after.
        pass_rate_weighted: mean pass rate of the prompts, weighted as they are after the selection; above `pass_rate`
            means that easy prompts gained.
        tokens, tokens_kept: mean tokens of a completion.
        most_samples: scored completions of the prompt that has most, N.
    """

    pass_rate: float
    pass_rate_solved: float
    kl_solved: float
    prompts: int
    prompts_kept: int
    effective_prompts: float
    prompt_shift: float
    pass_rate_weighted: float
    tokens: float
    tokens_kept: float
    most_samples: int

    @property
    def best_of_kl(self) -> float:
        """log N - (N - 1)/N: how far the best of N samples is from one sample, at most (Beirami et al. 2024)."""
        return math.log(self.most_samples) - (self.most_samples - 1) / self.most_samples

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def in_words(self, keep: str = "all", k: int | None = None, threshold: float | None = 1.0) -> str:
        """One sentence for a table; the figures are estimates from the samples there are."""
        lengths = f"mean length {self.tokens:.1f} -> {self.tokens_kept:.1f} tokens"
        if threshold is None:
            what = "no completion is left out for its score"
            if keep == "best":
                what = (
                    f"the best of up to {self.most_samples} samples is distilled and not p(y|x), from which its distribution "
                    f"is at most {self.best_of_kl:.2f} nats (KL) away"
                )
            return f"Without a threshold {what}; {lengths}."
        words = (
            f"Not p(y|x) but p(y|x, correct) is distilled: {self.pass_rate:.0%} of its mass is kept, so the two differ by a "
            f"total variation of {1 - self.pass_rate:.2f} on average (exactly 1 minus the pass rate, for each prompt); "
            f"{self.prompts - self.prompts_kept} of {self.prompts} prompts vanish, the rest weigh as much as "
            f"{self.effective_prompts:.0f} equal ones, and their pass rate by weight is {self.pass_rate_weighted:.0%}; "
        )
        more = {
            "all": "a prompt's weight is its pass rate, so easy prompts gain",
            "first_correct": "each solved prompt weighs the same, whatever its pass rate",
            "up_to": f"each prompt with {k} correct completions or more weighs the same",
            "best": f"each solved prompt weighs the same, and the best of up to {self.most_samples} samples stands for it, "
            "which favours high scores where scores are graded",
        }
        return f"{words}{more[keep]}; {lengths}."


def effect_of(pairs: datasets.Dataset, kept: datasets.Dataset, threshold: float | None = 1.0) -> Effect:
    """Figures of what a selection did; see `Effect`.

    Args:
        pairs: scored pairs before.
        kept: those of them that were kept; at least one.
        threshold: what is correct; `None` counts every scored completion.
    """
    scores = _scores(pairs)
    groups, left = rows_by_prompt(pairs), rows_by_prompt(kept)
    scored = {prompt: [i for i in group if scores[i] is not None] for prompt, group in groups.items()}
    counts = [len(left.get(prompt, ())) for prompt, group in scored.items() if group]
    before = [group for group in scored.values() if group]
    correct = [sum(threshold is None or (scores[i] or 0.0) >= threshold for i in group) for group in before]
    rates = [right / len(group) for right, group in zip(correct, before, strict=True)]
    old, new = _weights([len(group) for group in before]), _weights(counts)
    solved = [rate for rate, count in zip(rates, counts, strict=True) if count and rate]
    return Effect(
        pass_rate=_mean(rates),
        pass_rate_solved=_mean(solved),
        kl_solved=_mean([-math.log(rate) for rate in solved]),
        prompts=len(before),
        prompts_kept=sum(count > 0 for count in counts),
        effective_prompts=1 / sum(weight**2 for weight in new),
        prompt_shift=sum(abs(one - other) for one, other in zip(old, new, strict=True)) / 2,
        pass_rate_weighted=sum(weight * rate for weight, rate in zip(new, rates, strict=True)),
        tokens=_mean([len(ids) for ids in pairs["completion_ids"]]),
        tokens_kept=_mean([len(ids) for ids in kept["completion_ids"]]),
        most_samples=max(map(len, before)),
    )


def _check(keep: str, k: int | None, unscored: str) -> None:
    if keep not in KEEP:
        raise ValueError(f"keep is {keep!r}, expected one of {', '.join(KEEP)}.")
    if unscored not in UNSCORED:
        raise ValueError(f"unscored is {unscored!r}, expected one of {', '.join(UNSCORED)}.")
    if (keep == "up_to") != (k is not None) or (k is not None and k < 1):
        raise ValueError(f"k is {k} with keep={keep!r}; 'up_to' needs a k of at least 1, and the others have none.")


def _scores(pairs: datasets.Dataset) -> list[float | None]:
    if "score" not in pairs.column_names:
        if "score_error" in pairs.column_names:  # a file leaves out a column that is empty: no completion got a score
            return [None] * len(pairs)
        raise ValueError("The pairs have no score; give them one with distill.curation.verifiers.verify.")
    return list(pairs["score"])


def _weights(counts: Sequence[int]) -> list[float]:
    return [count / sum(counts) for count in counts]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
