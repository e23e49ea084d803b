"""Requests: what is asked for, one completion each, and the row that an answer becomes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import datasets

from distill.basics.fingerprint import fingerprint
from distill.basics.processes import tell
from distill.generation.shown import COLUMN
from distill.pairs.blocks import BLOCK_ROWS, rows_of_table
from distill.pairs.prompts import CARRIED, Asked, carried, fate_of, prompt_of
from distill.pairs.row_names import SPOKEN, SYSTEM, TOOLS
from distill.pairs.schema import complete_row
from distill.pairs.shapes import asked_of
from distill.teachers.base import Ask, Completion, ConcurrentTeacher, Refusal, Sampling, Teacher
from distill.text.encode import Prompt


class Resolved(NamedTuple):
    """A prompt as it is asked, and its tokens."""

    prompt: Prompt
    ids: list[int]


class Request(NamedTuple):
    """One completion to ask for: `prompt` is what the teacher is asked, `student` the student's prompt where that is another."""

    id: str
    prompt: Prompt
    prompt_ids: list[int]
    sample: int
    student: Resolved | None = None
    own: Mapping[str, Any] = {}  # the user's columns beside the prompt


def listed(prompts: Iterable[Asked] | datasets.Dataset, without: str | None = None) -> list[Asked]:
    """The prompts as a list; rows of prompts (`{"prompt": ..., "source": ...}`) with the columns that go along into their pairs.

    Args:
        prompts: as of `generate`.
        without: the column of a dataset that only the teacher is shown.

    Raises:
        ValueError: one string, a dataset without the column `prompt`, splits, or nothing; a row without a prompt, or with a value
            that JSON has not.
    """
    if isinstance(prompts, str):
        raise ValueError(
            "prompts is one string; give a list of prompts, or read a file with distill.pairs.prompts.read_prompts."
        )
    if isinstance(prompts, datasets.Dataset):
        if "prompt" not in prompts.column_names:
            raise ValueError(f"The dataset has columns {prompts.column_names}, but no column 'prompt'.")
        own = [name for name in prompts.column_names if name not in (without, COLUMN)]
        if fate := fate_of([name for name in own if name not in SYSTEM], CARRIED):
            tell(f"The prompts:{fate}")
        tables = prompts.select_columns(own).with_format("arrow").iter(BLOCK_ROWS)
        prompts = [row for table in tables for row in rows_of_table(table, SPOKEN)]
    if isinstance(prompts, Mapping):
        raise ValueError(f"prompts has the splits {', '.join(map(str, prompts))}; give one of them: prompts[split].")
    found = [
        _with_its_system(one, number) if isinstance(one, Mapping) else one
        for number, one in enumerate(prompts, start=1)
    ]
    if not found:
        raise ValueError("There are no prompts; give at least one.")
    return found


def _with_its_system(row: Mapping[str, Any], number: int) -> Asked:
    """A row as one of a file is asked: its system text stands before the prompt, tools beside a prompt are refused."""
    if any(row.get(name) for name in (*SYSTEM, *TOOLS, "chat_template_kwargs")) and row.get("prompt") is not None:
        try:
            row = asked_of(dict(row))
        except ValueError as error:
            raise ValueError(f"Prompt {number}: {error}") from None
    return carried(row)


