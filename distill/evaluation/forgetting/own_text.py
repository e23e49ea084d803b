"""General text that needs no data set: what the start says itself, on prompts that it writes itself."""

import os
from pathlib import Path

import datasets

from distill.generation.asking import generate
from distill.generation.prompts import write_prompts
from distill.teachers.local import LocalTeacher


def own_pairs(
    start: LocalTeacher, count: int, folder: str | os.PathLike[str] | None = None, *,
    max_new_tokens: int = 64, seed: int = 0, progress: bool = True,
) -> datasets.Dataset:  # fmt: skip
    """Pairs of the start's own samples, at temperature 1, on prompts that it writes (Magpie, Xu et al. 2024).

    What a model says is where its knowledge shows, so a student that has moved there has changed; and no text of anybody's training
    data is needed. Drawn, and so the start is calibrated on it.

    Args:
        start: the model before its training, with a chat template.
        count: how many.
        folder: where they are kept; the same call goes on from there.
        max_new_tokens: longest prompt and longest answer.
        seed: of both.
        progress: show bars.

    Raises:
        ValueError: no chat template, too few distinct prompts; another run's folder.

    Example:
        >>> pairs = own_pairs(LocalTeacher("smollm2-135m"), 48)
    """
    files = [None, None] if folder is None else [Path(folder) / name for name in ("prompts.jsonl", "pairs.jsonl")]
    # a few more than are wanted at once: some that are written are no prompts
    drawn = {"max_new_tokens": max_new_tokens, "seed": seed, "batch_size": min(count + count // 4 + 1, 128)}
    prompts = write_prompts(start, count, output=files[0], progress=progress, **drawn)  # type: ignore[arg-type]
    return generate(start, prompts, output=files[1], progress=progress, **drawn)  # type: ignore[arg-type]
