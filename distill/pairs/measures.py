"""Pairs as flat arrays: what is counted before a training, vectorised over all tokens of all rows."""

from collections.abc import Collection
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

QUANTILES = {"least": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99, "most": 1.0}


class PairArrays:
    """Lengths, ends and supervised tokens of pairs.

    Args:
        pairs: see `distill.pairs`.
        max_length: where `PairCollator` would cut a row; `None` cuts none.
    """

    def __init__(self, pairs: datasets.Dataset, max_length: int | None = None) -> None:
        self.table = pairs.with_format("arrow")[:]
        self.prompt_ids, self.prompt = _flat(self.table["prompt_ids"])
        self.completion_ids, self.completion = _flat(self.table["completion_ids"])
        self.length = self.prompt + self.completion
        self.limit = float("inf") if max_length is None else max_length
        self.ends = np.cumsum(self.completion)
        self.last_id = np.where(self.completion > 0, self.completion_ids[np.maximum(self.ends - 1, 0)], -1)
        self.stopped = np.asarray(pc.equal(self.table["finish_reason"], "stop"))
        self.mask = self._mask() if "loss_mask" in pairs.column_names else None

    def supervised(self, cut: bool = True) -> NDArray[Any]:
        """`[rows]`: how many tokens of each carry loss, as the labels of `PairCollator` count them.

        Args:
            cut: after `max_length` has cut the row, or before.
        """
        limit = self.limit if cut else float("inf")
        if self.mask is None:
            return np.maximum(np.minimum(self.length, limit) - np.maximum(self.prompt, 1), 0).astype(np.int64)
        row = np.repeat(np.arange(len(self.prompt)), self.completion)
        place = np.arange(len(row)) - (self.ends - self.completion)[row] + self.prompt[row]
        carries = self.mask & (place >= 1) & (place < limit)
        return np.bincount(row[carries], minlength=len(self.prompt))

    def last_carries_loss(self) -> NDArray[Any]:
        """`[rows]` bool: whether the last token of the completion is supervised."""
        masked = np.ones(len(self.ends), dtype=bool) if self.mask is None else self.mask[np.maximum(self.ends - 1, 0)]
        return masked & (self.length <= self.limit) & (self.length > 1) & (self.completion > 0)

    def inner_ids(self, ids: Collection[int]) -> NDArray[Any]:
        """`[rows]` bool: whether one of `ids` stands in the completion before its last place."""
        inner = np.isin(self.completion_ids, list(ids))
        inner[self.ends[self.completion > 0] - 1] = False
        row = np.repeat(np.arange(len(self.prompt)), self.completion)
        return np.bincount(row[inner], minlength=len(self.prompt)) > 0

    def padding(self, batch_size: int, seed: int = 0) -> float:
        """Share of padding in batches of rows in random order, each as long as its longest row."""
        lengths = np.random.default_rng(seed).permutation(np.minimum(self.length, self.limit))
        longest = np.maximum.reduceat(lengths, np.arange(0, len(lengths), batch_size))
        sizes = np.diff([*range(0, len(lengths), batch_size), len(lengths)])
        return float(1 - lengths.sum() / (longest * sizes).sum())

    def lengths(self) -> dict[str, dict[str, int]]:
        """Quantiles of the tokens of prompts, completions and whole rows."""
        sizes = {"prompt": self.prompt, "completion": self.completion, "row": self.length}
        return {
            name: {label: int(np.quantile(size, share, method="inverted_cdf")) for label, share in QUANTILES.items()}
            for name, size in sizes.items()
        }

    def matches(self, column: str, pattern: str) -> NDArray[Any]:
        """`[rows]` bool: whether the text of a column, or one of its messages, has the pattern (RE2)."""
        values = self.table[column].combine_chunks()
        if not pa.types.is_list(values.type) and not pa.types.is_large_list(values.type):
            return np.asarray(pc.match_substring_regex(values, pattern))
        row = np.asarray(pc.list_parent_indices(values))
        hit = np.asarray(pc.match_substring_regex(pc.struct_field(pc.list_flatten(values), "content"), pattern))
        return np.bincount(row[hit], minlength=len(values)) > 0

    def _mask(self) -> NDArray[Any]:
        """`[completion tokens]` bool; rows without a mask carry loss everywhere."""
        column = self.table["loss_mask"].combine_chunks()
        given = np.repeat(np.asarray(pc.is_valid(column)), self.completion)
        mask = np.ones(len(self.completion_ids), dtype=bool)
        mask[given] = np.asarray(pc.list_flatten(column)) != 0
        return mask


def _flat(column: pa.ChunkedArray) -> tuple[NDArray[Any], NDArray[Any]]:
    lists = column.combine_chunks()
    return np.asarray(pc.list_flatten(lists)), np.asarray(pc.list_value_length(lists)).astype(np.int64)
