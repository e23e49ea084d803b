"""Draws: n tokens drawn from the teacher at every position, with counts; at n = 1 this is training on the teacher's text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from distill.signals.encodings.base import Blob, SparseEncoding
from distill.signals.encodings.drawing import in_blocks, inverted
from distill.signals.encodings.layout import (
    Column,
    Reader,
    column,
    count_dtype,
    entropies,
    entropy_codes,
    ids_dtype,
    padded,
    size_of,
)
from distill.signals.sparse import Atoms


@dataclass(frozen=True, kw_only=True)
class Draws(SparseEncoding):
    """n independent draws; a token's weight is its count / n.

    A position holds sum p log p, how many different tokens were drawn, these and their counts: some 25 bytes at n = 16. The error of
    the student's gradient falls as 1 / sqrt(n); `threshold` has the same mean and less noise.

    Args:
        n: draws a position.
        temperature, seed, sets: see `SparseEncoding`.

    Raises:
        ValueError: a value out of its range.

    Source: random sampling knowledge distillation (Anshumann et al. 2025).
    """

    name: ClassVar[str] = "draws"
    next_token: ClassVar[str] = "atoms"
    first: ClassVar[str] = "n"

    n: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole("n")

    def drawn(self) -> int:
        """See `SparseEncoding`."""
        return self.n

    def bytes_per_position(self) -> float:
        """With half as many different tokens as draws."""
        size = size_of(ids_dtype(self.vocabulary or 2**16)) + size_of(count_dtype(self.n))
        return self.sets * (2 + size_of(count_dtype(self.n)) + self.n / 2 * size)

    def columns(self, log_p: Tensor, labels: Tensor, drawn: Tensor) -> list[Column]:
        """See `SparseEncoding`."""
        assert self.vocabulary is not None
        p = log_p.exp()
        negentropy = (p * log_p).sum(dim=1).double()
        blocks = in_blocks(p)
        sums = blocks.sum(dim=2).double()
        tokens = inverted(blocks, sums, drawn.sort(dim=1).values * sums.sum(dim=1, keepdim=True))
        first = torch.ones_like(tokens, dtype=torch.bool)
        first[:, 1:] = tokens[:, 1:] != tokens[:, :-1]
        run = first.cumsum(dim=1) - 1  # numbers sorted: the same token stands together
        counts = torch.zeros_like(tokens).scatter_add_(1, run, torch.ones_like(tokens))
        kinds = count_dtype(self.n)
        return [
            column(entropy_codes(negentropy, self.vocabulary), "<u2"),
            column(first.sum(dim=1), kinds),
            column(tokens, ids_dtype(self.vocabulary), first),
            column(counts, kinds, counts > 0),
        ]

    def decode_set(
        self, blobs: Sequence[Blob], stored: Sequence[int], wanted: Sequence[int], device: torch.device | str = "cpu"
    ) -> Atoms:
        """See `Encoding`."""
        self._needs_head()
        assert self.vocabulary is not None
        kinds = count_dtype(self.n)
        found: list[list[np.ndarray]] = [[np.zeros(0, t)] for t in ("<u2", "<i8", "<i8", kinds)]
        for blob, count, few in zip(blobs, stored, wanted, strict=True):
            reader = Reader(blob)
            negentropy, lengths = reader.take(count, "<u2"), reader.take(count, kinds).astype(np.int64)
            entries = int(lengths.sum())
            ids, counts = reader.take(entries, ids_dtype(self.vocabulary)), reader.take(entries, kinds)
            reader.end()
            some = lengths[:few].sum()
            for column_, part in zip(found, (negentropy[:few], lengths[:few], ids[:some], counts[:some]), strict=True):
                column_.append(part)
        negentropy, lengths, ids, counts = (np.concatenate(parts) for parts in found)
        tokens, mask = padded(ids, lengths)
        weights = np.zeros(mask.shape, np.float32)
        weights[mask] = counts / self.n
        return Atoms(
            torch.from_numpy(tokens).to(device),
            torch.from_numpy(weights).to(device),
            entropies(negentropy, self.vocabulary).to(device),
            self.temperature,
        )
