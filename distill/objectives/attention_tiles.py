"""Tiling of attention maps for speed: which rows and positions are computed at once. It changes no number.

A block is some supervised positions of some rows of the batch, and the keys that any of them may see. On a CPU a block is of one
row, small enough for the cache; on a GPU it takes many rows, because launching small pieces costs more than computing them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distill.signals import AttentionTap, SupervisedRows
from distill.signals.attention_masks import MaskRule
from distill.signals.rows import sent_to


@dataclass(frozen=True)
class Block:
    """c rows of the batch and m positions of each; a row with fewer repeats its last one, and these repetitions count nothing.

    Args:
        rows: which rows of the batch: a slice where they are neighbours, else `[c]`.
        row_index: `[c, 1]`, the same as numbers.
        positions: `[c, m]`.
        at: `[c, m]`, the place of each among the N supervised positions; N for a repetition.
        spots: `[c, m]`, the place of each among the B * T positions; B * T for a repetition.
        padded: whether there are repetitions.
        keys: from the first to behind the last key that any of the positions may see.
    """

    rows: slice | Tensor
    row_index: Tensor
    positions: Tensor
    at: Tensor
    spots: Tensor
    padded: bool
    keys: slice


class Blocks:
    """Cuts the supervised positions of a batch into blocks, for layers whose masks are the same.

    Args:
        supervised: the positions.
        taps: of all layers and both sides: their masks are asked for the keys they show, all at once.
    """

    def __init__(self, supervised: SupervisedRows, taps: Sequence[AttentionTap]) -> None:
        self.batch, self.time = supervised.mask.shape
        self.count, device = len(supervised), supervised.index.device
        places = supervised.host.numpy()
        counts = np.bincount(places // max(self.time, 1), minlength=self.batch)
        # rows with many positions first: those that have any left are always the first ones
        self.order = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
        self.counts, starts = counts[self.order], (np.cumsum(counts) - counts)[self.order]
        longest = int(self.counts[0]) if len(self.order) else 0
        nth = np.arange(longest)[None]
        at = starts[:, None] + np.minimum(nth, self.counts[:, None] - 1)
        self.positions = places[at] % self.time if longest else at  # [rows with any, longest]
        at[nth >= self.counts[:, None]] = self.count
        # one copy to the device for all that is selected there
        rows = np.broadcast_to(self.order[:, None], at.shape)
        spots = np.where(at == self.count, self.batch * self.time, rows * self.time + self.positions)
        table = torch.from_numpy(np.stack([self.positions, at, spots, rows]))
        self._positions, self._at, self._spots, self._rows = sent_to(device, table)
        self._ranges = _ranges(taps)

    def cut(self, pair: tuple[AttentionTap, AttentionTap], rows: int, height: int) -> list[Block]:
        """Blocks of at most `rows` rows of the batch and `height` positions of each."""
        found = []
        for start in range(0, self.positions.shape[1], height):
            stop = min(start + height, self.positions.shape[1])
            left = int((self.counts > start).sum())
            for first in range(0, left, rows):
                last = min(first + rows, left)
                end = min(stop, int(self.counts[first]))
                inside = (slice(first, last), slice(start, end))
                chosen = self.order[first:last]
                neighbours = bool((np.diff(chosen) == 1).all())
                found.append(
                    Block(
                        slice(int(chosen[0]), int(chosen[-1]) + 1) if neighbours else self._rows[first:last, 0],
                        self._rows[first:last, :1],
                        self._positions[inside],
                        self._at[inside],
                        self._spots[inside],
                        bool(self.counts[last - 1] < end),
                        self._keys(pair, chosen, self.positions[inside]),
                    )
                )
        return found

    def _keys(self, pair: Sequence[AttentionTap], rows: np.ndarray, positions: np.ndarray) -> slice:
        first, last = self.time, 0
        for tap in pair:
            if tap.mask is None:
                first, last = 0, max(last, int(positions.max()))
                continue
            lowest, highest = self._ranges[id(tap.mask)]
            own = rows[:, None] if len(lowest) > 1 else np.zeros_like(rows)[:, None]
            first, last = min(first, int(lowest[own, positions].min())), max(last, int(highest[own, positions].max()))
        return slice(first, last + 1)


def _ranges(taps: Sequence[AttentionTap]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Of each mask, by identity, the first and the last key that a position may see, `[B or 1, T]` each. One wait for all."""
    masks = {id(tap.mask): tap.mask for tap in taps if tap.mask is not None}
    seen = []
    for mask in masks.values():
        if isinstance(mask, MaskRule):
            seen.append(torch.stack(mask.ranges()))
            continue
        mask = mask[:1] if mask.stride(0) == 0 else mask  # one for all rows, shown B times
        allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        shown = allowed.any(1).byte()
        seen.append(torch.stack([shown.argmax(-1), shown.shape[-1] - 1 - shown.flip(-1).argmax(-1)]))
    if not seen:
        return {}
    device = seen[0].device  # rules stay where their layer is; masks come with their taps
    flat = torch.cat([pair.flatten().to(device) for pair in seen]).to("cpu").numpy()
    found, start = {}, 0
    for key, pair in zip(masks, seen, strict=True):
        first, last = flat[start : start + pair.numel()].reshape(pair.shape)
        found[key], start = (first, last), start + pair.numel()
    return found


def neighbours_of(tap: AttentionTap) -> tuple[object, ...]:
    """Layers for which this is the same can be computed side by side."""
    shapes = tap.query.shape, tap.key.shape, tap.query.dtype
    return *shapes, id(tap.mask), tap.scaling, tap.softcap, tap.sinks is None