def requests_of(
    teacher: Teacher | ConcurrentTeacher,
    prompts: Sequence[Asked],
    samples: int,
    settings: dict[str, Any],
    shown: Sequence[Prompt | None] | None = None,
) -> list[Request]:
    """Every sample of every prompt, once: its id is a hash of all that decides the answer, which columns beside a prompt do not.

    Args:
        teacher: gives the tokens.
        prompts: the student's.
        samples: of each.
        settings: of teacher and sampling.
        shown: for each prompt what the teacher is asked in its place; None: the prompt.

    Raises:
        ValueError: a prompt that cannot be encoded; prompts of which some are plain text and others a chat, or are so for one side.
    """
    requests: dict[str, Request] = {}
    first: Resolved | None = None
    otherwise = 0
    for number, (one, other) in enumerate(zip(prompts, shown or [None] * len(prompts), strict=True), start=1):
        where = f"{number} of {len(prompts)}"
        own = {name: value for name, value in one.items() if name != "prompt"} if isinstance(one, Mapping) else {}
        student = asked = _resolved(teacher, prompt_of(one), f"Prompt {where}")
        if other is not None:
            asked = _resolved(teacher, other, f"The teacher's prompt in place of prompt {where}")
            if isinstance(asked.prompt, str) != isinstance(student.prompt, str):
                raise ValueError(
                    f"Prompt {where} is {_kind(student)} for the student and {_kind(asked)} for the teacher, whose answer would begin and end "
                    "otherwise; give both as texts, or both as messages (a bare text is a chat where the template is used)."
                )
        first = first or student
        if isinstance(first.prompt, str) != isinstance(student.prompt, str):
            raise ValueError(
                f"Prompt {where} is {_kind(student)} and the first is {_kind(first)}; a file of pairs has one kind, so ask the two apart."
            )
        for sample in range(samples):
            # what both are given is in it: the same question with another document is another pair
            key = fingerprint(settings, student.ids, sample, *([] if other is None else [{COLUMN: asked.ids}]))
            before = requests.setdefault(key, Request(key, *asked, sample, None if other is None else student, own))
            otherwise += sample == 0 and before.own != own
    if repeated := len(prompts) - len(requests) // samples:
        tell(f"{repeated} of {len(prompts)} prompts repeat others and are asked once; for more answers raise samples.")
    if otherwise:
        tell(f"{otherwise} of them stand beside other columns than the first of their kind, whose columns go along.")
    return list(requests.values())


def _resolved(teacher: Teacher | ConcurrentTeacher, prompt: Prompt, what: str) -> Resolved:
    try:
        return Resolved(*teacher.resolve_prompt(prompt))
    except (TypeError, UnicodeError):  # the tokenizer's words for it name neither the prompt nor the reason
        raise ValueError(
            f"{what} is no text that can be encoded: {ascii(prompt)[:80]}. Half of a character (a lone surrogate) is none; remove or "
            "mend it."
        ) from None
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def _kind(resolved: Resolved) -> str:
    return "plain text" if isinstance(resolved.prompt, str) else "a chat"


def batches_of(requests: Sequence[Request], batch_size: int) -> list[list[Request]]:
    """Prompts of like length together (little padding), the longest first (too little memory shows at once)."""
    ordered = sorted(requests, key=lambda r: (-len(r.prompt_ids), r.id))
    return [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]


def ask_of(index: int, request: Request, sampling: Sampling) -> Ask:
    """A request as a teacher behind a server is asked, with a seed of its own."""
    own_seed = int(fingerprint(sampling.seed, request.id)[:8], 16) % 2**31  # every server takes 31 bits
    return Ask(index, request.prompt, request.prompt_ids, own_seed)


def other_columns(requests: Sequence[Request], rows: Mapping[str, Mapping[str, Any]]) -> int:
    """How many finished rows stand beside other columns than their prompts do now; they were written before."""
    asked = (request for request in requests if request.own and request.id in rows)
    return sum(any(rows[r.id].get(name) != value for name, value in r.own.items()) for r in asked)


def row_or_refusal(teacher: str, request: Request, answer: Completion | Refusal) -> dict[str, Any] | Refusal:
    """The row of a completion; a refusal where it is none that a file of pairs can hold."""
    if isinstance(answer, Refusal):
        return answer
    row = row_of(teacher, request, answer)
    try:
        return complete_row(row, "its answer")
    except ValueError as error:
        return Refusal(str(error))


def row_of(teacher: str, request: Request, completion: Completion) -> dict[str, Any]:
    """The row of a completion; columns: see `distill.pairs`."""
    student = request.student or Resolved(request.prompt, request.prompt_ids)
    shown = {} if request.student is None else {COLUMN: request.prompt, f"{COLUMN}_ids": request.prompt_ids}
    return {
        "id": request.id,
        "prompt": student.prompt,
        "completion": completion.text,
        "prompt_ids": student.ids,
        "completion_ids": completion.ids,
        "finish_reason": completion.finish_reason,
        "sample": request.sample,
        "teacher": teacher,
        "token_source": completion.token_source,
        **shown,
        **({} if completion.top_logprobs is None else {"top_logprobs": completion.top_logprobs}),
        **request.own,
    }
