"""Teacher's prompts by flags: what only the teacher is asked, as a recipe is told it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.basics.curation_step import Step
from distill.generation.shown import ShownPrompt, SystemText
from distill.pairs.prompts import Asked, check_columns, prompt_of, read_asked_and_shown
from distill.pairs.shapes import parse_columns
from distill.text.encode import Prompt
from distill.text.near_duplicates import distinct_prompts


@dataclass
class TeacherPromptArguments:
    """What the teacher is shown and the student is not."""

    teacher_system: str | None = field(
        default=None,
        metadata={
            "help": "A system text that only the teacher sees; @file: the text of a file; @@: one that begins with @."
        },
    )
    teacher_prompt_column: str | None = field(
        default=None, metadata={"help": "Column of --prompts with what the teacher is asked in place of the prompt."}
    )


def check_teacher_prompts(args: Any) -> None:
    """Look at these flags before anything is made, loaded or asked.

    Args:
        args: of a recipe: `TeacherPromptArguments`, `prompts` and how files are read, perhaps `pairs`.

    Raises:
        ValueError: one of them beside ready pairs; both; a column without a file, or that is not in it; a file that cannot be read.
    """
    if getattr(args, "pairs", None):
        for name in ("teacher_system", "teacher_prompt_column"):
            if getattr(args, name) is not None:
                raise ValueError(
                    f"--{name} is what a teacher is asked with, but --pairs are answered already (what the teacher was shown may stand in "
                    "them); leave it out."
                )
        return
    column = column_of(args)
    system_of(args)
    if column is None:
        return
    if args.teacher_system is not None:
        raise ValueError(
            "--teacher_system and --teacher_prompt_column (or teacher_prompt= among --columns) both say what the teacher is asked; give one "
            "of them."
        )
    if not args.prompts:
        raise ValueError("--teacher_prompt_column is a column of --prompts, and there is no such file; give one.")
    check_columns(args.prompts, {**parse_columns(args.columns), "teacher_prompt": column}, args.split)


def column_of(args: Any) -> str | None:
    """The column of the prompts' file that the teacher is asked with, by either flag that can name it.

    Raises:
        ValueError: they name two.
    """
    if not isinstance(args, TeacherPromptArguments):
        return None  # a recipe that asks with none; reading refuses the name
    by_flag = args.teacher_prompt_column
    by_columns = parse_columns(getattr(args, "columns", None)).get("teacher_prompt")
    if by_flag and by_columns and by_flag != by_columns:
        raise ValueError(
            f"--teacher_prompt_column is {by_flag}, and --columns takes {by_columns} for teacher_prompt; give one of them."
        )
    return by_flag or by_columns


def system_of(args: Any) -> SystemText | None:
    """The system text of `--teacher_system`, if there is one.

    Raises:
        ValueError: as `system_text`; no words.
    """
    text = getattr(args, "teacher_system", None)
    return None if text is None else SystemText(system_text(text))


def distinct_asked(file: str, *, near: bool, **reading: Any) -> tuple[list[Asked], list[Prompt | None], Step]:
    """Prompts of a file with their other columns, what the teacher is asked in place of each, and the record of repetitions.

    A prompt comes as often as the file has it with different teacher's prompts: the same question about two documents.

    Args:
        file, reading: see `distill.pairs.prompts.read_asked_and_shown`.
        near: leave out prompts that nearly repeat another one, with all their teacher's prompts.
    """
    rows = read_asked_and_shown(file, **reading)
    first: dict[str, tuple[Asked, Prompt | None]] = {}
    for row in rows:
        first.setdefault(_key([prompt_of(row[0]), row[1]]), row)
    prompts, step = distinct_prompts(
        {_key(prompt_of(one)): prompt_of(one) for one, _ in first.values()}.values(), near=near
    )
    there = {_key(prompt) for prompt in prompts}
    kept = [row for row in first.values() if _key(prompt_of(row[0])) in there]
    settings = {**step.settings, "exact_repetitions": len(rows) - len(first), "teacher_prompts": True}
    if near:
        settings["near_duplicates"] = len(first) - len(kept)
    effect = step.effect if near else "Every prompt is asked once with each of its teacher's prompts, and none is lost."
    step = Step(step.name, len(rows), len(kept), effect, settings, step.examples)
    return [one for one, _ in kept], [other for _, other in kept], step


def shown_to_teacher(args: Any, shown: Sequence[Prompt | None] | None) -> ShownPrompt | None:
    """The argument `teacher_prompt` of `generate`: of a column, else of `--teacher_system`."""
    return system_of(args) if shown is None else shown


def system_text(given: str) -> str:
    """The text itself, or with `@` before it that of a file; `@@` begins a text that begins with `@`.

    Raises:
        ValueError: no such file, or it is no text.
    """
    if given.startswith("@@") or not given.startswith("@"):
        return given.removeprefix("@")
    try:
        return Path(given[1:]).expanduser().read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeError, RuntimeError) as error:
        raise ValueError(
            f"--teacher_system {given}: the file cannot be read as text ({error}); a text that begins with @ is given with @@."
        ) from None


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
