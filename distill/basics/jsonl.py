"""JSON Lines, read strictly: a line is one JSON object in UTF-8, or a clear error; never a guess.

Python's own reader is kinder than the standard (RFC 8259): it takes `NaN`, keeps the last of two equal names, finds
UTF-16 by itself and lets halves of surrogate pairs through. Each of these can turn a damaged line into a wrong row.

A sealed line ends with a checksum of its own content, `"row_crc32": "89abcdef"`, so that damage which still reads as
JSON (a flipped bit in a text, a digit) is noticed too. Files without checksums are read as they are.
"""

import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHECKSUM = "row_crc32"
MOST_LEVELS = 100  # far more than any row needs, far fewer than printing a value in an error message can take
_SEAL = re.compile(b', "%s": "([0-9a-f]{8})"}\n$' % CHECKSUM.encode())
_ID = re.compile(rb'\{"id": "([\x20-\x21\x23-\x5b\x5d-\x7e]+)"')  # printable ASCII that needs no escape
_SEAL_BYTES = len(f', "{CHECKSUM}": "89abcdef"}}\n')
_HALF_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # may be half of a pair; only then is it worth a closer look
BLANK = b" \t\r\n"
BOM = b"\xef\xbb\xbf"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(n for n in names if names.count(n) > 1)!r} stands twice")
    return made


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


# for json.loads and json.JSONDecoder: as strict as the standard
STRICT: dict[str, Any] = {"object_pairs_hook": _object, "parse_constant": _refuse_constant}


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `("file:line", object)` for every line that is not blank.

    Raises:
        ValueError: no such file, or a line that `parse_line` refuses; names file and line.
    """
    source = Path(path)
    if not source.is_file():
        raise ValueError(f"No file {source}.")
    with source.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.isspace() or line.strip(BLANK):  # the first is quick, the second is JSON's idea of blank
                yield f"{source}:{number}", parse_line(line, f"{source}:{number}", first=number == 1)


def parse_line(line: bytes, where: str, first: bool = False, sealed: bool = False) -> dict[str, Any]:
    """The object of one line, without its checksum.

    Args:
        line: bytes, with or without the end of the line.
        where: `"file:line"`, for the message.
        first: of its file: then a byte order mark before it is passed over.
        sealed: it must have a checksum.

    Raises:
        ValueError: not a JSON object in UTF-8; a name that stands twice; NaN or Infinity; text that is no Unicode; a
            number or a nesting too large to read; a checksum that does not agree.
    """
    data = line.removeprefix(BOM) if first else line
    try:
        row = check_value(json.loads(data.decode("utf-8"), **STRICT), data)
        checksum = row.pop(CHECKSUM, None) if isinstance(row, dict) else None
        agrees = checksum is None or is_intact(line) or seal(row) == checksum
    except (ValueError, RecursionError) as error:
        torn = "" if line.endswith(b"\n") else " It is the last line and has no end: was its writer interrupted?"
        raise ValueError(f"{where}: not a JSON object in UTF-8 ({error}): {line[:60]!r}.{torn}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a {type(row).__name__}, expected a JSON object: {line[:60]!r}")
    if sealed and checksum is None:
        raise ValueError(
            f"{where}: its {CHECKSUM} is missing, so it was changed after it was written; remove the line."
        )
    if not agrees:
        raise ValueError(
            f"{where}: changed after it was written: its {CHECKSUM}, {checksum!r}, is not that of its content. "
            f"If the change was meant, remove {CHECKSUM} from the line; if not, remove the line."
        )
    return row


def check_value(value: Any, data: bytes) -> Any:
    """A value that was read from `data` with the settings `STRICT`, if it is JSON in every respect.

    Raises:
        ValueError: text that is no Unicode, or a nesting too deep to work with.
    """
    if data.count(b"[") + data.count(b"{") > MOST_LEVELS and _is_deeper(value, MOST_LEVELS):
        raise ValueError(f"nested more than {MOST_LEVELS} levels deep")
    if _HALF_SURROGATE.search(data):
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def sealed_line(row: dict[str, Any]) -> bytes:
    """One line with its checksum and its newline; `parse_line` gives the row back.

    Raises:
        ValueError: NaN, Infinity or text that is no Unicode.
    """
    body = _dump(row)
    return body[:-1] + f', "{CHECKSUM}": "{zlib.crc32(body):08x}"}}\n'.encode()


def is_intact(line: bytes) -> bool:
    """Whether this is a sealed line, byte for byte as it was written; seen without parsing it."""
    found = _SEAL.search(line, max(0, len(line) - _SEAL_BYTES))
    return found is not None and zlib.crc32(b"}", zlib.crc32(memoryview(line)[: found.start()])) == int(found[1], 16)


def sealed_id(line: bytes) -> str | None:
    """The id at the beginning of a sealed line, without parsing it; `None` if it needs parsing."""
    found = _ID.match(line)
    return found[1].decode("ascii") if found else None


def seal(row: dict[str, Any]) -> str:
    """The checksum of a row: CRC-32 of its JSON, as 8 hex digits."""
    return f"{zlib.crc32(_dump(row)):08x}"


def _dump(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8")


def _is_deeper(value: Any, levels: int) -> bool:
    found = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        inside = (child for one in found for child in (one.values() if isinstance(one, dict) else one))
        found = [child for child in inside if isinstance(child, dict | list)]
        if not found:
            return False
    return True
