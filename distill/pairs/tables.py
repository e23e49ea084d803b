"""Tables of pairs: rows as Arrow columns, and the types of columns that are the user's own.

Own columns keep their kind: texts, truth values, numbers, and lists of one of these. Objects and other lists are `datasets.Json`.
Where values of several kinds stand in one column, all become text (JSON for what is no text).
"""

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from distill.pairs.columns import COLUMNS, OPTIONAL, features

JSON = pa.json_()
PLAIN_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
ANY_MESSAGES = pa.list_(JSON)
PROMPTS = ("prompt", "teacher_prompt")  # text in all rows of a file, or messages in all
_PAIR_TYPES = {field.name: field.type for field in features(False, OPTIONAL).arrow_schema if field.name not in PROMPTS}
EXACT = 2**53  # up to here every integer is a float, too


class MixedPrompts(ValueError):
    """Some prompts (or teacher's prompts) are messages and others plain text."""

    def __init__(self, column: str = "prompt") -> None:
        which = "prompts" if column == "prompt" else f"values of {column}"
        super().__init__(f"some {which} are text and others are messages; keep the two kinds in two files.")


def table_of(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Complete rows (see `complete_row`) as a table, with the user's own columns.

    Raises:
        MixedPrompts: some prompts are messages and others plain text.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    found: dict[str, Any] = {}
    for name in ordered(names):
        values = [row.get(name) for row in rows]
        if name in OPTIONAL and all(value is None for value in values):
            continue
        if name in PROMPTS:
            found[name] = _prompts(values, name)
        elif name in _PAIR_TYPES:
            found[name] = pa.array(values, _PAIR_TYPES[name])
        else:
            found[name] = own_array(values)
    return pa.table(found)


def ordered(names: Iterable[str]) -> list[str]:
    """Columns in the order in which pairs have them; the user's own last."""
    listed = list(names)
    return [n for n in (*COLUMNS, *OPTIONAL) if n in listed] + [n for n in listed if n not in (*COLUMNS, *OPTIONAL)]


def own_array(values: Sequence[Any]) -> pa.Array:
    """Values of a column of which nothing is known, in the type that keeps them."""
    there = [value for value in values if value is not None]
    if not there:
        return pa.nulls(len(values))
    if all(isinstance(value, dict | list) for value in there):
        inner = [v for value in there if isinstance(value, list) for v in value]
        kind = _scalar(inner)
        if all(isinstance(value, list) for value in there) and (kind is not None or not inner):
            return pa.array(values, pa.list_(kind or pa.null()))
        return _json_array(values)
    kind = _scalar(there)
    if kind is not None:
        return pa.array(values, kind)
    if any(not isinstance(value, dict | list | str | int | float) for value in there):  # a time, bytes: from a table
        try:
            return pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            pass
    return pa.array([_as_text(value) for value in values], pa.string())


def wider(one: pa.DataType, other: pa.DataType, beyond: bool = False) -> pa.DataType:
    """The type that holds the values of both; what does not go together becomes text.

    Args:
        one, other: types.
        beyond: integers among the values are too large for a float (see `EXACT`).
    """
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    numbers = [pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in (one, other)]
    if all(numbers):
        if pa.types.is_floating(one) or pa.types.is_floating(other):
            return pa.string() if beyond else pa.float64()
        return pa.string() if beyond and pa.uint64() in (one, other) else pa.int64()
    if pa.types.is_list(one) and pa.types.is_list(other):
        if _is_messages(one) and _is_messages(other):
            return ANY_MESSAGES
        inner = [kind.value_type for kind in (one, other)]
        if any(map(pa.types.is_null, inner)) or all(pa.types.is_integer(k) or pa.types.is_floating(k) for k in inner):
            kind = wider(inner[0], inner[1], beyond)
            return JSON if pa.types.is_string(kind) and not any(map(pa.types.is_string, inner)) else pa.list_(kind)
    return JSON if _is_nested(one) and _is_nested(other) else pa.string()


def in_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with the columns of a wider schema (see `wider`)."""
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
        else:
            columns.append(_in_type(table[field.name], field.type))
    return pa.table(columns, schema=schema)


def merged(one: pa.Schema, other: pa.Schema, beyond: Collection[str] = ()) -> pa.Schema:
    """The schema of which both are a part; `one` itself where it holds the other.

    Args:
        one, other: schemas.
        beyond: columns with integers that are too large for a float.
    """
    types = {field.name: field.type for field in one}
    for field in other:
        types[field.name] = (
            wider(types[field.name], field.type, field.name in beyond) if field.name in types else field.type
        )
    return pa.schema([(name, types[name]) for name in ordered(types)])


def dataset_of(tables: Sequence[pa.Table]) -> datasets.Dataset:
    """The tables, which have one schema, as a dataset in memory."""
    table = pa.concat_tables(tables).combine_chunks()
    info = datasets.DatasetInfo(features=datasets.Features.from_arrow_schema(table.schema))
    return datasets.Dataset(datasets.table.InMemoryTable(table), info=info)


def _prompts(values: Sequence[Any], name: str) -> pa.Array:
    there = [value for value in values if value is not None]  # a teacher's prompt may be none
    if all(isinstance(value, str) for value in there):
        return pa.array(values, pa.string())
    if any(isinstance(value, str) for value in there):
        raise MixedPrompts(name)
    plain = all(
        m.keys() == {"role", "content"} and isinstance(m["role"], str) and isinstance(m["content"], str)
        for value in there
        for m in value
    )
    return pa.array(values, PLAIN_MESSAGES) if plain else _messages_of_any_kind(values)


def _json_array(values: Sequence[Any]) -> pa.Array:
    texts = [None if value is None else _dumped(value) for value in values]
    return pa.ExtensionArray.from_storage(JSON, pa.array(texts, pa.string()))


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return _dumped(value) if isinstance(value, dict | list | bool | int | float) else str(value)  # a time


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _scalar(values: Sequence[Any]) -> pa.DataType | None:
    """The one type of these values, or None."""
    kinds = {type(value) for value in values}
    if kinds == {str}:
        return pa.string()
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in values):
        return pa.int64()
    if kinds == {float} or (kinds == {int, float} and all(abs(v) <= EXACT for v in values if isinstance(v, int))):
        return pa.float64()
    return None


def _is_messages(kind: pa.DataType) -> bool:
    return kind in (PLAIN_MESSAGES, ANY_MESSAGES)


def _is_nested(kind: pa.DataType) -> bool:
    return pa.types.is_nested(kind) or kind == JSON


def _in_type(column: Any, kind: pa.DataType) -> Any:
    if column.type == kind:
        return column
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), kind)
    if kind == ANY_MESSAGES:
        return _messages_of_any_kind(column.to_pylist())
    if kind == JSON:
        return _json_array(column.to_pylist())
    if kind == pa.string():  # stored JSON is its text already
        return pa.array([_as_text(value) for value in column.to_pylist()], pa.string())
    return column.cast(kind)


def _messages_of_any_kind(values: Sequence[Any]) -> pa.Array:
    lists = [value or [] for value in values]
    ends = np.cumsum([0, *map(len, lists)], dtype=np.int32)
    none = pa.array([value is None for value in values])
    messages = _json_array([message for value in lists for message in value])
    return pa.ListArray.from_arrays(ends, messages, mask=none if none.true_count else None)
