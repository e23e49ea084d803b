"""JSON Lines through Arrow's own reader, a block at a time, wherever it is known to read them as strictly as `basics.jsonl`.

It refuses names that stand twice, half surrogates, values of another type and what is no JSON. What it lets through is looked for
here: NaN and numbers too large for a float, integers that a float rounds, bytes that are no UTF-8, two objects in a line or one in two, and
checksums.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from distill.basics.jsonl import BOM, CHECKSUM, is_intact
from distill.pairs.columns import OPTIONAL, features
from distill.pairs.tables import EXACT, PLAIN_MESSAGES, PROMPTS, merged, own_array

_CHECKSUM = f'"{CHECKSUM}"'.encode()


def schema_of(rows: Iterable[dict[str, Any]]) -> pa.Schema | None:
    """The types that all of these rows have; None if a column is no text, number, truth value or what pairs have."""
    listed = list(rows)
    plain = {True: features(False, OPTIONAL).arrow_schema, False: features(True, OPTIONAL).arrow_schema}
    known = {field.name: field.type for field in plain[True]}
    fields = []
    for name in dict.fromkeys(name for row in listed for name in row):
        values = [row.get(name) for row in listed]
        kind = known.get(name) if name != "id" else own_array(values).type
        if name in PROMPTS:
            kind = PLAIN_MESSAGES if any(isinstance(value, list) for value in values) else pa.string()
        if kind is None:
            kind = own_array(values).type
            if pa.types.is_nested(kind) or isinstance(kind, pa.JsonType) or "\0" in name:
                return None
        fields.append((name, kind))
    return pa.schema(fields)


def with_types_of(schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> pa.Schema | None:
    """A schema that knows these rows, too."""
    more = schema_of(rows)
    return None if more is None else merged(schema, more)


def read_lines(data: bytes, schema: pa.Schema, first: bool) -> pa.Table | None:
    """The table of some whole lines, or None if one of them is not sure to be read as `parse_line` would.

    Args:
        data: the lines.
        schema: of all columns that they may have.
        first: they begin the file, and a byte order mark may stand before them.
    """
    if first:
        data = data.removeprefix(BOM)
    sealed = _CHECKSUM in data
    if not _is_object_a_line(data) or (sealed and not _all_intact(data)):
        return None
    fields = schema.append(pa.field(CHECKSUM, pa.string())) if sealed else schema
    try:
        table = pa.json.read_json(
            pa.BufferReader(data),
            read_options=pa.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=pa.json.ParseOptions(explicit_schema=fields, unexpected_field_behavior="error"),
        )
        table.validate(full=True)  # UTF-8
    except (pa.ArrowException, ValueError):
        return None
    if table.num_rows != _lines(data) or not all(map(_is_exact, table.columns)):
        return None
    return table.drop_columns([CHECKSUM]) if sealed else table


def _is_object_a_line(data: bytes) -> bool:
    """Whether every line begins with { and ends with }: then no object spans two, because } and { do not follow each other in one."""
    starts, ends = _places(data)
    array = np.frombuffer(data, np.uint8)
    if not len(starts):
        return False
    return bool((array[starts] == ord("{")).all() and (array[ends - 1] == ord("}")).all())


def _places(data: bytes) -> tuple[Any, Any]:
    """Where lines begin, and behind their last character; empty ones left out."""
    breaks = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
    ends = breaks if data.endswith(b"\n") else np.append(breaks, len(data))
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    returns = (ends > starts) & (np.frombuffer(data, np.uint8)[np.maximum(ends - 1, 0)] == ord("\r"))
    ends = ends - returns
    there = ends > starts
    return starts[there], ends[there]


def _lines(data: bytes) -> int:
    return len(_places(data)[0])


def _all_intact(data: bytes) -> bool:
    return all(is_intact(line) for line in data.splitlines(keepends=True) if line != b"\n")


def _is_exact(column: Any) -> bool:
    """Whether a column has no number that its type had to change; lists of floats are looked into."""
    flat = (
        pc.list_flatten(column)
        if pa.types.is_list(column.type) and pa.types.is_floating(column.type.value_type)
        else column
    )
    # not so for NaN and Infinity, either; from 2**53 on an integer may have been rounded
    return not pa.types.is_floating(flat.type) or bool(pc.all(pc.less(pc.abs(flat), float(EXACT)), min_count=0).as_py())
