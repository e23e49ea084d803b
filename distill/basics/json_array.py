"""JSON arrays, read strictly and item by item, so that a large one never stands in memory."""

import json
import re
from collections.abc import Iterator
from typing import IO, Any

from distill.basics.jsonl import STRICT, check_value

_SPACE = re.compile(r"[ \t\r\n]*")
_NEAR = 16  # characters: the longest name of JSON that may be cut by the end of what is read


def read_array(file: IO[str], name: str, size: int = 2**23) -> Iterator[tuple[str, Any]]:
    """Yield `("file:line", value)` for every item of the array that a file holds.

    Args:
        file: opened as text, with `newline=""`.
        name: of the file, for messages.
        size: characters that are read at once.

    Raises:
        ValueError: not JSON, or more than one array; names file and line. `parse_line` says what is not JSON here.
    """
    window, divided = _Window(file, name, size), True
    window.take("[")
    while (found := window.peek()) != "]":
        if not divided:
            if found != ",":
                raise ValueError(f"{window.where()}: " + ("a comma is missing." if found else "the array has no end."))
            window.take(",")
            window.peek()
        where, value = window.where(), window.value()
        divided = False
        yield where, value
    window.take("]")
    if window.peek():
        raise ValueError(f"{window.where()}: more stands behind the array.")


class _Window:
    """The part of a file that is being read: from the first character not yet used, as far as was read."""

    def __init__(self, file: IO[str], name: str, size: int) -> None:
        self._file, self._name, self._size = file, name, size
        self._text, self._at, self._line = "", 0, 1
        self._decoder = json.JSONDecoder(**STRICT)

    def where(self) -> str:
        """File and line of the next character."""
        return f"{self._name}:{self._line}"

    def peek(self) -> str:
        """The next character that is no space, or nothing at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None, "no space is a match, too"
            self._use(space.end())
            if self._at < len(self._text) or not self._read():
                return self._text[self._at : self._at + 1]

    def take(self, character: str) -> None:
        """Pass over a character that must be there."""
        if self.peek() != character:
            raise ValueError(f"{self.where()}: expected {character!r}.")
        self._use(self._at + 1)

    def value(self) -> Any:
        """The value that begins here."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
                if end == len(self._text) and self._read():
                    continue  # 12 may be the beginning of 123
                check_value(value, self._text[self._at : end].encode("utf-8"))
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - _NEAR
                if not cut or not self._read():
                    raise self._bad(error) from None
            except (ValueError, RecursionError) as error:
                raise self._bad(error) from None
            else:
                self._use(end)
                return value

    def _bad(self, error: Exception) -> ValueError:
        line = f"{self._name}:{self._line + self._text.count(chr(10), self._at, getattr(error, 'pos', self._at))}"
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        return ValueError(f"{line}: not JSON ({reason}): {self._text[self._at : self._at + 60]!r}.")

    def _use(self, end: int) -> None:
        self._line += self._text.count("\n", self._at, end)
        self._at = end

    def _read(self) -> bool:
        # an item larger than what is read at once is tried again with twice as much, so all tries together cost little
        more = self._file.read(max(self._size, len(self._text) - self._at))
        self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)
