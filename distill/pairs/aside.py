"""Bad rows: named and refused, or set aside into a file of their own, and counted."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

from distill.basics.processes import say

_TOLD = ("where", "error", "row")  # of each bad row


def is_set_aside(path: Path) -> bool:
    """Whether a file of JSON Lines is one of bad rows."""
    try:
        with path.open("rb") as file:
            first = json.loads(file.readline())
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and tuple(first) == _TOLD


class Aside:
    """What becomes of bad rows.

    Args:
        path: JSON Lines file that they are written to, each with where it stood and why it is bad; it is there only if there are some.
            None: the first one is an error.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(path)
        self.count, self.first = 0, ""
        self._part = None if self.path is None else self.path.with_name(f"{self.path.name}.{uuid4().hex[:12]}.part")
        self._file: Any = None

    def __bool__(self) -> bool:
        return self.path is not None

    def put(self, where: str, row: Any, error: Any) -> None:
        """A bad row.

        Raises:
            ValueError: they are not to be set aside; names file and line.
        """
        reason = str(error)
        sentence = reason if reason.startswith(where) else f"{where}: {reason}"
        if self._part is None:
            raise ValueError(sentence) from None
        if self._file is None:
            self._part.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._part.open("w", encoding="utf-8")
        kept = getattr(row, "written", None) if isinstance(row, ValueError) else row
        told = dict(zip(_TOLD, (where, sentence, kept), strict=True))
        self._file.write(json.dumps(told, ensure_ascii=False, default=str) + "\n")
        self.count += 1
        self.first = self.first or sentence

    def so_far(self) -> str:
        """How many there are, as the end of a sentence."""
        return f", and {self.count} bad rows (the first: {self.first})" if self.count else ""

    def __enter__(self) -> "Aside":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            assert self._part is not None, "a file is opened there"
            assert self.path is not None, "and becomes this one"
            self._file.close()
            os.replace(self._part, self.path)
            say(f"{self.count} bad rows are left out and stand in {self.path}. The first: {self.first}")
