"""Kinds of files: what a file is, by its name and by how it begins; and its bytes, unpacked."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Collection
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from distill.basics.json_array import read_array
from distill.basics.jsonl import BLANK, BOM, STRICT, check_value, parse_line
from distill.pairs.lone_objects import list_in
from distill.pairs.row_names import ANSWERED, ASKED, CONVERSATIONS, IDS

LINES, ARRAY, OBJECT, CSV, TSV, YAML, TEXT = "JSON Lines", "a JSON array", "JSON", "CSV", "TSV", "YAML", "text"
PARQUET, ARROW = "Parquet", "Arrow"
_BY_SUFFIX = {
    ".jsonl": LINES, ".ndjson": LINES, ".jsonlines": LINES, ".json": ARRAY, ".csv": CSV, ".tsv": TSV, ".yaml": YAML,
    ".yml": YAML, ".parquet": PARQUET, ".arrow": ARROW, ".txt": TEXT, ".text": TEXT, "": TEXT,
}  # fmt: skip
_UNPACKED: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda path: io.BufferedReader(_Zstandard(path)),
}
DATA_SUFFIXES = tuple(suffix for suffix in _BY_SUFFIX if suffix)
PACKED_SUFFIXES = tuple(_UNPACKED)
READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)
_MAGIC = {b"PAR1": PARQUET, b"ARROW1": ARROW}
_PACKED_MAGIC = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}
_LOOKED_AT = 100  # first lines of a file that is text by its name
_WHOLE = 2**26  # bytes of such a file, up to which it is tried whole
_KNOWN = {*ASKED, *ANSWERED, *CONVERSATIONS, *IDS}
_YAML_ROW = re.compile(rb"-\s+([\w]+):(?:\s|$)")


def kind_of(path: Path, columns: Collection[str] = ()) -> str:
    """Which of the formats a file has, by its name; JSON, text and strange names by what is in it.

    Lines of text are prompts that are asked, so a file that is text by its name is looked at: objects of JSON in most of its lines are
    rows, and so is a whole array. A table or YAML under such a name is refused, because lines that look like one may be text.

    Args:
        path: the file.
        columns: that are taken for something (`columns=` of `load_pairs`): what makes one object a row.

    Raises:
        ValueError: none of the formats, or a name that says another one.
    """
    packed = path.suffix.lower() in _UNPACKED
    name = path.with_suffix("") if packed else path
    kind = _BY_SUFFIX.get(name.suffix.lower())
    if kind in (CSV, TSV, YAML, PARQUET, ARROW):
        return kind
    try:
        with open_bytes(path) as file:
            start = file.read(2**16)
            start += b"" if start.endswith(b"\n") else file.readline()
            more = file.read(2**16).strip(BLANK)
    except READ_ERRORS as error:
        raise ValueError(f"{path} cannot be read: {error}.") from None
    for magic, suffix in _PACKED_MAGIC.items():
        if start.startswith(magic) and not packed:
            raise ValueError(f"{path} is packed, and its name does not say so; call it {path.name}{suffix}.")
    if found := next((found for magic, found in _MAGIC.items() if start.startswith(magic)), None):
        return found
    found = _kind_of_json(path, kind, start.removeprefix(BOM), not more, columns)
    if found is None and kind == TEXT:
        _refuse_tables(path, start.removeprefix(BOM))
        return TEXT
    if found is None and kind is None:
        raise ValueError(
            f"{path} is of a kind that is not read here ({name.suffix}); these are: {', '.join(DATA_SUFFIXES)}, also "
            f"packed ({', '.join(_UNPACKED)}). If it is text with one prompt a line, call it .txt."
        )
    return found or kind or TEXT


def open_bytes(path: Path) -> IO[bytes]:
    """A file's bytes, unpacked."""
    return _UNPACKED.get(path.suffix.lower(), lambda path: path.open("rb"))(path)


def _kind_of_json(path: Path, kind: str | None, start: bytes, whole: bool, columns: Collection[str]) -> str | None:
    """Which form of JSON it is, or None.

    Args:
        path, kind, columns: of the file.
        start: whole lines from its beginning.
        whole: there is nothing behind them.
    """
    lines = [line for line in start.split(b"\n") if line.strip(BLANK)]
    first = lines[0].lstrip(BLANK) if lines else b""
    if kind == TEXT:
        looked = lines[:_LOOKED_AT]
        if looked and 2 * sum(_object(line) is not None for line in looked) >= len(looked):
            kind = LINES
        elif first[:1] not in (b"[", b"{") or path.stat().st_size > _WHOLE or not _is_json(path, first[:1]):
            return None
    if first.startswith(b"["):
        return ARRAY
    if not first.startswith(b"{"):
        return kind if kind == LINES else None
    row = _object(first)
    if row is None:
        return LINES if kind == LINES else OBJECT
    if len(lines) == 1 and whole and list_in(row, columns, str(path)) is not None:
        return OBJECT
    return LINES


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        return parse_line(line, "")
    except ValueError:
        return None


def _is_json(path: Path, first: bytes) -> bool:
    """Whether a file that is text by its name is an array or an object as a whole."""
    try:
        with open_bytes(path) as raw:
            if first == b"[":
                with io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:
                    return all(isinstance(value, dict | str) for _, value in read_array(text, str(path)))
            data = raw.read().removeprefix(BOM)
            return isinstance(check_value(json.loads(data.decode("utf-8"), **STRICT), data), dict)
    except (ValueError, RecursionError, *READ_ERRORS):
        return False


def _refuse_tables(path: Path, start: bytes) -> None:
    first = next((line for line in start.split(b"\n") if line.strip(BLANK)), b"")
    yaml = _YAML_ROW.match(first.strip(BLANK))
    if yaml and yaml[1].decode() in _KNOWN:
        raise ValueError(f"{path} is text by its name, and begins as YAML does ({yaml[0].decode()}); call it .yaml.")
    for divider, suffix in ((",", ".csv"), (";", ".csv"), ("\t", ".tsv")):
        try:
            names = next(csv.reader(islice([first.decode("utf-8").strip()], 1), delimiter=divider), [])
        except (UnicodeDecodeError, csv.Error):
            return
        if len(_KNOWN.intersection(name.strip() for name in names)) > 1:
            raise ValueError(
                f"{path} is text by its name, and begins as a table does ({', '.join(names)}); call it {suffix}."
            )


class _Zstandard(io.RawIOBase):
    """A .zst file unpacked by Arrow's own codec, so that no further package is needed."""

    def __init__(self, path: Path) -> None:
        self._raw = pa.OSFile(str(path))
        self._stream = pa.CompressedInputStream(self._raw, "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        data = self._stream.read(len(into))
        into[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        self._raw.close()
        super().close()
