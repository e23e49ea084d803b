"""Teacher's prompts by flags: what only the teacher is asked, as a recipe is told it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.generation.shown import ShownPrompt, SystemText
from distill.pairs.prompts import Asked, prompt_of, read_asked_and_shown
from distill.running.reading_flags import reading_of
from distill.text.encode import Prompt


@dataclass
class TeacherPromptArguments:
    """What the teacher is shown and the student is not."""

    teacher_system: str | None = field(
        default=None, metadata={"help": "A system text that only the teacher sees; @file: the text of a file."}
    )
    teacher_prompt_column: str | None = field(
        default=None, metadata={"help": "Column of --prompts with what the teacher is asked in place of the prompt."}
    )


def refuse_teacher_prompts(args: TeacherPromptArguments, why: str) -> None:
    """Raise `ValueError` if there is one by these flags, where none can be asked."""
    for name in ("teacher_system", "teacher_prompt_column"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name} is what a teacher is asked with, but {why}; leave it out.")


def teacher_prompts(args: Any, prompts: Sequence[Asked], beside: Any) -> tuple[list[Asked], ShownPrompt | None]:
    """The prompts, and what the teacher is asked in their place: arguments of `generate`.

    With a column, a prompt comes as often as the file has it with different values there: the same question about two documents.

    Args:
        args: of a recipe: `TeacherPromptArguments`, `prompts` and how files are read.
        prompts: of that file, without repetitions.
        beside: the output (see `reading_of`).

    Raises:
        ValueError: both flags; a column without a file, or that is not there; a file that cannot be read.
    """
    reading = reading_of(args, beside)
    if args.teacher_system is not None:
        return list(prompts), SystemText(system_text(args.teacher_system))
    if args.teacher_prompt_column is None:
        return list(prompts), None
    if not args.prompts:
        raise ValueError("--teacher_prompt_column is a column of --prompts, and there is no such file; give one.")
    shown: dict[str, dict[str, tuple[Asked, Prompt | None]]] = {}
    for one, other in read_asked_and_shown(args.prompts, **reading):
        shown.setdefault(_key(prompt_of(one)), {}).setdefault(_key(other), (one, other))
    both = [found for one in prompts for found in shown[_key(prompt_of(one))].values()]
    return [one for one, _ in both], [other for _, other in both]


def system_text(given: str) -> str:
    """The text itself, or with `@` before it that of a file.

    Raises:
        ValueError: no such file, or it is no text.
    """
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise ValueError(f"--teacher_system {given}: the file cannot be read as text ({error}).") from None


def _key(prompt: Prompt | None) -> str:
    return json.dumps(prompt, sort_keys=True)
