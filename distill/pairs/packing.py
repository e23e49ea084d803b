"""Several pairs in one row: less padding, the same gradients.

A padded batch costs as much as its longest row allows. Packing places pairs into bins of `max_length` tokens, best fit, and
keeps the pairs of a bin apart: positions begin at 0 with each of them, no label crosses a border, and `transformers` reads
from the positions which tokens may see each other. No pair is ever split.
"""

import bisect
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from distill.pairs.batches import counted
from distill.pairs.columns import READ


def best_fit(lengths: Any, capacity: int, seed: int = 0) -> list[list[int]]:
    """Bins of row numbers: the longest row first, each into the fullest bin with room for it.

    Rows of one length are taken in an order drawn from `seed`, because neighbours in a file are often samples of one prompt
    and would else share a bin. Best fit needs at most 11/9 of the fewest bins possible, and on texts nearly always the fewest.

    Args:
        lengths: of the rows, in tokens; a row above `capacity` counts as `capacity`, to which the collator cuts it.
        capacity: of a bin, in tokens.
        seed: of the order of equally long rows.

    Returns:
        Lists of row numbers, each row once.

    Source: best-fit decreasing (Johnson 1974); for fine-tuning: Krell et al. 2021.

    Example:
        >>> [len(rows) for rows in best_fit([6, 4, 3, 3, 2], 9)]
        [2, 3]
    """
    sizes = np.minimum(np.asarray(lengths), capacity)
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    bins: list[list[int]] = []
    by_room: dict[int, list[int]] = defaultdict(list)  # room left to the bins that have it
    rooms: list[int] = []  # the keys of by_room, in order
    for row in order.tolist():
        size = int(sizes[row])
        place = bisect.bisect_left(rooms, size)
        if place == len(rooms):
            room, number = capacity, len(bins)
            bins.append([])
        else:
            room = rooms[place]
            number = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[place]
        bins[number].append(row)
        left = room - size
        if left:
            if left not in by_room:
                bisect.insort(rooms, left)
            by_room[left].append(number)
    return bins


@dataclass(frozen=True)
class PackedPairs:
    """Pairs as bins: item i is the list of pairs of bin i, which `PairCollator` puts into one row.

    Which pairs share a bin is decided once; the order of the bins is the sampler's.

    Args:
        pairs: the pairs.
        bins: lists of row numbers.
        capacity: of a bin, in tokens.
        tokens: in all bins together.
    """

    pairs: datasets.Dataset
    bins: list[list[int]]
    capacity: int
    tokens: int

    def __len__(self) -> int:
        return len(self.bins)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        columns = self.pairs[self.bins[index]]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def describe(self, batch: int, seed: int = 0) -> str:
        """One sentence: how full `batch` rows of bins are, and padded batches of as many pairs, drawn in another order."""
        lengths = pair_lengths(self.pairs, self.capacity)
        order = np.random.default_rng(seed).permutation(len(lengths))
        together = max(1, round(batch * len(lengths) / len(self)))
        padded = sum(
            len(part) * int(lengths[part].max())
            for part in np.array_split(order, range(together, len(order), together))
        )
        return (
            f"{len(self.pairs)} pairs are packed into {len(self)} bins of {self.capacity} tokens: "
            f"{self.tokens / (len(self) * self.capacity):.1%} of the room is filled, against {self.tokens / padded:.1%} in padded "
            f"batches of as many pairs ({together})."
        )


def pack_pairs(pairs: datasets.Dataset, max_length: int, seed: int = 0, columns: Sequence[str] = READ) -> PackedPairs:
    """Pairs in bins of `max_length` tokens; see `best_fit`.

    What the teacher was shown counts for nothing here: it is the student's rows that are filled.

    Args:
        pairs: see `distill.pairs`.
        max_length: of a bin, in tokens.
        seed: of the order of equally long rows.
        columns: those that the collator reads (`PairCollator.reads`); the others are left out.

    Example:
        >>> packed = pack_pairs(pairs, 2048)
        >>> PairCollator(tokenizer, max_length=2048)([packed[0], packed[1]])["position_ids"].shape
        torch.Size([2, 2047])
    """
    lengths = pair_lengths(pairs, max_length)
    used = [name for name in columns if name in pairs.column_names]
    return PackedPairs(pairs.select_columns(used), best_fit(lengths, max_length, seed), max_length, int(lengths.sum()))


def pair_lengths(pairs: datasets.Dataset, max_length: int) -> np.ndarray:
    """`[rows]`, tokens of prompt and completion together, after what `max_length` cuts."""
    parts = counted(pairs, ("prompt_ids", "completion_ids"))
    return np.minimum(sum(part.sizes for part in parts.values()), max_length)
