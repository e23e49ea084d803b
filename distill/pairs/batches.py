"""Columns of pairs as Arrow tables, a batch at a time: a million rows never stand in memory at once."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tqdm.auto import tqdm

from distill.basics import processes

ROWS = 10_000
SILENT = 3  # seconds before a bar is drawn: what is done by then needs none


def batches(pairs: datasets.Dataset, columns: Sequence[str], doing: str = "") -> Iterator[pa.Table]:
    """Tables of these columns, at most `ROWS` rows each, in the order of the pairs.

    Args:
        pairs: see `distill.pairs`.
        columns: their names.
        doing: what a progress bar says if it takes longer than `SILENT` seconds; none without it.
    """
    chosen = pairs.select_columns(list(columns)).with_format("arrow")
    hidden = not doing or not processes.is_main()
    with tqdm(total=len(pairs), desc=doing, unit="row", delay=SILENT, leave=False, disable=hidden) as bar:
        for table in chosen.iter(ROWS):
            yield table
            bar.update(len(table))


def column(pairs: datasets.Dataset, name: str) -> pa.ChunkedArray:
    """One column as Arrow, for those with one value a row."""
    chunks = [chunk for table in batches(pairs, [name]) for chunk in table[name].chunks]
    return (
        pa.chunked_array(chunks) if chunks else pa.chunked_array([], type=pairs.features.arrow_schema.field(name).type)
    )


class Counted(NamedTuple):
    """Of a column of lists of ids: how long each is (`[rows]`, -1: null), and the highest id (0: there is none)."""

    sizes: NDArray[np.int64]
    highest: int


def counted(pairs: datasets.Dataset, names: Sequence[str], doing: str = "") -> dict[str, Counted]:
    """Lengths and highest ids of columns of lists; a batch at a time, because rows that were chosen or shuffled are copied to be looked at.

    Args:
        pairs: with these columns.
        names: of columns.
        doing: as of `batches`.
    """
    sizes: dict[str, list[NDArray[np.int64]]] = {name: [np.zeros(0, np.int64)] for name in names}
    highest = dict.fromkeys(names, 0)
    for table in batches(pairs, names, doing):
        for name in names:
            sizes[name].append(np.asarray(pc.fill_null(pc.list_value_length(table[name]), -1)).astype(np.int64))
            highest[name] = max(highest[name], pc.max(pc.list_flatten(table[name])).as_py() or 0)
    return {name: Counted(np.concatenate(sizes[name]), highest[name]) for name in names}


def flat(lists: pa.ChunkedArray) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The values of a batch of lists one behind the other, and how many each row has (none where it is null)."""
    if pa.types.is_null(lists.type):  # a column in which every row is null has no type of its own
        return np.zeros(0, np.int64), np.zeros(len(lists), np.int64)
    whole = lists.combine_chunks()
    sizes = pc.fill_null(pc.list_value_length(whole), 0).to_numpy(zero_copy_only=False)
    return pc.list_flatten(whole).to_numpy(zero_copy_only=False), sizes.astype(np.int64)


def row_of(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each value of `flat`, the row it belongs to."""
    return np.repeat(np.arange(len(sizes)), sizes)
