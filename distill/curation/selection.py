"""Which scored completions are distilled (what that does to their distribution: `effect`)."""

from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from distill.basics.curation_step import Step
from distill.curation.effect import Effect, effect_by_prompt, effect_of, sizes_of
from distill.curation.pass_rates import PassRates, pass_rates, scores_of
from distill.pairs.batches import column
from distill.pairs.groups import prompt_numbers

__all__ = ["KEEP", "UNSCORED", "Effect", "PassRates", "effect_of", "pass_rates", "select"]

KEEP = ("all", "best", "first_correct", "up_to")
UNSCORED = ("drop", "raise")


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
    prompt, scores = prompt_numbers(pairs), scores_of(pairs)
    missing = np.flatnonzero(np.isnan(scores))
    if len(missing) and unscored == "raise":
        error = pairs[int(missing[0])].get("score_error") or "no reason is given"
        raise ValueError(f"{len(missing)} of {len(pairs)} pairs have no score; the first: {error}")
    chosen = _chosen(prompt, scores, column(pairs, "sample").to_numpy(), keep, k, threshold)
    if not len(chosen):
        raise ValueError(
            f"None of the {len(pairs)} completions has a score of at least {threshold} ({len(missing)} have none"
            + (f", the first because of {pairs[int(missing[0])].get('score_error')}" if len(missing) else "")
            + "). Take easier prompts, more samples, a better teacher or another verifier."
        )
    kept, sizes = pairs.select(chosen), sizes_of(pairs)
    effect = effect_by_prompt(prompt, scores, sizes, prompt[chosen], sizes[chosen], threshold)
    left_out = np.setdiff1d(np.arange(len(pairs)), chosen)[:3]
    settings = {"keep": keep, "k": k, "threshold": threshold, "unscored": len(missing), **effect.as_dict()}
    completions = pairs.select(left_out)["completion"][:] if len(left_out) else []
    examples = tuple(
        f"score {None if np.isnan(scores[i]) else scores[i]}: {text[:100]}"
        for i, text in zip(left_out, completions, strict=True)
    )
    return kept, Step(f"keep {keep}", len(pairs), len(kept), effect.in_words(keep, k, threshold), settings, examples)


def _chosen(
    prompt: NDArray[np.int64],
    scores: NDArray[np.float64],
    samples: NDArray[Any],
    keep: str,
    k: int | None,
    threshold: float | None,
) -> NDArray[np.int64]:
    """The rows that are kept, in their order."""
    good = np.flatnonzero(~np.isnan(scores) if threshold is None else scores >= threshold)  # NaN is not
    better = -scores[good] if keep == "best" else np.zeros(len(good))
    order = good[np.lexsort((samples[good], better, prompt[good]))]  # stable: of equal ones the first in the file
    most = {"all": None, "up_to": k}.get(keep, 1)
    if most is not None and len(order):
        begins = np.flatnonzero(np.r_[True, prompt[order][1:] != prompt[order][:-1]])
        place = np.arange(len(order)) - np.repeat(begins, np.diff(np.r_[begins, len(order)]))
        order = order[place < most]
    return np.sort(order)


def _check(keep: str, k: int | None, unscored: str) -> None:
    if keep not in KEEP:
        raise ValueError(f"keep is {keep!r}, expected one of {', '.join(KEEP)}.")
    if unscored not in UNSCORED:
        raise ValueError(f"unscored is {unscored!r}, expected one of {', '.join(UNSCORED)}.")
    if (keep == "up_to") != (k is not None) or (k is not None and k < 1):
        raise ValueError(f"k is {k} with keep={keep!r}; 'up_to' needs a k of at least 1, and the others have none.")
