"""Teacher x prompts -> pairs, resumable: what is finished is never asked again, and nothing finished is lost."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import datasets
from tqdm.auto import tqdm

from distill.basics.fingerprint import fingerprint
from distill.basics.processes import is_main, tell
from distill.generation.journal_settings import settings_there
from distill.generation.kept import MOST_AT_ONCE, Kept, kept_in
from distill.generation.refusals import Refused, tell_refused
from distill.generation.requests import (
    Request,
    ask_of,
    batches_of,
    listed,
    other_columns,
    requests_of,
    row_of,
    row_or_refusal,
)  # fmt: skip
from distill.generation.shown import COLUMN, OF_ITS_OWN, ShownPrompt, identity_of, shown_prompts
from distill.pairs.prompts import Asked, prompt_of
from distill.pairs.schema import pairs_from_rows
from distill.teachers.base import Completion, ConcurrentTeacher, Refusal, Sampling, Teacher
from distill.teachers.concurrency import Alike
from distill.text.dates import on_day

Keep = Callable[[list[dict[str, Any]], list[Refused]], None]


def generate(
    teacher: Teacher | ConcurrentTeacher,
    prompts: Iterable[Asked] | datasets.Dataset,
    *,
    teacher_prompt: ShownPrompt | None = None,
    samples: int = 1,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    batch_size: int = 32,
    output: str | os.PathLike[str] | None = None,
    progress: bool = True,
    allow_refusals: bool = False,
    share: bool = False,
) -> datasets.Dataset:
    """Ask the teacher for `samples` completions of every prompt.

    With `output`, every completion is on disk as soon as it is finished; the same call after an interruption goes on from
    there and ends with the same pairs as an unbroken run. A local teacher is asked in batches, which are laid out over
    *all* requests, finished or not, and each has its own seed; that is why a resumed run draws the same completions. A
    teacher behind a server has many requests under way, each with its own seed, and whichever finishes is written.

    Args:
        teacher: e.g. `LocalTeacher("smollm2-135m")`, or a `ServerTeacher`.
        prompts: texts or messages; rows with a `prompt` (`{"prompt": ..., "source": ...}`) or a dataset with such a column, whose other
            columns go along into the pairs (see `distill.pairs.prompts.read_asked`). A prompt that is asked twice counts once; use
            `samples` for more than one completion.
        teacher_prompt: what the teacher is asked in place of a prompt, and the student is not shown: a function of the prompt, such as
            `distill.generation.SystemText(text)`, the name of a column of the prompts' dataset, or one for each prompt. None in place of
            one: that prompt.
            A pair then has the student's prompt in `prompt`, and what was asked in `teacher_prompt`.
        samples: completions a prompt.
        max_new_tokens, temperature, top_p, top_k, seed: see `distill.teachers.Sampling`.
        batch_size: completions at once of a local teacher; a server's is its `concurrency`. Another batch size draws other
            samples of the same distribution; a run may be continued with another one (after running out of memory, say).
        output: JSONL file to write to, and to continue.
        progress: show a progress bar.
        allow_refusals: return without the completions that were refused (a prompt beyond the context, a content filter, an
            answer that cannot be used), and say how many; otherwise they are an error after all others are finished.
        share: every process of this run (`accelerate launch`) makes this call: each asks for its share, and all return the same
            pairs, those that one process would have drawn. The output lies on a disk they share.

    Returns:
        Pairs (columns: see `distill.pairs`), in the order of the prompts, in whatever order they finished.

    Raises:
        ValueError: no prompts, a setting out of range, an `output` that holds pairs of another run, a server that cannot
            be asked, completions that were refused. What was finished before is in `output`.

    Example:
        >>> pairs = generate(LocalTeacher("smollm2-135m"), ["Name a colour."], max_new_tokens=20)
    """
    if samples < 1 or batch_size < 1:
        raise ValueError(f"samples is {samples} and batch_size is {batch_size}; both must be at least 1.")
    sampling = Sampling(max_new_tokens, temperature, top_p, top_k, seed)
    there = settings_there(output)
    with on_day(there.get("template_day")):
        told = identity_of(teacher_prompt)
        settings = {**teacher.identity(), **sampling.as_dict(), **told}
        if "teacher_url" in there and isinstance(teacher, ConcurrentTeacher):
            settings["teacher_url"] = there["teacher_url"]  # an earlier version's: the address was part of every id
        asked = listed(prompts, without=teacher_prompt if isinstance(teacher_prompt, str) else None)
        requests = requests_of(
            teacher, asked, samples, settings, shown_prompts([prompt_of(one) for one in asked], prompts, teacher_prompt)
        )
    incidental: dict[str, Any] = getattr(teacher, "incidental", dict)()
    # what has no name of its own is in the ids of its pairs; that there is something keeps bare answers out of the journal
    noted = {} if teacher_prompt is None or told else {COLUMN: OF_ITS_OWN}
    with kept_in(output, {**settings, **noted}, incidental, share) as kept, _bar(requests, kept, progress) as bar:
        if other := other_columns(requests, kept.rows):
            tell(
                f"{other} pairs were written before with other columns than their prompts have now, and stay as they are."
            )

        def keep(finished: list[dict[str, Any]], refused: list[Refused]) -> None:
            kept.keep(finished, refused)
            bar.update(len(finished))

        if isinstance(teacher, ConcurrentTeacher):
            missing = _read_again(teacher, kept.share_of(requests), kept, keep)
            if kept.file and missing:
                kept.file.check_not_stopped(getattr(teacher, "read_again", None))
            try:
                _ask_each(teacher, missing, sampling, keep)
            except Alike as error:
                if kept.file and error.refusal.answer is not None:
                    kept.file.stop(missing[error.index], error.refusal)
                raise
        else:
            possible = _without_impossible(teacher, requests, sampling, kept)
            batches = [b for b in batches_of(possible, batch_size) if any(r.id not in kept.rows for r in b)]
            mine = kept.share_of(batches)
            bar.total = bar.n + sum(r.id not in kept.rows for batch in mine for r in batch)  # whole batches are shared
            bar.refresh()
            _ask_batches(teacher, mine, sampling, kept.rows, keep)
    finished = [kept.rows[request.id] for request in requests if request.id in kept.rows]
    if isinstance(teacher, ConcurrentTeacher):
        _tell_identical(teacher, finished, sampling)
    tell_refused(kept.refused, len(requests), output, allow_refusals and bool(finished), tell)
    return pairs_from_rows(finished, where="the prompts")


def _bar(requests: Sequence[Request], kept: Kept, progress: bool) -> Any:
    mine = len(kept.share_of(requests))  # of several processes, the first shows its own share
    there = len(kept.share_of([r for r in requests if r.id in kept.rows]))
    return tqdm(total=mine, initial=there, desc="generating", unit="pair", disable=not progress or not is_main())


def _read_again(teacher: ConcurrentTeacher, requests: Sequence[Request], kept: Kept, keep: Keep) -> list[Request]:
    """Requests that are to be asked: not those that are there, nor those that were answered in a way that cannot be used.

    Their answers were paid for, and are read again: more may be known today of what they mean.
    """
    read: Callable[..., Completion | Refusal] | None = getattr(teacher, "read_again", None)
    missing, used = [], []
    for request in requests:
        if request.id in kept.rows:
            continue
        earlier = kept.file.rows.get(request.id) if kept.file else None
        if earlier is None or earlier.answer is None or read is None:
            missing.append(request)
            continue
        row = row_or_refusal(teacher.name, request, read(request.prompt, earlier.answer))
        if isinstance(row, Refusal):
            kept.refused.append((request, row))
        else:
            used.append(row)
    if used:
        keep(used, [])
    return missing


def _without_impossible(
    teacher: Teacher, requests: Sequence[Request], sampling: Sampling, kept: Kept
) -> Sequence[Request]:
    """Those that a local teacher can complete; a prompt beyond its positions is refused, and the others go on."""
    refusal_of: Callable[..., Refusal | None] = getattr(teacher, "refusal_of", lambda *_: None)
    judged = [(request, refusal_of(request.prompt_ids, sampling)) for request in requests]
    impossible = [(request, refusal) for request, refusal in judged if refusal]
    if impossible and is_main():
        there = set(kept.file.rows) if kept.file else set()
        kept.keep([], [(request, refusal) for request, refusal in impossible if request.id not in there])
        kept.refused.extend((request, refusal) for request, refusal in impossible if request.id in there)
    return [request for request, refusal in judged if not refusal]


def _ask_batches(
    teacher: Teacher, batches: Iterable[list[Request]], sampling: Sampling, rows: Mapping[str, Any], keep: Keep
) -> None:
    for batch in batches:
        missing = {request.id for request in batch} - rows.keys()
        if missing:
            keep([row for row in _complete(teacher, batch, sampling) if row["id"] in missing], [])


def _ask_each(teacher: ConcurrentTeacher, requests: Sequence[Request], sampling: Sampling, keep: Keep) -> None:
    """Keep every completion, and every refusal, as it comes."""
    if not requests:
        return
    answers = teacher.complete_each([ask_of(i, r, sampling) for i, r in enumerate(requests)], sampling)
    ready: Callable[[], bool] = getattr(answers, "ready", lambda: False)
    waiting: list[dict[str, Any]] = []
    refused: list[Refused] = []

    def take(index: int, answer: Completion | Refusal) -> None:
        made = row_or_refusal(teacher.name, requests[index], answer)
        if isinstance(made, Refusal):
            refused.append((requests[index], made))
        else:
            waiting.append(made)

    def write() -> None:
        rows, turned_down = waiting.copy(), refused.copy()
        waiting.clear()  # first: what cannot be written now is not tried again below
        refused.clear()
        if rows or turned_down:
            keep(rows, turned_down)

    try:
        for index, answer in answers:
            take(index, answer)
            if len(waiting) >= MOST_AT_ONCE or not ready():
                write()
    finally:
        try:
            if isinstance(sys.exc_info()[1], KeyboardInterrupt) and ready():
                for index, answer in answers:
                    take(index, answer)
                    if not ready():
                        break
            write()
        finally:
            getattr(answers, "close", lambda: None)()


def _tell_identical(teacher: ConcurrentTeacher, rows: Sequence[dict[str, Any]], sampling: Sampling) -> None:
    """Say it where samples of one prompt are the same: a server may ignore the seed or the temperature without a word."""
    if sampling.temperature == 0:
        return
    by_prompt: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for row in rows:
        by_prompt.setdefault(tuple(row.get("teacher_prompt_ids") or row["prompt_ids"]), []).append(
            tuple(row["completion_ids"])
        )
    several = [samples for samples in by_prompt.values() if len(samples) > 1]
    repeated = [samples for samples in several if len(set(samples)) < len(samples)]
    if repeated:
        tell(
            f"{len(repeated)} of {len(several)} prompts have identical samples at temperature {sampling.temperature:g}; "
            f"short answers do repeat, but if these are many, {teacher.name} ignores the seed or the temperature."
        )


def _complete(teacher: Teacher, batch: Sequence[Request], sampling: Sampling) -> list[dict[str, Any]]:
    batch_seed = int(fingerprint(sampling.seed, [request.id for request in batch])[:12], 16)
    completions = teacher.complete([request.prompt_ids for request in batch], sampling, batch_seed)
    return [row_of(teacher.name, *both) for both in zip(batch, completions, strict=True)]
