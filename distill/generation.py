"""Teacher x prompts -> pairs, resumable: what is finished is never asked again, and nothing finished is lost."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import datasets
from tqdm.auto import tqdm

from distill.encode import Prompt
from distill.journal import Journal
from distill.pairs import fingerprint, pairs_from_rows
from distill.teachers.base import Sampling, Teacher


class Request(NamedTuple):
    """One completion to ask for."""

    id: str
    prompt: Prompt
    prompt_ids: list[int]
    sample: int


def generate(
    teacher: Teacher,
    prompts: Iterable[Prompt] | datasets.Dataset,
    *,
    samples: int = 1,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    batch_size: int = 32,
    output: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> datasets.Dataset:
    """Ask the teacher for `samples` completions of every prompt.

    With `output`, every batch is on disk as soon as it is finished; the same call after an interruption goes on from
    there and ends with the same pairs as an unbroken run. Batches are laid out over *all* requests, finished or not, and
    each has its own seed; that is why a resumed run draws the same completions.

    Args:
        teacher: e.g. `LocalTeacher("smollm2-135m")`.
        prompts: texts or messages, or a dataset with a `prompt` column. A prompt that is asked twice counts once; use
            `samples` for more than one completion.
        samples: completions a prompt.
        max_new_tokens, temperature, top_p, top_k, seed: see `distill.teachers.Sampling`.
        batch_size: completions at once. Another batch size draws other samples of the same distribution; a run may be
            continued with another one (after running out of memory, say).
        output: JSONL file to write to, and to continue.
        progress: show a progress bar.

    Returns:
        Pairs (columns: see `distill.pairs`), in the order of the prompts.

    Raises:
        ValueError: no prompts, a setting out of range, or an `output` that holds pairs of another run.

    Example:
        >>> pairs = generate(LocalTeacher("smollm2-135m"), ["Name a colour."], max_new_tokens=20)
    """
    if samples < 1 or batch_size < 1:
        raise ValueError(f"samples is {samples} and batch_size is {batch_size}; both must be at least 1.")
    sampling = Sampling(max_new_tokens, temperature, top_p, top_k, seed)
    settings = {**teacher.identity(), **sampling.as_dict()}
    requests = _requests(teacher, _listed(prompts), samples, settings)

    journal = Journal(output, settings) if output is not None else None
    with journal or nullcontext():
        rows = journal.rows if journal else {}
        with tqdm(
            total=len(requests), initial=sum(r.id in rows for r in requests), desc="generating", unit="pair",
            disable=not progress,
        ) as bar:  # fmt: skip
            for batch in _batches(requests, batch_size):
                missing = {request.id for request in batch} - rows.keys()
                if not missing:
                    continue
                finished = [row for row in _complete(teacher, batch, sampling) if row["id"] in missing]
                if journal:
                    journal.append(finished)
                else:
                    rows.update((row["id"], row) for row in finished)
                bar.update(len(finished))
    return pairs_from_rows([rows[request.id] for request in requests], where="the prompts")


def _listed(prompts: Iterable[Prompt] | datasets.Dataset) -> list[Prompt]:
    if isinstance(prompts, str):
        raise ValueError(
            "prompts is one string; give a list of prompts, or read a file with distill.prompts.read_prompts."
        )
    if isinstance(prompts, datasets.Dataset):
        if "prompt" not in prompts.column_names:
            raise ValueError(f"The dataset has columns {prompts.column_names}, but no column 'prompt'.")
        prompts = prompts["prompt"]
    if isinstance(prompts, Mapping):
        raise ValueError(f"prompts has the splits {', '.join(map(str, prompts))}; give one of them: prompts[split].")
    listed = list(prompts)
    if not listed:
        raise ValueError("There are no prompts; give at least one.")
    return listed


def _requests(teacher: Teacher, prompts: Sequence[Prompt], samples: int, settings: dict[str, Any]) -> list[Request]:
    requests: dict[str, Request] = {}
    for prompt in prompts:
        asked, ids = teacher.resolve_prompt(prompt)
        for sample in range(samples):
            key = fingerprint(settings, ids, sample)
            requests.setdefault(key, Request(key, asked, ids, sample))
    return list(requests.values())


def _batches(requests: Sequence[Request], batch_size: int) -> list[list[Request]]:
    """Prompts of like length together (little padding), the longest first (too little memory shows at once)."""
    ordered = sorted(requests, key=lambda r: (-len(r.prompt_ids), r.id))
    return [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]


def _complete(teacher: Teacher, batch: Sequence[Request], sampling: Sampling) -> list[dict[str, Any]]:
    batch_seed = int(fingerprint(sampling.seed, [request.id for request in batch])[:12], 16)
    completions = teacher.complete([request.prompt_ids for request in batch], sampling, batch_seed)
    return [
        {
            "id": request.id,
            "prompt": request.prompt,
            "completion": completion.text,
            "prompt_ids": request.prompt_ids,
            "completion_ids": completion.ids,
            "finish_reason": completion.finish_reason,
            "sample": request.sample,
            "teacher": teacher.name,
        }
        for request, completion in zip(batch, completions, strict=True)
    ]
