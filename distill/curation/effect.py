"""Effect of a selection on the distribution of prompts and completions, in figures and in words."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from distill.curation.pass_rates import scores_of
from distill.pairs.batches import batches, flat
from distill.pairs.groups import ids_keys, numbered


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
    halves = zip(*(ids_keys(some, "prompt_ids") for some in (pairs, kept)), strict=True)
    both = numbered(*map(np.concatenate, halves))
    return effect_by_prompt(
        both[: len(pairs)], scores_of(pairs), sizes_of(pairs), both[len(pairs) :], sizes_of(kept), threshold
    )


def effect_by_prompt(
    prompt: NDArray[np.int64],
    scores: NDArray[np.float64],
    sizes: NDArray[np.int64],
    kept: NDArray[np.int64],
    kept_sizes: NDArray[np.int64],
    threshold: float | None,
) -> Effect:
    """`effect_of` from columns: of each row the number of its prompt, its score (NaN: none), its completion's tokens."""
    scored, prompts = ~np.isnan(scores), int(prompt.max(initial=-1)) + 1
    samples = np.bincount(prompt[scored], minlength=prompts)
    passed = scored if threshold is None else scored & (scores >= threshold)
    there = samples > 0
    before = samples[there]
    counts = np.bincount(kept, minlength=prompts)[:prompts][there]
    rates = np.bincount(prompt[passed], minlength=prompts)[there] / before
    old, new = before / before.sum(), counts / counts.sum()
    solved = rates[(counts > 0) & (rates > 0)]
    return Effect(
        pass_rate=_mean(rates),
        pass_rate_solved=_mean(solved),
        kl_solved=_mean(np.abs(np.log(solved))),  # of a rate at most 1; not minus zero, which a card would show
        prompts=len(before),
        prompts_kept=int((counts > 0).sum()),
        effective_prompts=float(1 / (new**2).sum()),
        prompt_shift=float(np.abs(old - new).sum() / 2),
        pass_rate_weighted=float(new @ rates),
        tokens=_mean(sizes),
        tokens_kept=_mean(kept_sizes),
        most_samples=int(before.max()),
    )


def sizes_of(pairs: datasets.Dataset) -> NDArray[np.int64]:
    """`[rows]`: tokens of each completion."""
    found = [flat(table["completion_ids"])[1] for table in batches(pairs, ["completion_ids"])]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else math.nan
