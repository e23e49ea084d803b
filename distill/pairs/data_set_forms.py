"""Forms of data sets: which columns one has, whether it is a stream or not, and its format put back behind a map or a filter."""

from collections.abc import Collection
from typing import Any

import datasets


def columns_of(rows: Any) -> list[str]:
    """The columns of a data set; those of its first row, where a stream does not say them.

    Args:
        rows: a `datasets.Dataset` or `IterableDataset`, of any format.
    """
    return list(rows.column_names or next(iter(rows.with_format(None)), {}))


def formatted_as(given: Any, rows: Any, made: Collection[str] = ()) -> Any:
    """`rows` in the format of `given`, which they were made of: arrays, tables, a function of the user's own.

    Args:
        given: a `datasets.Dataset` or `IterableDataset`.
        rows: of the same kind.
        made: columns of `rows` that were made; where the format chooses among columns, these are seen, too.
    """
    if isinstance(rows, datasets.IterableDataset):
        return rows if given._formatting is None else rows.with_format(given._formatting.format_type)
    form = given.format
    chosen = None
    if form["columns"] != given.column_names:
        chosen = [name for name in dict.fromkeys((*form["columns"], *made)) if name in rows.column_names]
    if form["type"] is None and chosen is None:
        return rows
    return rows.with_format(form["type"], chosen, form["output_all_columns"], **form["format_kwargs"])
