"""File formats: what a file is, and its rows in blocks, so that a million of them never stand in Python lists.

`datasets.load_dataset` guesses types where a row must stay what it is: a prompt `2020-01-01` of a JSON Lines file becomes a
time, an answer `NA` of a CSV file becomes null, NaN passes for a number, and keys that one message has are filled with null in
all others. So JSON, CSV, YAML and text are read strictly here, with the number of each line; Parquet, Arrow and the Hub, whose types
are written in the data, are read by `datasets` and `pyarrow`.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from distill.basics.json_array import read_array
from distill.basics.jsonl import BLANK, BOM, STRICT, check_value, parse_line
from distill.pairs.blocks import BLOCK_ROWS, Block, Row

BLOCK_BYTES = 8 * 2**20
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
_READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)


def kind_of(path: Path) -> str:
    """Which of the formats a file has, by its name; JSON by its first character, and a strange name by its contents.

    Raises:
        ValueError: none of them.
    """
    name = path.with_suffix("") if path.suffix.lower() in _UNPACKED else path
    kind = _BY_SUFFIX.get(name.suffix.lower())
    if kind not in (LINES, ARRAY, None):
        return kind
    try:
        with open_bytes(path) as file:
            start = file.read(2**16).removeprefix(BOM).lstrip(BLANK)
            rest = b"" if b"\n" in start else file.readline()
    except _READ_ERRORS as error:
        raise ValueError(f"{path} cannot be read: {error}.") from None
    if kind is None and start[:4] == b"PAR1":
        return PARQUET
    if start[:1] == b"[":
        return ARRAY
    if start[:1] == b"{":
        return LINES if kind == LINES or _is_object(start.partition(b"\n")[0] + rest) else OBJECT
    if kind is None:
        raise ValueError(
            f"{path} is of a kind that is not read here ({name.suffix}); these are: {', '.join(DATA_SUFFIXES)}, also "
            f"packed ({', '.join(_UNPACKED)}). If it is text with one prompt a line, call it .txt."
        )
    return kind


def blocks_of(path: Path, kind: str) -> Iterator[Block]:
    """The rows of a file in blocks.

    Raises:
        ValueError: a file that is not what it is called, or damaged as a whole; a bad row is told in its place.
    """
    try:
        yield from _READERS[kind](path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}).") from None
    except _READ_ERRORS as error:
        raise ValueError(f"{path} cannot be read as {kind}: {error}.") from None


def open_bytes(path: Path) -> IO[bytes]:
    """A file's bytes, unpacked."""
    return _UNPACKED.get(path.suffix.lower(), lambda path: path.open("rb"))(path)


def _lines(path: Path) -> Iterator[Block]:
    number = 1
    with open_bytes(path) as file:
        while data := file.read(BLOCK_BYTES):
            data += file.readline() if not data.endswith(b"\n") else b""
            yield Block(str(path), number, lines=data)
            number += data.count(b"\n")


def _array(path: Path) -> Iterator[Block]:
    yield from _listed(path, _array_items(path))


def _array_items(path: Path) -> Iterator[tuple[str, Row]]:
    with open_bytes(path) as raw:
        for where, value in read_array(io.TextIOWrapper(raw, encoding="utf-8-sig", newline=""), str(path)):
            yield where, _row(value, where)


def _object(path: Path) -> Iterator[Block]:
    """One object: the list of objects in it (`{"data": [...]}`)."""
    with open_bytes(path) as file:
        data = file.read().removeprefix(BOM)
    try:
        found = check_value(json.loads(data.decode("utf-8"), **STRICT), data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}).") from None
    yield from _of_value(path, found)


def _yaml(path: Path) -> Iterator[Block]:
    with open_bytes(path) as file:
        try:
            found = yaml.safe_load(file.read().decode("utf-8-sig"))
        except (yaml.YAMLError, RecursionError) as error:
            raise ValueError(f"{path}: not YAML ({error}).") from None
    yield from _of_value(path, found)


