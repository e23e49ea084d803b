"""Threshold sampling: every probability above a cut exactly, and of the rest a few tokens of that weight each, drawn systematically."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from distill.signals.encodings.base import Blob, SparseEncoding
from distill.signals.encodings.drawing import BLOCK, in_blocks, inverted, largest
from distill.signals.encodings.layout import (
    STEPS,
    Column,
    Reader,
    codes_of,
    column,
    entropies,
    entropy_codes,
    rows_column,
)
from distill.signals.encodings.sorted_ids import SortedIds
from distill.signals.sparse import Atoms

_NOTHING = 1e-30  # mass that is none


@dataclass(frozen=True, kw_only=True)
class Threshold(SparseEncoding):
    """n weighted tokens whose weights are the teacher's probabilities in expectation and always sum to 1.

    The cut c solves sum min(1, p / c) = n. A token with p >= c is kept with its own probability. From the others, whose mass is
    (n - kept) c, exactly n - kept are drawn systematically, each with weight c: one number u decides all, and no token can be drawn
    twice. Where no more than n tokens have any probability, all are kept.

    A position holds c (float32), sum p log p (16 bits), the n tokens in ascending order, which of them are kept, and their probabilities
    as 16-bit codes of log p between log c and 0: 80 to 90 bytes at n = 32, whatever the vocabulary.

    Args:
        n: tokens a position.
        temperature, seed, sets: see `SparseEncoding`.

    Raises:
        ValueError: a value out of its range.

    Source: Fearnhead and Clifford 2003, section 4 (optimal resampling).
    """

    name: ClassVar[str] = "threshold"
    next_token: ClassVar[str] = "atoms"
    first: ClassVar[str] = "n"

    n: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole("n")

    def drawn(self) -> int:
        """See `SparseEncoding`."""
        return 1

    def held(self) -> int:
        """Tokens a position: n, or the whole vocabulary where that is smaller."""
        assert self.vocabulary is not None
        return min(self.n, self.vocabulary)

    def bytes_per_position(self) -> float:
        """With a third of the tokens kept exactly, which is what a model's own text shows at n = 32."""
        vocabulary = self.vocabulary or 2**16
        count = min(self.n, vocabulary)
        return self.sets * (6 + SortedIds(vocabulary, count).bytes + -(-count // 8) + 2 * count / 3)

    def columns(self, log_p: Tensor, labels: Tensor, drawn: Tensor) -> list[Column]:
        """See `SparseEncoding`."""
        assert self.vocabulary is not None
        p = log_p.exp()
        negentropy = (p * log_p).sum(dim=1).double()
        ids, kept, cut, few = chosen(p, self.n, drawn)
        ids, order = ids.sort(dim=1)
        is_kept = order < kept[:, None]
        codes = codes_of(log_p.gather(1, ids), cut.log())
        return [
            # its sign tells that nothing was drawn beside those kept
            column(torch.where(few, -cut, cut), "<f4"),
            column(entropy_codes(negentropy, self.vocabulary), "<u2"),
            rows_column(SortedIds(self.vocabulary, self.held()).pack(ids.cpu().numpy())),
            rows_column(np.packbits(is_kept.cpu().numpy(), axis=1, bitorder="little")),
            column(codes, "<u2", is_kept),
        ]

    def decode_set(
        self, blobs: Sequence[Blob], stored: Sequence[int], wanted: Sequence[int], device: torch.device | str = "cpu"
    ) -> Atoms:
        """See `Encoding`."""
        self._needs_head()
        assert self.vocabulary is not None
        width = self.held()
        tokens, flags = SortedIds(self.vocabulary, width), -(-width // 8)
        found: list[list[np.ndarray]] = [
            [np.zeros(shape, t)]
            for shape, t in ((0, "<f4"), (0, "<u2"), ((0, tokens.bytes), "u1"), ((0, width), "u1"), (0, "<u2"))
        ]
        for blob, count, few in zip(blobs, stored, wanted, strict=True):
            reader = Reader(blob)
            cut, negentropy = reader.take(count, "<f4"), reader.take(count, "<u2")
            ids, is_kept = reader.take_rows(count, tokens.bytes), reader.take_rows(count, flags)
            is_kept = np.unpackbits(is_kept, axis=1, count=width, bitorder="little")
            codes = reader.take(int(is_kept.sum()), "<u2")
            reader.end()
            parts = (cut[:few], negentropy[:few], ids[:few], is_kept[:few], codes[: int(is_kept[:few].sum())])
            for column_, part in zip(found, parts, strict=True):
                column_.append(part)
        cut, negentropy, ids, is_kept, codes = (np.concatenate(parts) for parts in found)
        low, kept = np.log(np.abs(cut.astype(np.float64))), is_kept.astype(bool)
        weights = np.repeat(np.maximum(cut, 0)[:, None], width, axis=1)
        weights[kept] = np.exp(codes / STEPS * np.repeat(low, kept.sum(axis=1)))
        return Atoms(
            torch.from_numpy(tokens.unpack(ids)).to(device),
            torch.from_numpy(weights).to(device),
            entropies(negentropy, self.vocabulary).to(device),
            self.temperature,
        )


def chosen(p: Tensor, n: int, drawn: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which tokens are kept and which are drawn.

    Args:
        p: `[r, V]`, probabilities; overwritten.
        n: tokens wanted.
        drawn: `[r, 1]` float64, from 0 and below 1.

    Returns:
        `[r, min(n, V)]` tokens, those kept first; `[r]` how many are kept; `[r]` float64 the cut; `[r]` whether only the
        kept ones count, because no more than n tokens have any probability.
    """
    top, ids = largest(p, n)
    exact = top.double()
    p.scatter_(1, ids, 0.0)
    blocks = in_blocks(p)
    sums = blocks.sum(dim=2).double()
    rest = sums.sum(dim=1)
    # mass behind the k largest, for every k: small numbers first
    behind = exact.flip(1).cumsum(1).flip(1) + rest[:, None]
    place = torch.arange(ids.shape[1], device=p.device)
    cuts = behind / (n - place).clamp(min=1)
    is_small = exact < cuts
    few = (rest < _NOTHING) | ~is_small.any(dim=1)
    kept = torch.where(few, (exact > _NOTHING).sum(dim=1), is_small.int().argmax(dim=1))
    is_kept = place < kept[:, None]
    # those of the largest that are not kept go back to the rest
    blocks.view(len(p), -1).scatter_(1, ids, torch.where(is_kept, 0, top))
    sums.scatter_add_(1, ids // BLOCK, torch.where(is_kept, 0, exact))
    cut = sums.sum(dim=1) / (n - kept).clamp(min=1)
    order = (place - kept[:, None]).clamp(min=0)
    tokens = inverted(blocks, sums, (drawn + order) * cut[:, None])
    ids = torch.where(is_kept | few[:, None], ids, tokens)
    smallest = exact.gather(1, (kept - 1).clamp(min=0)[:, None]).squeeze(1)
    return ids, kept, torch.where(few, smallest, cut), few
