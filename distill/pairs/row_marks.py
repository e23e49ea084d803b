"""Marks of rows that are not to be trained on: left out and counted, as turns with such a mark carry no loss."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from distill.text.messages import MARKS

LEFT_OUT = "are left out, because they are marked as not to be trained on (weight 0, or false under train and the like)"

_TEXTS = (("false",), ("0", "0.0", "false"))  # of other marks, of a weight


def is_left_out(row: Any) -> bool:
    """Whether a row says beside its prompt and completion, or its messages, that it is not to be trained on.

    That is `weight: 0`, or false under any of the names that turns have for it, in a cell of a table as text. `loss: 0.0` may be a
    measurement, and says nothing here.

    Example:
        >>> is_left_out({"prompt": "a", "completion": "b", "weight": 0})
        True
    """
    return isinstance(row, Mapping) and any(_says_no(name, row[name]) for name in MARKS if name in row)


def _says_no(name: str, value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in _TEXTS[name == "weight"]
    return value is False or (name == "weight" and isinstance(value, int | float) and value == 0)


def kept_of_table(table: pa.Table) -> pa.Table:
    """The rows of a table that are not left out."""
    for name in MARKS:
        if name not in table.column_names:
            continue
        kind = table.schema.field(name).type
        if pa.types.is_boolean(kind):
            table = table.filter(pc.fill_null(table[name], True))
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            written = pc.utf8_lower(pc.utf8_trim_whitespace(table[name].cast(pa.string())))
            table = table.filter(pc.invert(pc.is_in(written, pa.array(_TEXTS[name == "weight"]))))
        elif name == "weight" and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            table = table.filter(pc.fill_null(pc.not_equal(table[name], 0), True))
    return table


def marks_in(columns: Any) -> list[str]:
    """Those of the columns that may mark a row."""
    return [name for name in MARKS if name in columns]
