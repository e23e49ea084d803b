"""Rows of a journal, read from the file when they are asked for."""

import threading
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distill.basics.jsonl import is_intact, parse_line, sealed_id
from distill.pairs.schema import COLUMNS, complete_row


class JournalRows(Mapping[str, dict[str, Any]]):
    """The rows of a journal by id, read from the file when they are asked for: memory holds only where each one lies.

    A sealed line whose checksum agrees is not parsed until then; any other line is parsed and checked at once.

    Args:
        path: the journal.

    Raises:
        ValueError: a line that is no row of a journal, or two rows with one id and different contents.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._at, self.end = path, dict[str, tuple[int, int]](), 0
        self._file, self._guard = path.open("rb", buffering=0), threading.Lock()
        weakref.finalize(self, self._file.close)  # rows are still asked for when the journal is closed
        with path.open("rb", buffering=2**20) as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                if not line.isspace():
                    self._read(line, f"{path}:{number}")
                self.end += len(line)

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._row_of(self.line(key), f"{self._path}: the pair {key}", self._at[key][0])

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, key: object) -> bool:
        return key in self._at

    def line(self, key: str) -> bytes:
        """The bytes of a row's line."""
        offset, length = self._at[key]
        with self._guard:
            self._file.seek(offset)
            return self._file.read(length)

    def add(self, key: str, offset: int, length: int) -> None:
        """A row was written there."""
        self._at[key] = (offset, length)

    def forget_from(self, end: int) -> None:
        """The file ends there; rows beyond are gone."""
        self._at = {key: at for key, at in self._at.items() if at[0] < end}

    def _read(self, line: bytes, where: str) -> None:
        key = sealed_id(line) if is_intact(line) else None
        row = None if key else self._row_of(line, where, self.end)
        key = key or str(row and row["id"])
        if key not in self._at:
            self.add(key, self.end, len(line))
            return
        if self.line(key) != line and self[key] != (row or self._row_of(line, where, self.end)):
            raise ValueError(
                f"{where}: a second row with the id {key}, with another content than the first; remove one of them."
            )

    def _row_of(self, line: bytes, where: str, offset: int) -> dict[str, Any]:
        row = parse_line(line, where, first=offset == 0, sealed=True)
        missing = set(COLUMNS) - row.keys()  # others are the user's own, which stood beside the prompt
        if missing:
            raise ValueError(
                f"{where}: not a line that a journal wrote (it has no {', '.join(sorted(missing)):.60}); remove it, and its pair "
                "is asked for again."
            )
        return complete_row(row, where)
