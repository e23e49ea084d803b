"""Evaluation sets, read from whatever people have: the texts of each row, which are one question."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from distill.basics.processes import say
from distill.pairs.cells import Cells, cells_of
from distill.pairs.kinds import TEXT
from distill.pairs.row_names import CONVERSATIONS
from distill.pairs.sources import Part, find_parts
from distill.pairs.turns import turns_of
from distill.text.messages import REASONING, joined, text_of

Question = tuple[str, ...]
_FIELDS = (
    "prompt", "question", "problem", "instruction", "query", "input", "text", "completion", "answer", "solution", "output", "response",
    "messages", "conversations", "conversation",
)  # fmt: skip
_WORDLESS = ("role", "from", "name", "id", "tool_call_id", *REASONING)  # of a turn
_NO_TEXT = (
    "image",
    "input_image",
    "audio",
    "input_audio",
    "video",
    "file",
)  # how the type of a part begins that is none


def read_evaluation(
    path: str | os.PathLike[str], columns: Iterable[str] | None = None, *, split: str | None = None
) -> list[Question]:
    """The questions of an evaluation set: one a row, with all its texts (a question and its solution, say), or one a line.

    Args:
        path: a file of any format that `load_pairs` reads, a folder, or a dataset of the Hub (`openai/gsm8k:main:test`).
        columns: which columns hold texts; None: recognised. Of messages their contents are taken, parts of text joined; of an object its
            `text` (ARC's choices, SQuAD's answers), or all that it holds.
        split: of a dataset or a folder with several; else `test`.

    Returns:
        For each row, its texts.

    Raises:
        ValueError: no such file, no texts, a column that no row has, a row without any of the columns, or contents that are no text, a
            picture say (file, line and column are named).
    """
    return read_evaluations([path], columns, split=split)[str(path)]


def read_evaluations(
    paths: Iterable[str | os.PathLike[str]], columns: Iterable[str] | None = None, *, split: str | None = None
) -> dict[str, list[Question]]:
    """The questions of several evaluation sets by their names; see `read_evaluation`. Each of the columns must be in one of the sets.

    Raises:
        ValueError: as `read_evaluation`.
    """
    names, there = _FIELDS if columns is None else tuple(columns), dict[str, None]()
    sets: dict[str, list[Question]] = {}
    for path in paths:
        found = (_questions_of(part, names, there) for part in find_parts(path, split, usual="test"))
        sets[str(path)] = [question for questions in found for question in questions]
        if not sets[str(path)]:
            raise ValueError(f"{path} has no texts; an evaluation set needs at least one line.")
    if columns is not None and (missing := [name for name in names if name not in there]):
        raise ValueError(f"{', '.join(sets)}: no column {', '.join(missing)}; there are {', '.join(there) or 'none'}.")
    return sets


def _questions_of(part: Part, columns: tuple[str, ...], there: dict[str, None]) -> list[Question]:
    """The questions of one file; `there` is told which columns it has."""
    questions, seen = [], dict[str, None]()
    cells = cells_of(part.kind)
    for block in part.read():
        for where, row in block.rows():
            if isinstance(row, ValueError):
                raise row
            there.update(dict.fromkeys(row))
            try:
                found = _texts_of({name: row[name] for name in columns if name in row}, cells)
            except ValueError as error:
                raise ValueError(f"{where}: {error} Name the columns to compare with: --against_columns.") from None
            if not found:
                raise ValueError(
                    f"{where}: none of the columns {', '.join(columns)}; the row has {', '.join(map(str, row))}. Name those that "
                    "hold texts: --against_columns, or columns= of read_evaluation."
                )
            seen.update(dict.fromkeys(found))
            if texts := tuple(text for text in found.values() if text.strip()):
                questions.append(texts)
    if part.kind != TEXT:
        say(f"{part.name}: {part.kind}, {len(questions)} questions, each by its {' and '.join(seen)}.")
    return questions


def _texts_of(row: dict[str, Any], cells: Cells | None) -> dict[str, str]:
    """The text of each column, as the cells of such a file are read; a null says nothing.

    Raises:
        ValueError: names the column of which a part would be lost.
    """
    read = cells(row) if cells else row
    found: dict[str, str] = {}
    for name, value in read.items():
        try:
            value = turns_of(value) if name in CONVERSATIONS and isinstance(value, str) else value
            if value is not None:
                found[name] = _words(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return found


def _words(value: Any) -> str:
    """What a cell says: a text, a number, a list, messages, or an object with such in it."""
    if value is None or isinstance(value, bytes):
        raise ValueError(f"{str(value)[:60]!r} is neither text nor a message.")
    if isinstance(value, list):
        return "\n".join(filter(None, map(_words, value)))
    if not isinstance(value, Mapping):
        return str(value)
    if not value.keys().isdisjoint(("role", "from")):
        return _said(value)
    if str(value.get("type")).startswith(_NO_TEXT):
        return joined([value])  # which says so
    held = {name: one for name, one in value.items() if one is not None}
    if "text" in held:
        if (said := _words(held.pop("text"))).strip():
            return said
        held.pop("type", None)  # beside an empty text, the type of a part is none of its words
    return "\n".join(filter(None, map(_words, held.values())))


def _said(turn: Mapping[str, Any]) -> str:
    """The words of a turn; one that only calls a tool has none."""
    there = [turn[name] for name in ("content", "value", "text") if turn.get(name) is not None]
    said = next(filter(_is_filled, there), there[0] if there else None)
    if isinstance(said, list):
        return joined(said)
    if said is not None and not isinstance(said, str | Mapping):
        raise ValueError(f"its content is {str(said)[:60]!r}, which is no text.")
    if said is None and not turn.get("tool_calls") and not turn.get("function_call"):
        others = [name for name in turn if name not in _WORDLESS and _is_filled(turn[name])]
        if others:
            raise ValueError(f"a turn without content has {', '.join(others)}, which nobody would compare.")
    return text_of({"content": said})


def _is_filled(value: Any) -> bool:
    """Whether words may stand in it: numbers of a turn are none."""
    return bool(value.strip()) if isinstance(value, str) else isinstance(value, list | Mapping) and bool(value)
