"""A model examined: exposure, extraction and membership of the same canaries, each with what chance would give."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from distill.evaluation.memorisation.canaries import Canaries, Canary
from distill.evaluation.memorisation.exposure import Exposure, exposures
from distill.evaluation.memorisation.extraction import Extracted, extract
from distill.evaluation.memorisation.membership import Membership, membership

# A detector accuses where chance does as much in fewer than one of a thousand models that saw nothing: three detectors on a handful of models
# then accuse somebody wrongly in about one report of a hundred. (At 0.01 the first draw of secrets for the embedded model was one, p = 0.005.)
SURE = 0.001


@dataclass(frozen=True)
class Examination:
    """What a model gives away of canaries, and of controls that it never saw.

    Args:
        ranked: exposures of planted and controls.
        said: what it answered, of planted and of as many controls as were asked.
    """

    ranked: tuple[Exposure, ...]
    said: tuple[Extracted, ...]

    def planted(self, repeats: int | None = None) -> list[Exposure]:
        """Exposures of canaries that were planted (so often)."""
        return [one for one in self.ranked if one.canary.repeats and repeats in (None, one.canary.repeats)]

    @property
    def controls(self) -> list[Exposure]:
        """Of the others."""
        return [one for one in self.ranked if not one.canary.repeats]

    def membership(self, repeats: int | None = None, allowed: float = 0.01) -> Membership:
        """Which of the planted lie above nearly all controls, by likelihood.

        Raises:
            ValueError: no planted, or no controls.
        """
        members = [one.log_likelihood for one in self.planted(repeats)]
        return membership(members, [one.log_likelihood for one in self.controls], allowed)

    def extracted(self, repeats: int | None = None) -> list[Extracted]:
        """Planted secrets that stand in any answer."""
        asked = (one for one in self.said if one.canary.repeats and repeats in (None, one.canary.repeats))
        return [one for one in asked if one.greedy or one.sampled]

    def chances(self) -> dict[str, float]:
        """Of each detector, how likely it is to find as much in a model that never saw the canaries (one-sided).

        `exposure`: mean bits of planted against those of controls, with planted and controls exchanged at random (a few secrets that are known well
        count for much in bits, and for little in a test of ranks such as Mann and Whitney's); `extraction`: planted secrets that were said against
        those of controls (Fisher's exact test); `membership`: `Membership.by_chance`. Each is held against controls and not against a table, since a
        model finds some values likelier than others before it was trained.
        """
        from scipy import stats

        told = {side: [bool(one.greedy or one.sampled) for one in self.said if bool(one.canary.repeats) is side] for side in (True, False)}  # fmt: skip
        table = [[sum(told[side]), len(told[side]) - sum(told[side])] for side in (True, False)]
        return {
            "exposure": _exchanged([one.bits for one in self.planted()], [one.bits for one in self.controls]),
            "extraction": float(stats.fisher_exact(table, alternative="greater").pvalue),
            "membership": self.membership().by_chance,
        }

    def accusing(self) -> list[str]:
        """Detectors that say that the model saw the canaries."""
        return [name for name, chance in self.chances().items() if chance < SURE]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return {
            "canaries": [asdict(one.canary) for one in self.ranked],
            "ranked": [[one.rank, one.space, one.log_likelihood] for one in self.ranked],
            "said": {one.canary.id: [one.greedy, one.sampled, one.samples, one.said] for one in self.said},
        }

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Examination":
        """From `as_dict`."""
        known = {one["id"]: Canary(**one) for one in plain["canaries"]}
        ranked = (Exposure(one, *values) for one, values in zip(known.values(), plain["ranked"], strict=True))
        return cls(tuple(ranked), tuple(Extracted(known[name], *values) for name, values in plain["said"].items()))


def _exchanged(members: Sequence[float], controls: Sequence[float], draws: int = 10_000) -> float:
    """In which share of random exchanges of the two the first mean is as large; never 0 (Phipson and Smyth 2010)."""
    table = np.array([*members, *controls])
    drawn = np.random.default_rng(0).permuted(np.tile(table, (draws, 1)), axis=1)[:, : len(members)].mean(1)
    return float((1 + (drawn >= table[: len(members)].mean() - 1e-9).sum()) / (1 + draws))


def examine_memory(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    canaries: Canaries,
    *,
    asked_controls: int | None = None,
    samples: int = 0,
    seed: int = 0,
    chat: bool | None = None,
    which: Sequence[Canary] | None = None,
    progress: bool = False,
) -> Examination:
    """Rank every secret, and ask for it.

    Args:
        model, tokenizer: who is examined. In bfloat16 it takes two thirds of float32's time, and ranks move by a few of a thousand.
        canaries: planted, and controls (100 or more for a headline).
        asked_controls: how many controls are also asked for, as what chance says; None: all. An answer costs a third of a rank.
        samples: drawn answers of each beside the most likely one.
        seed: of these.
        chat: as of `exposures`.
        which: only these of the canaries.
        progress: show a bar.

    Raises:
        ValueError: no planted ones or no controls, without which nothing can be told.

    Example:
        >>> examine_memory(student, tokenizer, canaries, samples=4).accusing()
        ['exposure', 'extraction', 'membership']
    """
    everybody = (*canaries.planted, *canaries.controls) if which is None else tuple(which)
    planted, controls = ([one for one in everybody if bool(one.repeats) is side] for side in (True, False))
    if not planted or not controls:
        raise ValueError(
            f"There are {len(planted)} planted canaries and {len(controls)} controls; without some of both nothing can be told."
        )
    ranked = exposures(model, tokenizer, canaries, which=everybody, chat=chat)
    said = extract(
        model, tokenizer, [*planted, *controls[:asked_controls]], samples=samples, seed=seed, progress=progress
    )
    return Examination(tuple(ranked), tuple(said))
