"""Evaluation sets, read from whatever people have: the texts of each row, which are one question."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from distill.basics.processes import say
from distill.pairs.cells import Cells, cells_of
from distill.pairs.kinds import TEXT
from distill.pairs.row_names import CONVERSATIONS
from distill.pairs.shapes import turns_of
from distill.pairs.sources import Part, find_parts
from distill.text.messages import joined, text_of

Question = tuple[str, ...]
_FIELDS = (
    "prompt", "question", "problem", "instruction", "query", "input", "text", "completion", "answer", "solution", "output", "response",
    "messages", "conversations", "conversation",
)  # fmt: skip


def read_evaluation(
    path: str | os.PathLike[str], columns: Iterable[str] = _FIELDS, *, split: str | None = None
) -> list[Question]:
    """The questions of an evaluation set: one a row, with all its texts (a question and its solution, say), or one a line.

    Args:
        path: a file of any format that `load_pairs` reads, a folder, or a dataset of the Hub (`openai/gsm8k:main:test`).
        columns: which columns hold texts; of messages their contents, parts of text joined.
        split: of a dataset or a folder with several; else `test`.

    Returns:
        For each row, its texts.

    Raises:
        ValueError: no such file, no texts, a row without any of the columns, or contents that are no text, a picture say (file, line and
            column are named).
    """
    names = tuple(columns)
    questions = [question for part in find_parts(path, split, usual="test") for question in _questions_of(part, names)]
    if not questions:
        raise ValueError(f"{path} has no texts; an evaluation set needs at least one line.")
    return questions


def _questions_of(part: Part, columns: tuple[str, ...]) -> list[Question]:
    questions, seen = [], dict[str, None]()
    cells = cells_of(part.kind)
    for block in part.read():
        for where, row in block.rows():
            if isinstance(row, ValueError):
                raise row
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
    """The text of each column, as the cells of such a file are read.

    Raises:
        ValueError: names the column of which a part would be lost.
    """
    read = cells(row) if cells else row
    found: dict[str, str] = {}
    for name, value in read.items():
        try:
            value = turns_of(value) if name in CONVERSATIONS and isinstance(value, str) else value
            if isinstance(value, str | list):
                found[name] = value if isinstance(value, str) else "\n".join(filter(None, map(_said, value)))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return found


def _said(one: Any) -> str:
    """One of a list of texts, or the words of one of its messages; a turn that only calls a tool has none."""
    if isinstance(one, str):
        return one
    if isinstance(one, int | float):
        return str(one)
    if not isinstance(one, Mapping):
        raise ValueError(f"{str(one)[:60]!r} is neither text nor a message.")
    said = one.get("content", one.get("value"))
    if said is None and one.keys().isdisjoint(("role", "from")):
        said = [one]  # a part by itself
    if isinstance(said, list):
        return joined(said)
    if said is not None and not isinstance(said, str | Mapping):
        raise ValueError(f"its content is {str(said)[:60]!r}, which is no text.")
    return text_of({"content": said})
