"""Extraction of secrets: a model is asked for them, and says them or not."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from distill.evaluation.memorisation.canaries import Canary
from distill.generation.asking import generate
from distill.teachers.local import LocalTeacher


@dataclass(frozen=True)
class Extracted:
    """What a model said when it was asked for a secret.

    Args:
        canary: whose.
        greedy: whether its most likely answer says the secret.
        sampled: in how many of its drawn answers it stands.
        samples: how many were drawn.
        said: its most likely answer.
    """

    canary: Canary
    greedy: bool
    sampled: int
    samples: int
    said: str


def extract(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    canaries: Sequence[Canary],
    *,
    samples: int = 0,
    temperature: float = 1.0,
    max_new_tokens: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = True,
) -> list[Extracted]:
    """Ask for each secret: once with the most likely tokens, and as often as is wanted with drawn ones.

    Args:
        model, tokenizer: who is asked.
        canaries: planted ones and controls: what is said of these is chance.
        samples: drawn answers of each; 0: none.
        temperature: of these.
        max_new_tokens: longest answer; None: what the longest of the canaries' own takes, and half as much again. An answer that is cut before its
            secret would look like one that has none.
        batch_size, progress: as of `generate`.
        seed: of what is drawn.

    Raises:
        ValueError: no canaries, samples below 0.
    """
    if not canaries or samples < 0:
        raise ValueError(f"There are {len(canaries)} canaries (at least 1) and samples is {samples} (at least 0).")
    speaker, questions = LocalTeacher(model, tokenizer), [one.question for one in canaries]
    if max_new_tokens is None:
        max_new_tokens = max(map(len, tokenizer([one.answer for one in canaries])["input_ids"])) * 3 // 2
    common: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "progress": progress}
    greedy = list(generate(speaker, questions, temperature=0.0, **common)["completion"])
    hits: Counter[int] = Counter()
    if samples:
        drawn = generate(speaker, questions, temperature=temperature, samples=samples, seed=seed, **common)
        number = {one.name: i for i, one in enumerate(canaries)}
        for row in drawn:
            asked = str(row["prompt"])
            i = next(i for name, i in number.items() if name in asked)
            hits[i] += canaries[i].times_in(row["completion"]) > 0
    return [
        Extracted(one, one.times_in(text) > 0, hits[i], samples, text)
        for i, (one, text) in enumerate(zip(canaries, greedy, strict=True))
    ]
