"""Prompts, read from whatever people have; see `sources` for where from and `shapes` for what a row may look like."""

import os
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from distill.basics.processes import say
from distill.pairs.aside import Aside
from distill.pairs.formats import CSV, TEXT, TSV
from distill.pairs.shapes import parse_columns, shape_of_prompts
from distill.pairs.sources import Part, find_parts
from distill.text.encode import Prompt, check_messages

_LOOKED_AT = 100


def read_prompts(
    path: str | os.PathLike[str],
    column: str = "prompt",
    *,
    columns: str | Mapping[str, str] | None = None,
    split: str | None = None,
    limit: int | None = None,
    skip_bad: str | os.PathLike[str] | None = None,
) -> list[Prompt]:
    """Prompts of a text file (one a line; blank lines are skipped), or of rows in any format that `load_pairs` reads.

    Of a row, its prompt is taken, or its question, its instruction with its input, or its messages up to the last question; a
    system text stands before it. Which it is, is decided once a file, and said.

    Args:
        path: a file, a folder, or a dataset of the Hub; see `distill.pairs.sources.find_parts`.
        column: where the prompt stands; the same as `columns={"prompt": column}`.
        columns: which column is taken for what, as `"prompt=q"`.
        split: of a dataset or a folder with several.
        limit: take only so many, from the first on.
        skip_bad: leave bad rows out, and write them to this file.

    Raises:
        ValueError: no such file, no prompts in it, no known shape, or a bad row (file and line are named).
    """
    read = _read(path, column, columns, split, limit, skip_bad, say_what_is_left=True)
    return [prompt for prompt, _ in read]


def read_prompts_and_shown(
    path: str | os.PathLike[str],
    column: str = "prompt",
    *,
    columns: str | Mapping[str, str] | None = None,
    split: str | None = None,
    limit: int | None = None,
    skip_bad: str | os.PathLike[str] | None = None,
) -> list[tuple[Prompt, Prompt | None]]:
    """As `read_prompts`, and beside each prompt what the row has as its `teacher_prompt`: a text, messages, or None.

    Raises:
        ValueError: as `read_prompts`.
    """
    return _read(path, column, columns, split, limit, skip_bad, say_what_is_left=False)


def _read(
    path: str | os.PathLike[str],
    column: str,
    columns: str | Mapping[str, str] | None,
    split: str | None,
    limit: int | None,
    skip_bad: str | os.PathLike[str] | None,
    say_what_is_left: bool,
) -> list[tuple[Prompt, Prompt | None]]:
    named = parse_columns(columns) or ({"prompt": column} if column != "prompt" else {})
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1.")
    prompts: list[tuple[Prompt, Prompt | None]] = []
    with Aside(skip_bad) as aside:
        for part in find_parts(path, split, most=limit):
            most = None if limit is None else limit - len(prompts)
            found = list(islice(_prompts_of(part, named, aside), most))
            prompts.extend(found)
            if say_what_is_left and "teacher_prompt" not in named and any(shown is not None for _, shown in found):
                say(
                    f"{part.name} has a column teacher_prompt, with which nobody is asked; --teacher_prompt_column (in Python: "
                    "generate(..., teacher_prompt=)) asks the teacher with it."
                )
    if not prompts:
        raise ValueError(f"{path} has no prompts; it needs at least one line{aside.so_far()}.")
    return prompts


def _prompts_of(part: Part, columns: dict[str, str], aside: Aside) -> Iterator[tuple[Prompt, Prompt | None]]:
    shape = None
    for block in part.read():
        if shape is None:
            # good ones: a file may well begin with a hundred bad ones
            first = list(islice((row for _, row in block.rows() if not isinstance(row, ValueError)), _LOOKED_AT))
            if first:
                shape = shape_of_prompts(first, columns, part.name, part.kind in (CSV, TSV))
                if part.kind != TEXT and shape.name != "prompt":
                    say(f"{part.name}: {part.kind}, {shape.name}.")
        for where, row in block.rows():
            try:
                if isinstance(row, ValueError):
                    raise row
                assert shape is not None, "a good row has decided it"
                made: Any = shape.translate(row)
                prompt, shown = made["prompt"], made.get("teacher_prompt")
                for one in (prompt, *(() if shown is None else (shown,))):
                    if not isinstance(one, str):
                        check_messages(one)
            except ValueError as error:
                aside.put(where, row, error)
            else:
                yield prompt, shown
