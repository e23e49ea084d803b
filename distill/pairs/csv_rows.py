"""CSV and TSV read strictly: every cell is text, and a bad row is told with what it says."""

import csv
from collections.abc import Iterator
from typing import IO

from distill.pairs.blocks import BadRow, Row


def csv_rows(text: IO[str], path: str, tabs: bool) -> Iterator[tuple[str, Row]]:
    """`("file:line", row)` for every row; the line is its first.

    Args:
        text: opened with `newline=""`.
        path: for messages.
        tabs: whether the name says that tabs divide the cells; else it is told by the first line.

    Raises:
        ValueError: names of columns that are empty or stand twice.
    """
    csv.field_size_limit(2**31 - 1)
    head = text.readline()
    divider = max("\t,;" if tabs else ",;\t", key=head.count)
    lines = _Lines(head, text)
    reader = csv.reader(lines, delimiter=divider, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise ValueError(f"{path}:1: not CSV ({error}).") from None
    if names and not names[0]:
        names[0] = "Unnamed: 0"  # pandas' index, by the name that pandas gives it
    if len(set(names)) < len(names) or not all(names):
        raise ValueError(f"{path}:1: a name is empty or stands twice in {', '.join(names)}.")
    line = reader.line_num + 1
    lines.taken()
    while True:
        where = f"{path}:{line}"
        try:
            values = next(reader, None)
        except csv.Error as error:  # the reader goes on with the next line
            yield where, BadRow(f"{where}: not CSV ({error}).", lines.taken())
            line = reader.line_num + 1
            continue
        if values is None:
            return
        written, line = lines.taken(), reader.line_num + 1
        if not values:
            continue
        if len(values) != len(names):
            told = f"{where}: {len(values)} values for {len(names)} columns ({', '.join(names)})."
            yield where, BadRow(told, written)
        else:
            yield where, dict(zip(names, values, strict=True))


class _Lines:
    """Lines one after another, and what was read since somebody asked."""

    def __init__(self, first: str, rest: IO[str]) -> None:
        self._first: str | None = first
        self._rest, self._read = rest, list[str]()

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line, self._first = (next(self._rest), None) if self._first is None else (self._first, None)
        self._read.append(line)
        return line

    def taken(self) -> str:
        """What was read since the last call."""
        read, self._read = "".join(self._read).rstrip("\r\n"), []
        return read
