"""Reading flags: how files of pairs or prompts are read, and how many prompts are taken."""

import os
from dataclasses import dataclass, field
from typing import Any

from distill.pairs.shapes import parse_columns

WRITTEN = 160  # training prompts that a teacher writes where nobody says how many


@dataclass
class ReadingArguments:
    """How files of pairs or prompts are read."""

    columns: str | None = field(
        default=None, metadata={"help": "Which column is taken for what: prompt=q,completion=a. Unsaid: recognised."}
    )
    split: str | None = field(default=None, metadata={"help": "Of a dataset or a folder with several; else train."})
    limit: int | None = field(default=None, metadata={"help": "Read only so many rows, from the first on."})
    skip_bad: bool = field(
        default=False, metadata={"help": "Set bad rows aside into a .bad.jsonl beside the output, and go on."}
    )


@dataclass
class RefusalArguments:
    """What becomes of prompts that have no answer."""

    allow_refusals: bool = field(
        default=False,
        metadata={"help": "Go on without completions that were refused: a prompt too long, a content filter."},
    )


@dataclass
class PromptArguments(ReadingArguments, RefusalArguments):
    """Which prompts a teacher is asked."""

    prompts: str | None = field(
        default=None, metadata={"help": "Prompts: a file of any format; by default the teacher writes them."}
    )
    near: bool | None = field(
        default=None, metadata={"help": "Leave out prompts that nearly repeat another; unsaid: only the teacher's own."}
    )
    num_prompts: int | None = field(
        default=None,
        metadata={"help": f"Training prompts. Without a file, the teacher writes {WRITTEN}; of a file, all."},
    )


def reading_of(args: ReadingArguments, beside: str | os.PathLike[str]) -> dict[str, Any]:
    """Keywords for `load_pairs` and `read_prompts`.

    Args:
        args: the flags.
        beside: the output; bad rows go to a file of its name with `.bad.jsonl` behind it.

    Raises:
        ValueError: columns of another form.
    """
    bad = f"{os.fspath(beside)}.bad.jsonl" if args.skip_bad else None
    columns: Any = args.columns
    if shown := getattr(args, "teacher_prompt_column", None):
        columns = {**parse_columns(columns), "teacher_prompt": shown}
    return {"columns": columns, "split": args.split, "limit": args.limit, "skip_bad": bad}


def count_of(num_prompts: int | None, usual: int) -> int:
    """How many prompts: those asked for, or the usual number.

    Raises:
        ValueError: fewer than one.
    """
    if num_prompts is not None and num_prompts < 1:
        raise ValueError(f"num_prompts is {num_prompts}; it must be at least 1.")
    return usual if num_prompts is None else num_prompts
