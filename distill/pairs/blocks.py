"""Blocks: some rows of a file at a time, as bytes, as a table or read already; each row knows where it stands."""

import io
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from distill.basics.jsonl import BLANK, parse_line
from distill.pairs.row_names import SPOKEN
from distill.text.messages import without_nulls

BLOCK_ROWS = 1000
Row = dict[str, Any] | ValueError  # or why there is none


class BadRow(ValueError):
    """Why something is no row; and what stands there."""

    def __init__(self, message: str, written: Any) -> None:
        super().__init__(message)
        self.written = written


@dataclass(frozen=True)
class Block:
    """Some rows that stand together, in one of three forms.

    Args:
        file: for messages.
        number: of the first line or row, from 1.
        lines: JSON Lines, as they stand in the file.
        table: rows with types of their own.
        items: `(where, row)`, read already.
    """

    file: str
    number: int
    lines: bytes | None = None
    table: pa.Table | None = None
    items: list[tuple[str, Row]] | None = None

    def rows(self, spoken: Collection[str] = SPOKEN) -> Iterator[tuple[str, Row]]:
        """`(where, row)`; a line that cannot be read is a ValueError in the place of its row.

        Args:
            spoken: columns of a table that say something to a chat template: what Arrow keeps of them as structs has in every row
                every key that any row has, and those with null are taken away. What it keeps as JSON is as it was written.
        """
        if self.items is not None:
            yield from self.items
        elif self.lines is not None:
            for number, line in enumerate(io.BytesIO(self.lines), start=self.number):
                if line.strip(BLANK):
                    where = f"{self.file}:{number}"
                    yield where, _of_line(line, where, number == 1)
        elif self.table is not None:
            for at in range(0, self.table.num_rows, BLOCK_ROWS):
                for i, row in enumerate(
                    rows_of_table(self.table.slice(at, BLOCK_ROWS), spoken), start=self.number + at
                ):
                    yield f"{self.file}, row {i}", row


def rows_of_table(table: pa.Table, spoken: Collection[str] = ()) -> list[dict[str, Any]]:
    """The rows as plain values; JSON that is stored as such (`datasets.Json`) by Python's reader, whose numbers are exact.

    Args:
        table: any.
        spoken: columns out of whose objects nulls are taken, unless they are JSON; see `Block.rows`.
    """
    columns = [_plain(column) for column in table.columns]
    for i, field in enumerate(table.schema):
        if field.name in spoken and pa.types.is_nested(field.type) and not _holds_json(field.type):
            columns[i] = [without_nulls(value) for value in columns[i]]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _plain(column: Any) -> list[Any]:
    values, kind = column.to_pylist(), column.type
    return [_decoded(value, kind) for value in values] if _holds_json(kind) else values


def _holds_json(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.JsonType):
        return True
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_json(kind.value_type)
    return pa.types.is_struct(kind) and any(_holds_json(kind.field(i).type) for i in range(kind.num_fields))


def _decoded(value: Any, kind: pa.DataType) -> Any:
    if value is None or not _holds_json(kind):
        return value
    if isinstance(kind, pa.JsonType):
        return json.loads(value)
    if pa.types.is_struct(kind):
        return {name: _decoded(inner, kind.field(name).type) for name, inner in value.items()}
    return [_decoded(inner, kind.value_type) for inner in value]


def _of_line(line: bytes, where: str, first: bool) -> Row:
    try:
        return parse_line(line, where, first=first)
    except ValueError as error:
        return BadRow(str(error), line.decode("utf-8", "replace"))
