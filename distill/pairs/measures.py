"""Pairs measured: what is counted before a training, by arrays over all tokens of a batch of rows at a time."""

from collections.abc import Collection
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distill.pairs.batches import batches, flat, row_of

QUANTILES = {"least": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99, "most": 1.0}


class PairArrays:
    """Lengths, ends and supervised tokens of pairs: arrays of one value a row, from one look at each token.

    Args:
        pairs: see `distill.pairs`.
        max_length: where `PairCollator` would cut a row; `None` cuts none.
        inner: ids that are looked for inside completions, before their last place.
    """

    def __init__(self, pairs: datasets.Dataset, max_length: int | None = None, inner: Collection[int] = ()) -> None:
        self.pairs = pairs
        self.limit = float("inf") if max_length is None else max_length
        self.highest = 0
        looked_for = np.array(sorted(inner), dtype=np.int64)
        masked = "loss_mask" in pairs.column_names
        columns = ["prompt_ids", "completion_ids", "finish_reason", *(["loss_mask"] if masked else [])]
        parts: list[tuple[NDArray[Any], ...]] = []
        for table in batches(pairs, columns, "counting tokens"):
            prompt_ids, prompt = flat(table["prompt_ids"])
            ids, completion = flat(table["completion_ids"])
            mask = _mask(table["loss_mask"], completion) if masked else None
            given = pc.is_valid(table["loss_mask"]).to_numpy() if masked else np.zeros(len(prompt), bool)
            last = np.maximum(completion.cumsum() - 1, 0)
            self.highest = max(self.highest, int(prompt_ids.max(initial=0)), int(ids.max(initial=0)))
            parts.append(
                (
                    prompt,
                    completion,
                    np.where(completion > 0, ids[last] if len(ids) else -1, -1),
                    pc.equal(table["finish_reason"], "stop").to_numpy(),
                    given,
                    np.ones(len(last), bool) if mask is None or not len(mask) else mask[last],
                    _inside(ids, completion, looked_for),
                    self._supervised(prompt, completion, mask, self.limit),
                    self._supervised(prompt, completion, mask, float("inf")),
                )
            )
        joined: list[NDArray[Any]] = [np.zeros(0, np.int64)] * 9
        if parts:
            joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        self.prompt, self.completion, self.last_id, self.stopped, self.masked = joined[:5]
        self._last_has_loss, self.inside, self._after, self._before = joined[5:]
        self.length = self.prompt + self.completion

    def supervised(self, cut: bool = True) -> NDArray[Any]:
        """`[rows]`: how many tokens of each carry loss, as the labels of `PairCollator` count them.

        Args:
            cut: after `max_length` has cut the row, or before.
        """
        return self._after if cut else self._before

    def last_carries_loss(self) -> NDArray[Any]:
        """`[rows]` bool: whether the last token of the completion is supervised."""
        found: NDArray[Any] = (
            self._last_has_loss & (self.length <= self.limit) & (self.length > 1) & (self.completion > 0)
        )
        return found

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

    @staticmethod
    def _supervised(
        prompt: NDArray[Any], completion: NDArray[Any], mask: NDArray[Any] | None, limit: float
    ) -> NDArray[Any]:
        if mask is None:
            return np.maximum(np.minimum(prompt + completion, limit) - np.maximum(prompt, 1), 0).astype(np.int64)
        row = row_of(completion)
        place = np.arange(len(row)) - (completion.cumsum() - completion)[row] + prompt[row]
        carries = mask & (place >= 1) & (place < limit)
        return np.bincount(row[carries], minlength=len(prompt)).astype(np.int64)


def _inside(ids: NDArray[Any], sizes: NDArray[Any], looked_for: NDArray[Any]) -> NDArray[Any]:
    """`[rows]` bool: whether one of the ids stands before the last place."""
    if not len(looked_for) or not len(ids):
        return np.zeros(len(sizes), bool)
    inner = np.isin(ids, looked_for)
    inner[sizes[sizes > 0].cumsum() - 1] = False
    places = np.flatnonzero(inner)
    hit = np.zeros(len(sizes), bool)
    hit[np.searchsorted(sizes.cumsum(), places, side="right")] = True
    return hit


def _mask(column: pa.ChunkedArray, sizes: NDArray[Any]) -> NDArray[Any]:
    """`[completion tokens]` bool; rows without a mask carry loss everywhere."""
    given = np.repeat(pc.is_valid(column).to_numpy(), sizes)
    mask = np.ones(len(given), dtype=bool)
    mask[given] = flat(column)[0] != 0
    return mask
