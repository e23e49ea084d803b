"""File formats: what a file is, and its rows in blocks, so that a million of them never stand in Python lists.

`datasets.load_dataset` guesses types where a row must stay what it is: a prompt `2020-01-01` of a JSON Lines file becomes a
time, an answer `NA` of a CSV file becomes null, NaN passes for a number, and keys that one message has are filled with null in
all others. So JSON, CSV, YAML and text are read strictly here, with the number of each line; Parquet, Arrow and the Hub, whose types
are written in the data, are read by `datasets` and `pyarrow`.
"""

import io
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distill.basics.json_array import read_array
from distill.basics.jsonl import BOM, STRICT, check_value
from distill.basics.processes import say
from distill.pairs.blocks import BLOCK_ROWS, BadRow, Block, Row
from distill.pairs.csv_rows import csv_rows
from distill.pairs.kinds import (
    ARRAY,
    ARROW,
    CSV,
    LINES,
    OBJECT,
    PARQUET,
    READ_ERRORS,
    TEXT,
    TSV,
    YAML,
    open_bytes,
)  # fmt: skip
from distill.pairs.lone_objects import list_in
from distill.pairs.yaml_rows import read_yaml

BLOCK_BYTES = 8 * 2**20
Reader = Callable[[Path, tuple[str, ...]], Iterator[Block]]


def blocks_of(path: Path, kind: str, columns: tuple[str, ...] = ()) -> Iterator[Block]:
    """The rows of a file in blocks.

    Args:
        path: the file.
        kind: see `kinds.kind_of`.
        columns: that are taken for something, see there.

    Raises:
        ValueError: a file that is not what it is called, or damaged as a whole; a bad row is told in its place.
    """
    try:
        yield from _READERS[kind](path, columns)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}).") from None
    except READ_ERRORS as error:
        raise ValueError(f"{path} cannot be read as {kind}: {error}.") from None


def _lines(path: Path, columns: tuple[str, ...]) -> Iterator[Block]:
    number = 1
    with open_bytes(path) as file:
        while data := file.read(BLOCK_BYTES):
            data += file.readline() if not data.endswith(b"\n") else b""
            yield Block(str(path), number, lines=data)
            number += data.count(b"\n")


def _array(path: Path, columns: tuple[str, ...]) -> Iterator[Block]:
    yield from _listed(path, _array_items(path))


def _array_items(path: Path) -> Iterator[tuple[str, Row]]:
    with open_bytes(path) as raw:
        for where, value in read_array(io.TextIOWrapper(raw, encoding="utf-8-sig", newline=""), str(path)):
            yield where, _row(value, where)


def _object(path: Path, columns: tuple[str, ...]) -> Iterator[Block]:
    """One object: a row, or the list of rows in it (`{"data": [...]}`)."""
    with open_bytes(path) as file:
        data = file.read().removeprefix(BOM)
    try:
        found = check_value(json.loads(data.decode("utf-8"), **STRICT), data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}).") from None
    yield from _of_value(path, found, columns)


def _yaml(path: Path, columns: tuple[str, ...]) -> Iterator[Block]:
    with open_bytes(path) as file:
        found, items = read_yaml(file, str(path))
    if found is not None:
        yield from _of_value(path, found, columns)
    yield from _listed(path, ((where, _row(value, where)) for where, value in items))


def _of_value(path: Path, found: Any, columns: tuple[str, ...]) -> Iterator[Block]:
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}; a list of objects is expected.")
    name = list_in(found, columns, str(path))
    if name is None:
        yield from _listed(path, iter([(str(path), found)]))
        return
    if others := [other for other in found if other != name]:
        say(f"{path}: its rows are those in {name}. Left out, because they stand beside all rows: {', '.join(others)}.")
    yield from _listed(
        path, ((f"{path}, item {i}", _row(v, f"{path}, item {i}")) for i, v in enumerate(found[name], start=1))
    )


def _csv(path: Path, columns: tuple[str, ...]) -> Iterator[Block]:
    with open_bytes(path) as raw:
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
        yield from _listed(path, csv_rows(text, str(path), ".tsv" in path.name.lower()))


def _text(path: Path, columns: tuple[str, ...]) -> Iterator[Block]:
    """Lines end at a line feed and nowhere else: U+2028, U+0085 and a form feed are characters of a prompt, as are blanks around it."""
    with open_bytes(path) as file:
        lines = file.read().decode("utf-8-sig").replace("\r\n", "\n")
    divided = lines.split("\n" if "\n" in lines else "\r")
    found = ((f"{path}:{i}", line.rstrip("\r")) for i, line in enumerate(divided, start=1))
    yield from _listed(path, ((where, {"text": line}) for where, line in found if line.strip()))


def _parquet(path: Path, columns: tuple[str, ...]) -> Iterator[Block]:
    number = 1
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(10 * BLOCK_ROWS):
            yield Block(str(path), number, table=pa.Table.from_batches([batch]))
            number += batch.num_rows


def _arrow(path: Path, columns: tuple[str, ...]) -> Iterator[Block]:
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
    if isinstance(value, dict | ValueError):
        return value
    return BadRow(f"{where}: a {type(value).__name__}, expected an object.", value)


_READERS: dict[str, Reader] = {
    LINES: _lines, ARRAY: _array, OBJECT: _object, CSV: _csv, TSV: _csv, YAML: _yaml, TEXT: _text, PARQUET: _parquet,
    ARROW: _arrow,
}  # fmt: skip
