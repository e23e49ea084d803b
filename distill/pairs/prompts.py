"""Prompts, read from whatever people have; see `sources` for where from and `shapes` for what a row may look like."""

import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from distill.basics.processes import say
from distill.pairs.aside import Aside
from distill.pairs.columns import COLUMNS, OPTIONAL
from distill.pairs.kinds import TEXT
from distill.pairs.row_marks import LEFT_OUT, is_left_out
from distill.pairs.row_names import SPOKEN, SYSTEM, TOOLS
from distill.pairs.shapes import Shape, parse_columns, shape_of_prompts, unasked
from distill.pairs.sources import Part, find_parts
from distill.text.encode import Prompt, check_messages
from distill.text.teacher_prompts import EMPTY

Row = dict[str, Any]
Asked = Prompt | Row  # a prompt alone, or with columns of its own: {"prompt": ..., "source": ...}
CARRIED = "Carried along into the pairs"
_LOOKED_AT = 100
_WHO_ASKS = "The recipes generate, black_box and white_box ask the teacher with it by --teacher_prompt_column, generate(...) by teacher_prompt=."
# what a pair says itself, of the answer that it will have; and other spellings of the prompt
_PAIRS_OWN = {*COLUMNS, *OPTIONAL, "messages", *SYSTEM, *TOOLS} - {"prompt", "id"}


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
    named = parse_columns(columns) or ({"prompt": column} if column != "prompt" else {})
    rows = prompt_rows(
        path, columns=named, split=split, limit=limit, skip_bad=skip_bad, doing="Left out of prompts alone"
    )
    return [row["prompt"] for row in rows]


def read_asked(path: str | os.PathLike[str], **reading: Any) -> list[Asked]:
    """Prompts with the columns that stand beside them (a source, a licence), which go along into the pairs made of them.

    A row's `id` becomes `prompt_id`, because a pair has an id of its own. Columns that a pair fills itself are left out, and said. So are rows
    that are marked as not to be trained on (`weight: 0`, `train: false`): what a teacher answered to them would be paid for, and left out.

    Args:
        path: as of `read_prompts`.
        reading: `columns`, `split`, `limit`, `skip_bad`, as there.

    Returns:
        Prompts; one with further columns as `{"prompt": ..., "source": ...}`. Values that JSON has not (a time) are their text there,
        and NaN, which tables have for nothing, is null.

    Raises:
        ValueError: as `read_prompts`.
    """
    rows = (carried(row) for row in prompt_rows(path, **reading, unmarked=True))
    return [row if len(row) > 1 else row["prompt"] for row in rows]


def read_asked_and_shown(path: str | os.PathLike[str], **reading: Any) -> list[tuple[Asked, Prompt | None]]:
    """As `read_asked`, and beside each prompt what the row has as its `teacher_prompt`: a text, messages, or None.

    A row's system text stands before both, unless the teacher's prompt begins with a system turn of its own.

    Raises:
        ValueError: as `read_prompts`; a `teacher_prompt` that is no prompt, or an empty text.
    """
    rows = prompt_rows(path, **reading, shown=True, unmarked=True)
    asked = [carried(row) for row in rows]
    return [
        (made if len(made) > 1 else made["prompt"], row.get("teacher_prompt"))
        for row, made in zip(rows, asked, strict=True)
    ]


def prompt_rows(
    path: str | os.PathLike[str],
    *,
    columns: str | Mapping[str, str] | None = None,
    split: str | None = None,
    limit: int | None = None,
    skip_bad: str | os.PathLike[str] | None = None,
    doing: str = CARRIED,
    whole: bool = False,
    shown: bool = False,
    unmarked: bool = False,
) -> list[Row]:
    """Rows with their `prompt` and with all other columns as they stand in the file; arguments and errors as of `read_prompts`.

    Args:
        doing: what is said to become of the other columns.
        whole: keep those that a prompt was made of (a question), too.
        shown: the teacher is asked with their `teacher_prompt`, so it has to be a prompt.
        unmarked: without rows that are marked as not to be trained on (see `row_marks`); how many there were, is said.
    """
    named = parse_columns(columns)
    if not shown and "teacher_prompt" in named:
        raise ValueError(
            f"columns takes {named['teacher_prompt']} for teacher_prompt, with which nobody is asked here; leave it out. {_WHO_ASKS}"
        )
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1.")
    rows: list[Row] = []
    left_out: list[str] = []  # where they stood
    with Aside(skip_bad) as aside:
        for part in find_parts(path, split, most=limit, columns=tuple(named.values())):
            found = _rows_of(part, named, aside, doing, shown, left_out if unmarked else None)
            some = islice(found, None if limit is None else limit - len(rows))
            rows.extend({**row, **made} if whole else made for row, made in some)
    if left_out:
        say(f"{path}: {len(left_out)} rows {LEFT_OUT}.")
    if not rows:
        raise ValueError(f"{path} has no prompts; it needs at least one line{aside.so_far()}.")
    return rows