def _of_value(path: Path, found: Any) -> Iterator[Block]:
    if isinstance(found, dict):
        lists = [name for name, value in found.items() if isinstance(value, list)]
        if len(lists) != 1 or not all(isinstance(value, dict | str) for value in found[lists[0]]):
            raise ValueError(
                f"{path} is one object with {', '.join(map(str, found))}; rows are expected: a list of objects, or one object a line."
            )
        found = found[lists[0]]
    if not isinstance(found, list):
        raise ValueError(f"{path} holds a {type(found).__name__}; a list of objects is expected.")
    yield from _listed(
        path, ((f"{path}, item {i}", _row(v, f"{path}, item {i}")) for i, v in enumerate(found, start=1))
    )


def _csv(path: Path) -> Iterator[Block]:
    yield from _listed(path, _csv_items(path))


def _csv_items(path: Path) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(2**31 - 1)
    with open_bytes(path) as raw:
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        head = text.readline()
        divider = max("\t,;" if ".tsv" in path.name.lower() else ",;\t", key=head.count)
        reader = csv.reader(_joined(head, text), delimiter=divider, strict=True)
        try:
            names = next(reader, [])
            if len(set(names)) < len(names) or not all(names):
                raise ValueError(f"{path}:1: a name is empty or stands twice in {', '.join(names)}.")
            line = reader.line_num + 1
            for values in reader:
                where, line = f"{path}:{line}", reader.line_num + 1
                if not values:
                    continue
                if len(values) != len(names):
                    yield (
                        where,
                        ValueError(f"{where}: {len(values)} values for {len(names)} columns ({', '.join(names)})."),
                    )
                else:
                    yield where, dict(zip(names, values, strict=True))
        except csv.Error as error:
            raise ValueError(f"{path}:{reader.line_num}: not CSV ({error}).") from None


def _joined(first: str, rest: Any) -> Iterator[str]:
    yield first
    yield from rest


def _text(path: Path) -> Iterator[Block]:
    """Lines end at a line feed and nowhere else: U+2028, U+0085 and a form feed are characters of a prompt."""
    with open_bytes(path) as file:
        lines = file.read().decode("utf-8-sig").replace("\r\n", "\n")
    divided = lines.split("\n" if "\n" in lines else "\r")
    found = ((f"{path}:{i}", line.strip(" \t\r")) for i, line in enumerate(divided, start=1))
    yield from _listed(path, ((where, {"text": line}) for where, line in found if line.strip()))


def _parquet(path: Path) -> Iterator[Block]:
    number = 1
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(10 * BLOCK_ROWS):
            yield Block(str(path), number, table=pa.Table.from_batches([batch]))
            number += batch.num_rows


def _arrow(path: Path) -> Iterator[Block]:
    number = 1
    with pa.memory_map(str(path)) as file:
        try:
            reader: Any = pa.ipc.open_stream(file)
            batches: Any = reader
        except pa.ArrowInvalid:
            reader = pa.ipc.open_file(file)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        for batch in batches:
            yield Block(str(path), number, table=pa.Table.from_batches([batch]))
            number += batch.num_rows


def _listed(path: Path, items: Iterator[tuple[str, Row]]) -> Iterator[Block]:
    while some := list(islice(items, BLOCK_ROWS)):
        yield Block(str(path), 1, items=some)


def _row(value: Any, where: str) -> Row:
    if isinstance(value, str):
        return {"text": value}
    return value if isinstance(value, dict) else ValueError(f"{where}: a {type(value).__name__}, expected an object.")


def _is_object(line: bytes) -> bool:
    try:
        return bool(parse_line(line, ""))
    except ValueError:
        return False


_READERS: dict[str, Callable[[Path], Iterator[Block]]] = {
    LINES: _lines, ARRAY: _array, OBJECT: _object, CSV: _csv, TSV: _csv, YAML: _yaml, TEXT: _text, PARQUET: _parquet,
    ARROW: _arrow,
}  # fmt: skip


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
