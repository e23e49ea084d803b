"""Teacher x prompts -> pairs, resumable: what is finished is never asked again, and nothing finished is lost."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import datasets
from tqdm.auto import tqdm

from distill.basics.fingerprint import fingerprint
from distill.generation.journal import Journal, settings_there
from distill.generation.refusals import RefusalFile, Refused, Request, tell_refused
from distill.pairs.schema import complete_row, pairs_from_rows
from distill.teachers.base import Ask, Completion, ConcurrentTeacher, Refusal, Sampling, Teacher
from distill.text.dates import on_day
from distill.text.encode import Prompt

Keep = Callable[[list[dict[str, Any]], list[Refused]], None]
MOST_AT_ONCE = 256  # rows in one write


def generate(
    teacher: Teacher | ConcurrentTeacher,
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
    allow_refusals: bool = False,
) -> datasets.Dataset:
    """Ask the teacher for `samples` completions of every prompt.

    With `output`, every completion is on disk as soon as it is finished; the same call after an interruption goes on from
    there and ends with the same pairs as an unbroken run. A local teacher is asked in batches, which are laid out over
    *all* requests, finished or not, and each has its own seed; that is why a resumed run draws the same completions. A
    teacher behind a server has many requests under way, each with its own seed, and whichever finishes is written.

    Args:
        teacher: e.g. `LocalTeacher("smollm2-135m")`, or a `ServerTeacher`.
        prompts: texts or messages, or a dataset with a `prompt` column. A prompt that is asked twice counts once; use
            `samples` for more than one completion.
        samples: completions a prompt.
        max_new_tokens, temperature, top_p, top_k, seed: see `distill.teachers.Sampling`.
        batch_size: completions at once of a local teacher; a server's is its `concurrency`. Another batch size draws other
            samples of the same distribution; a run may be continued with another one (after running out of memory, say).
        output: JSONL file to write to, and to continue.
        progress: show a progress bar.
        allow_refusals: return without the completions that were refused (a prompt beyond the context, a content filter, an
            answer that cannot be used), and say how many; otherwise they are an error after all others are finished.

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
    with on_day(settings_there(output).get("template_day")):
        settings = {**teacher.identity(), **sampling.as_dict()}
        requests = _requests(teacher, _listed(prompts), samples, settings)

    incidental: dict[str, Any] = getattr(teacher, "incidental", dict)()
    journal = Journal(output, settings, incidental=incidental) if output is not None else None
    if journal and journal.torn:
        _tell(f"{journal.path} ended in a torn line of {journal.torn} bytes; its pair is asked for again.")
    refused: list[Refused] = []
    with journal or nullcontext():
        file = RefusalFile(journal.path) if journal else None
        kept: dict[str, dict[str, Any]] = {}
        rows: Mapping[str, dict[str, Any]] = journal.rows if journal else kept
        with tqdm(
            total=len(requests), initial=sum(r.id in rows for r in requests), desc="generating", unit="pair",
            disable=not progress,
        ) as bar:  # fmt: skip

            def keep(finished: list[dict[str, Any]], turned_down: list[Refused]) -> None:
                if journal:
                    journal.append(finished)
                else:
                    kept.update((row["id"], row) for row in finished)
                if file:
                    file.add(turned_down)
                refused.extend(turned_down)
                bar.update(len(finished))

            missing = _read_again(teacher, requests, rows, file, refused, keep)
            if isinstance(teacher, ConcurrentTeacher):
                if file and missing and not allow_refusals:
                    file.check_not_alike(rows.__contains__)
                _ask_each(teacher, missing, sampling, keep)
            else:
                possible = _without_impossible(teacher, requests, sampling, keep)
                _ask_batches(teacher, _batches(possible, batch_size), sampling, rows, keep)
        if file:
            file.close(rows.__contains__)
        finished = [rows[request.id] for request in requests if request.id in rows]
    if isinstance(teacher, ConcurrentTeacher):
        _tell_identical(teacher, finished, sampling)
    tell_refused(refused, len(requests), output, allow_refusals and bool(finished), _tell)
    return pairs_from_rows(finished, where="the prompts")


def _read_again(
    teacher: Teacher | ConcurrentTeacher,
    requests: Sequence[Request],
    rows: Mapping[str, Any],
    file: RefusalFile | None,
    refused: list[Refused],
    keep: Keep,
) -> list[Request]:
    """Requests that are to be asked: not those that are there, nor those that were answered in a way that cannot be used.

    Their answers were paid for, and are read again: more may be known today of what they mean.
    """
    read: Callable[..., Completion | Refusal] | None = getattr(teacher, "read_again", None)
    missing, used = [], []
    for request in requests:
        earlier = file.rows.get(request.id) if file and request.id not in rows else None
        if earlier is None or earlier.answer is None or read is None:
            missing += [request] if request.id not in rows else []
            continue
        row = _row_or_refusal(teacher.name, request, read(request.prompt, earlier.answer))
        if isinstance(row, Refusal):
            refused.append((request, row))
        else:
            used.append(row)
    if used:
        keep(used, [])
    return missing


