"""Evaluation sets, read from whatever people have: the texts of each row, which are one question."""

import os
from collections.abc import Iterable
from typing import Any

from distill.basics.processes import say
from distill.pairs.kinds import TEXT
from distill.pairs.sources import Part, find_parts

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
        columns: which columns hold texts; messages are taken by their contents.
        split: of a dataset or a folder with several; else `test`.

    Returns:
        For each row, its texts.

    Raises:
        ValueError: no such file, no texts, or a row without any of the columns (file and line are named).
    """
    names = tuple(columns)
    questions = [question for part in find_parts(path, split, usual="test") for question in _questions_of(part, names)]
    if not questions:
        raise ValueError(f"{path} has no texts; an evaluation set needs at least one line.")
    return questions


def _questions_of(part: Part, columns: tuple[str, ...]) -> list[Question]:
    questions, seen = [], dict[str, None]()
    for block in part.read():
        for where, row in block.rows():
            if isinstance(row, ValueError):
                raise row
            found = {name: _text_of(row[name]) for name in columns if isinstance(row.get(name), str | list)}
            if not found:
                raise ValueError(
                    f"{where}: none of the columns {', '.join(columns)}; the row has {', '.join(map(str, row))}."
                )
            seen.update(dict.fromkeys(found))
            if texts := tuple(text for text in found.values() if text.strip()):
                questions.append(texts)
    if part.kind != TEXT:
        say(f"{part.name}: {part.kind}, {len(questions)} questions, each by its {' and '.join(seen)}.")
    return questions


def _text_of(value: Any) -> str:
    """A text, or the texts of a list or the contents of messages, one a line."""
    if isinstance(value, str):
        return value
    contents = (
        message.get("content", message.get("value")) if isinstance(message, dict) else message for message in value
    )
    return "\n".join(content for content in contents if isinstance(content, str))
