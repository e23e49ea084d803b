"""The rows of one prompt: samples that belong together, whatever their order in the file."""

import hashlib
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from distill.pairs.batches import batches, flat

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
    return numbered(ids_digests(pairs, "prompt_ids"))


def numbered(keys: Iterable[Hashable]) -> NDArray[np.int64]:
    """For each key how many other keys came before its first.

    Example:
        >>> numbered("abac").tolist()
        [0, 1, 0, 2]
    """
    seen: dict[Hashable, int] = {}
    return np.fromiter((seen.setdefault(key, len(seen)) for key in keys), np.int64)


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
    order = np.lexsort(columns)  # stable: of equal rows the earliest stands first
    new = np.ones(len(order), dtype=bool)
    new[1:] = np.any([column[order[1:]] != column[order[:-1]] for column in columns], axis=0)
    found = np.empty(len(order), dtype=bool)
    found[order] = new
    return found
