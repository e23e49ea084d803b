"""The rows of one prompt: samples that belong together, whatever their order in the file."""

import hashlib
from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from distill.pairs.batches import batches, column, flat

_BYTES = 16  # of a digest: two of a million million rows share one with a probability of 1e-15


def rows_by_prompt(pairs: datasets.Dataset) -> dict[bytes, list[int]]:
    """The rows of each prompt, in their order; prompts in the order in which they first appear.

    Two rows have the same prompt if their `prompt_ids` are the same. The keys are those of `ids_digests`.

    Example:
        >>> most_samples = max(map(len, rows_by_prompt(pairs).values()))
    """
    rows: dict[bytes, list[int]] = {}
    for row, prompt in enumerate(ids_digests(pairs, "prompt_ids")):
        rows.setdefault(prompt, []).append(row)
    return rows


def prompt_numbers(pairs: datasets.Dataset) -> NDArray[np.int64]:
    """`[rows]`: the number of each row's prompt, in the order in which prompts first appear."""
    return numbered(*ids_keys(pairs, "prompt_ids"))


def numbered(*columns: NDArray[Any]) -> NDArray[np.int64]:
    """`[rows]`: for each row how many others, of other values in these columns, came before the first with its own.

    Example:
        >>> numbered(np.array([7, 5, 7, 9])).tolist()
        [0, 1, 0, 2]
    """
    first = first_like(*columns)
    return (np.cumsum(first == np.arange(len(first))) - 1)[first]


def ids_keys(pairs: datasets.Dataset, name: str) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The digests of `ids_digests` as two columns of numbers: 16 bytes a row, where a set or a dict of them takes 150."""
    keys = bytearray()
    for digest in ids_digests(pairs, name):
        keys += digest
    halves = np.frombuffer(keys, "<u8").reshape(-1, 2)
    return halves[:, 0], halves[:, 1]


def value_keys(pairs: datasets.Dataset, name: str) -> NDArray[np.int64]:
    """`[rows]`: a number for each row of a column with one value a row, equal where the values are; -1 for null."""
    encoded = column(pairs, name).dictionary_encode().unify_dictionaries()
    codes = [np.asarray(chunk.indices.fill_null(-1)) for chunk in encoded.chunks]
    return np.concatenate([np.zeros(0, np.int64), *codes])


def ids_digests(pairs: datasets.Dataset, column: str, doing: str = "comparing rows") -> Iterator[bytes]:
    """A digest (BLAKE2b) of each row's ids: equal where the ids are, and quicker to compare and to keep than lists."""
    for table in batches(pairs, [column], doing):
        ids, sizes = flat(table[column])
        data, ends = np.ascontiguousarray(ids, dtype="<i4").tobytes(), sizes.cumsum() * 4
        for start, end in zip((ends - sizes * 4).tolist(), ends.tolist(), strict=True):
            yield hashlib.blake2b(data[start:end], digest_size=_BYTES).digest()


def first_of_kind(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    """`[rows]` bool: where no earlier row has the same values in all columns.

    Example:
        >>> first_of_kind(np.array([3, 3, 3]), np.array([1, 2, 1])).tolist()
        [True, True, False]
    """
    first = first_like(*columns)
    return np.asarray(first == np.arange(len(first)))


def first_like(*columns: NDArray[Any]) -> NDArray[np.int64]:
    """`[rows]`: for each row the first one that has the same values in all columns; by sorting, so nothing but arrays is held.

    Example:
        >>> first_like(np.array([3, 3, 3]), np.array([1, 2, 1])).tolist()
        [0, 1, 0]
    """
    order = np.lexsort(columns)  # stable: of equal rows the earliest stands first
    new = np.zeros(len(order), dtype=bool)
    new[:1] = True
    for values in columns:
        new[1:] |= values[order[1:]] != values[order[:-1]]
    found = np.empty(len(order), dtype=np.int64)
    found[order] = order[new][np.cumsum(new) - 1]
    return found
