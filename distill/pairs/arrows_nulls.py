"""Nulls that Arrow wrote: what it keeps as structs has in every row every key that any row has."""

from collections.abc import Sequence

import datasets


def filled_columns(rows: datasets.Dataset | datasets.IterableDataset, columns: Sequence[str]) -> list[str]:
    """Those of the columns in which a key with null may be one that some other row has; what Arrow keeps as JSON is as it was written.

    A stream that was mapped has forgotten its types, but its rows came through Arrow all the same: the types are those before the map.
    A column that the map made is taken for a copy of one of structs, where there is one. Rows of a generator never were in Arrow.

    Example:
        >>> filled_columns(datasets.Dataset.from_list([{"a": {"x": 1}}, {"a": {"y": 1}}]), ["a"])
        ['a']
    """
    features, node = rows.features, getattr(rows, "_ex_iterable", None)
    while features is None and node is not None:
        features = node.features if node.is_typed else None
        sources = getattr(node, "ex_iterables", None) or [getattr(node, "ex_iterable", None)]
        node = sources[0]
    if features is None:
        return []
    any_struct = any("Json" not in repr(kind) and not isinstance(kind, datasets.Value) for kind in features.values())
    return [
        column for column in columns if (any_struct if column not in features else "Json" not in repr(features[column]))
    ]