def check_columns(path: str | os.PathLike[str], columns: Mapping[str, str], split: str | None = None) -> None:
    """Look at the first rows alone, for columns that are not there; see `read_prompts`.

    Raises:
        ValueError: no such file, no prompts, or no such column.
    """
    spoken = frozenset((*SPOKEN, *columns.values()))
    for part in find_parts(path, split, most=_LOOKED_AT, columns=tuple(columns.values())):
        for block in part.read():
            rows = (row for _, row in block.rows(spoken) if not isinstance(row, ValueError))
            if first := list(islice(rows, _LOOKED_AT)):
                shape_of_prompts(first, columns, part.name, part.kind)
                return


def carried(row: Mapping[str, Any]) -> Row:
    """A row of prompts with what goes along into its pairs.

    Raises:
        ValueError: it has no prompt.
    """
    if row.get("prompt") is None:
        raise ValueError(f"a row of prompts needs a prompt; this one has {', '.join(map(str, row)) or 'nothing'}.")
    own = {name: _in_json(value) for name, value in row.items() if name not in ("prompt", "id", *_PAIRS_OWN)}
    if row.get("id") not in (None, ""):
        own.setdefault("prompt_id", str(row["id"]))
    return {"prompt": row["prompt"], **own}


def prompt_of(asked: Asked) -> Prompt:
    """The prompt itself."""
    return asked["prompt"] if isinstance(asked, Mapping) else asked


def fate_of(names: Iterable[str], doing: str) -> str:
    """What becomes of columns beside a prompt, as sentences with a blank before each; nothing where there are none."""
    listed = [name for name in names if name != "prompt"]
    alone = doing != CARRIED
    taken = {"id"} if "prompt_id" in listed else set()
    left = [] if alone else [name for name in listed if name in _PAIRS_OWN or name in taken]
    kept = [name if name != "id" or alone else "id (as prompt_id)" for name in listed if name not in left]
    said = f" {doing}: {', '.join(kept)}." if kept else ""
    return said + (f" Left out, because pairs have their own: {', '.join(left)}." if left else "")


def _rows_of(
    part: Part, columns: dict[str, str], aside: Aside, doing: str, shown: bool, left_out: list[str] | None
) -> Iterator[tuple[Row, Row]]:
    """Rows as they stand in the file, and as what is asked; those that are marked go to `left_out`, if that is a list."""
    shape: Shape | None = None
    spoken = frozenset((*SPOKEN, *columns.values()))
    for block in part.read():
        if shape is None:
            # good ones: a file may well begin with a hundred bad ones
            rows = (row for _, row in block.rows(spoken) if not isinstance(row, ValueError))
            if first := list(islice(rows, _LOOKED_AT)):
                shape = shape_of_prompts(first, columns, part.name, part.kind)
                _say(part, shape, first, columns, doing, shown)
        for where, row in block.rows(spoken):
            try:
                if isinstance(row, ValueError):
                    raise row
                assert shape is not None, "a good row has decided it"
                if left_out is not None and is_left_out(row, columns):
                    left_out.append(where)
                    continue
                made = shape.translate(row)
                if shown:
                    _check_shown(made.get("teacher_prompt"), columns.get("teacher_prompt", "teacher_prompt"))
            except ValueError as error:
                aside.put(where, row, error)
            else:
                yield row, made


def _check_shown(prompt: Any, column: str) -> None:
    try:
        if prompt == "":
            raise ValueError(EMPTY)
        if prompt is not None and not isinstance(prompt, str):
            check_messages(prompt)
    except ValueError as error:
        raise ValueError(f"{column}, the teacher's prompt: {error}") from None


def _say(part: Part, shape: Shape, rows: Collection[Row], columns: Mapping[str, str], doing: str, shown: bool) -> None:
    used = {*shape.made_of, *columns.values(), *(() if "prompt" in columns.values() else ("prompt",))}
    names = dict.fromkeys(name for row in rows for name, value in row.items() if value not in (None, ""))
    system = {name for name in SYSTEM if name in names}  # it stands before the prompt
    before = f" Before it: {', '.join(sorted(system))}." if system else ""
    if "teacher_prompt" in names and "teacher_prompt" not in columns:
        system.add("teacher_prompt")
    if "teacher_prompt" in system and not shown:
        say(f"{part.name} has a column teacher_prompt, with which nobody is asked. {_WHO_ASKS}")
    left = [name for name in names if name not in used | system]
    others = fate_of(left, doing) + unasked(left)
    as_named = part.kind == TEXT or (shape.name == "prompt" and part.path is not None and _says_kind(part))
    if not as_named or others:
        say(f"{part.name}: {part.kind}, {shape.name}.{before}{others}")


def _says_kind(part: Part) -> bool:
    return part.path is None or part.path.suffix.lower() not in ("", ".txt", ".text")


def _in_json(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(name): _in_json(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_in_json(inner) for inner in value]
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)
