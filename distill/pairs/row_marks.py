"""Marks of rows that are not to be trained on: left out and counted, as turns with such a mark carry no loss."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill.basics.fingerprint import fingerprint
from distill.basics.processes import say
from distill.pairs.data_set_forms import formatted_as
from distill.pairs.kept_key import program
from distill.text.messages import MARKS

LEFT_OUT = "are left out, because they are marked as not to be trained on (weight 0, or false under train and the like)"

_TEXTS = (("false",), ("0", "0.0", "false"))  # of other marks, of a weight


def is_left_out(row: Any, columns: Mapping[str, str] = MappingProxyType({})) -> bool:
    """Whether a row says beside its prompt and completion, or its messages, that it is not to be trained on.

    That is `weight: 0`, or false under any of the names that turns have for it, in a cell of a table as text. `loss: 0.0` may be a
    measurement, and says nothing here.

    Args:
        row: as it stands in its file.
        columns: which column is taken for what (`--columns weight=x`); one that is taken for something else is no mark.

    Example:
        >>> is_left_out({"prompt": "a", "completion": "b", "weight": 0})
        True
    """
    if not isinstance(row, Mapping):
        return False
    taken = {name: columns.get(name, name) for name in MARKS if name in columns or name not in columns.values()}
    return any(_says_no(name, row[column]) for name, column in taken.items() if column in row)


def _says_no(name: str, value: Any) -> bool:
    if getattr(value, "shape", None) == ():  # one number of an array, in rows of a formatted data set
        value = value.item()
    if isinstance(value, str):
        return value.strip().lower() in _TEXTS[name == "weight"]
    return value is False or (name == "weight" and isinstance(value, int | float) and value == 0)


def kept_of_table(table: pa.Table, most: int | None = None) -> tuple[pa.Table, int]:
    """The rows of a table that are not left out, and how many are.

    Args:
        table: any.
        most: so many rows at most; what stands behind the last of them is not looked at.
    """
    masks = [mask for name in marks_in(table.column_names) if (mask := _mask(name, table[name])) is not None]
    kept = np.logical_and.reduce([mask.to_numpy() for mask in masks]) if masks else np.ones(len(table), bool)
    places = np.flatnonzero(kept)
    if most is not None and len(places) > most:
        places = places[:most]
        return table.take(places) if masks else table.slice(0, most), int(places[-1]) + 1 - most
    return table.filter(pa.array(kept)) if masks else table, len(table) - len(places)


def _mask(name: str, column: Any) -> Any:
    """Which rows one of the marks leaves in; None where it has another type."""
    if pa.types.is_boolean(column.type):
        return pc.fill_null(column, True)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        written = pc.utf8_lower(pc.utf8_trim_whitespace(column.cast(pa.string())))
        return pc.invert(pc.is_in(written, pa.array(_TEXTS[name == "weight"])))
    if name == "weight" and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return pc.fill_null(pc.not_equal(column, 0), True)
    return None


def marks_in(columns: Any) -> list[str]:
    """Those of the columns that may mark a row."""
    return [name for name in MARKS if name in columns]


def without_marked(rows: Any, name: str) -> Any:
    """The rows of a data set that are not left out, in the format that it has; how many are, is said.

    Args:
        rows: a list, a `datasets.Dataset` or an `IterableDataset`; anything else is handed back.
        name: for people.
    """
    if isinstance(rows, datasets.IterableDataset):
        return _stream_without_marked(rows, name)
    if isinstance(rows, list):
        kept: Any = [row for row in rows if not is_left_out(row)]
    elif isinstance(rows, datasets.Dataset):
        if not (marks := marks_in(rows.column_names)):
            return rows
        # of an array or a table nothing is false itself
        plain = rows.with_format(None)
        # of a function `datasets` knows the name alone: rows that other code left in are not found again
        key = fingerprint(plain._fingerprint, "without marked rows", marks, program())
        kept = plain.filter(_is_kept, input_columns=marks, fn_kwargs={"names": marks}, new_fingerprint=key)
        kept = formatted_as(rows, kept)
    else:
        return rows
    if len(kept) == len(rows):
        return rows
    say(f"{name}: {len(rows) - len(kept)} rows {LEFT_OUT}.")
    return kept


def _stream_without_marked(rows: datasets.IterableDataset, name: str) -> datasets.IterableDataset:
    """Where a stream does not say its columns, any of its rows may have a mark."""
    names = rows.column_names
    if names is not None and not marks_in(names):
        return rows
    if names is not None:
        say(f"{name}: rows {LEFT_OUT}, if there are any.")
    return formatted_as(rows, rows.with_format(None).filter(_Kept(name, said=names is not None)))


def _is_kept(*marks: Any, names: list[str]) -> bool:
    return not is_left_out(dict(zip(names, marks, strict=True)))


@dataclass
class _Kept:
    """Whether a row of a stream stays; that some do not is said with the first of them.

    Args:
        name: of the stream.
        said: it was said already.
    """

    name: str
    said: bool

    def __call__(self, row: Any) -> bool:
        kept = not is_left_out(row)
        if not kept and not self.said:
            self.said = True
            say(f"{self.name}: rows {LEFT_OUT}.")
        return kept