def _without_impossible(
    teacher: Teacher, requests: Sequence[Request], sampling: Sampling, keep: Keep
) -> Sequence[Request]:
    """Those that a local teacher can complete; a prompt beyond its positions is refused, and the others go on."""
    refusal_of: Callable[..., Refusal | None] = getattr(teacher, "refusal_of", lambda *_: None)
    judged = [(request, refusal_of(request.prompt_ids, sampling)) for request in requests]
    if impossible := [(request, refusal) for request, refusal in judged if refusal]:
        keep([], impossible)
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
    answers = teacher.complete_each([_ask(i, r, sampling) for i, r in enumerate(requests)], sampling)
    ready: Callable[[], bool] = getattr(answers, "ready", lambda: False)
    waiting: list[dict[str, Any]] = []
    refused: list[Refused] = []

    def take(index: int, answer: Completion | Refusal) -> None:
        made = _row_or_refusal(teacher.name, requests[index], answer)
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


def _row_or_refusal(teacher: str, request: Request, answer: Completion | Refusal) -> dict[str, Any] | Refusal:
    """The row of a completion; a refusal where it is none that a file of pairs can hold."""
    if isinstance(answer, Refusal):
        return answer
    row = _row(teacher, request, answer)
    try:
        return complete_row(row, "its answer")
    except ValueError as error:
        return Refusal(str(error))


def _ask(index: int, request: Request, sampling: Sampling) -> Ask:
    own_seed = int(fingerprint(sampling.seed, request.id)[:8], 16) % 2**31  # every server takes 31 bits
    return Ask(index, request.prompt, request.prompt_ids, own_seed)


def _tell_identical(teacher: ConcurrentTeacher, rows: Sequence[dict[str, Any]], sampling: Sampling) -> None:
    """Say it where samples of one prompt are the same: a server may ignore the seed or the temperature without a word."""
    if sampling.temperature == 0:
        return
    by_prompt: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for row in rows:
        by_prompt.setdefault(tuple(row["prompt_ids"]), []).append(tuple(row["completion_ids"]))
    several = [samples for samples in by_prompt.values() if len(samples) > 1]
    repeated = [samples for samples in several if len(set(samples)) < len(samples)]
    if repeated:
        _tell(
            f"{len(repeated)} of {len(several)} prompts have identical samples at temperature {sampling.temperature:g}; "
            f"short answers do repeat, but if these are many, {teacher.name} ignores the seed or the temperature."
        )


def _tell(sentence: str) -> None:
    """To the user, beside a progress bar."""
    tqdm.write(sentence, file=sys.stderr)


def _listed(prompts: Iterable[Prompt] | datasets.Dataset) -> list[Prompt]:
    if isinstance(prompts, str):
        raise ValueError(
            "prompts is one string; give a list of prompts, or read a file with distill.pairs.prompts.read_prompts."
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


def _requests(
    teacher: Teacher | ConcurrentTeacher, prompts: Sequence[Prompt], samples: int, settings: dict[str, Any]
) -> list[Request]:
    requests: dict[str, Request] = {}
    for number, prompt in enumerate(prompts, start=1):
        try:
            asked, ids = teacher.resolve_prompt(prompt)
        except (TypeError, UnicodeError):  # the tokenizer's words for it name neither the prompt nor the reason
            raise ValueError(
                f"Prompt {number} of {len(prompts)} is no text that can be encoded: {ascii(prompt)[:80]}. Half of a character (a "
                "lone surrogate) is none; remove or mend it."
            ) from None
        for sample in range(samples):
            key = fingerprint(settings, ids, sample)
            requests.setdefault(key, Request(key, asked, ids, sample))
    if repeated := len(prompts) - len(requests) // samples:
        _tell(f"{repeated} of {len(prompts)} prompts repeat others and are asked once; for more answers raise samples.")
    return list(requests.values())


def _batches(requests: Sequence[Request], batch_size: int) -> list[list[Request]]:
    """Prompts of like length together (little padding), the longest first (too little memory shows at once)."""
    ordered = sorted(requests, key=lambda r: (-len(r.prompt_ids), r.id))
    return [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]


def _complete(teacher: Teacher, batch: Sequence[Request], sampling: Sampling) -> list[dict[str, Any]]:
    batch_seed = int(fingerprint(sampling.seed, [request.id for request in batch])[:12], 16)
    completions = teacher.complete([request.prompt_ids for request in batch], sampling, batch_seed)
    return [_row(teacher.name, *both) for both in zip(batch, completions, strict=True)]


def _row(teacher: str, request: Request, completion: Completion) -> dict[str, Any]:
    return {
        "id": request.id,
        "prompt": request.prompt,
        "completion": completion.text,
        "prompt_ids": request.prompt_ids,
        "completion_ids": completion.ids,
        "finish_reason": completion.finish_reason,
        "sample": request.sample,
        "teacher": teacher,
        "token_source": completion.token_source,
        **({} if completion.top_logprobs is None else {"top_logprobs": completion.top_logprobs}),
    }
