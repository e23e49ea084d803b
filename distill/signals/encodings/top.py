"""Top: the k largest log-probabilities, the emitted token's among them, and always the mass of the tail."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from distill.signals import sparse
from distill.signals.encodings.base import Blob, SparseEncoding
from distill.signals.encodings.drawing import largest
from distill.signals.encodings.layout import STEPS, Column, Reader, codes_of, column, rows_column
from distill.signals.encodings.sorted_ids import SortedIds
from distill.signals.head_logits import LOWEST

_NEVER = STEPS  # the code of a token that cannot occur


@dataclass(frozen=True, kw_only=True)
class Top(SparseEncoding):
    """The k likeliest tokens and one bucket for all others. Nothing is renormalised.

    The token that was emitted stands in the place of the last one where it is not among the k likeliest. A position holds the
    tokens in ascending order, their log-probabilities as 16-bit codes between the smallest of them and 0, that smallest one, and the log
    of the tail's mass: 122 bytes at k = 32 and a vocabulary of 49,152.

    Every divergence can be had, at the temperature of capture; coarse in the tail, whose tokens are one to it. Its error does not average
    out over a batch, as that of `threshold` and `draws` does.

    Args:
        k: tokens a position.
        temperature, seed: see `SparseEncoding`; nothing is drawn.

    Raises:
        ValueError: a value out of its range.
    """

    name: ClassVar[str] = "top"
    next_token: ClassVar[str] = "top"
    first: ClassVar[str] = "k"

    k: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole("k")

    def held(self) -> int:
        """Tokens a position: k, or the whole vocabulary where that is smaller."""
        assert self.vocabulary is not None
        return min(self.k, self.vocabulary)

    def bytes_per_position(self) -> float:
        """Exactly, once the vocabulary is known."""
        vocabulary = self.vocabulary or 2**16
        count = min(self.k, vocabulary)
        return 8 + SortedIds(vocabulary, count).bytes + 2 * count

    def columns(self, log_p: Tensor, labels: Tensor, drawn: Tensor) -> list[Column]:
        """See `SparseEncoding`."""
        _, ids = largest(log_p, self.held())
        missing = (ids != labels[:, None]).all(dim=1)
        ids[:, -1] = torch.where(missing, labels, ids[:, -1])
        log_probs = log_p.gather(1, ids).double()
        rest = log_p.scatter(1, ids, LOWEST)
        tail = rest.logsumexp(dim=1) if ids.shape[1] < log_p.shape[1] else torch.full_like(rest[:, 0], LOWEST)
        return self.columns_of(ids, log_probs, tail)

    def columns_of(self, ids: Tensor, log_probs: Tensor, tail: Tensor) -> list[Column]:
        """What is stored of log-probabilities that are known already, as a server's are.

        Args:
            ids: `[n, held()]` int64, different tokens in any order.
            log_probs: `[n, held()]`; below -1e29, `-inf` among them: cannot occur.
            tail: `[n]`, log of the mass of all others; likewise.
        """
        assert self.vocabulary is not None
        ids, order = ids.sort(dim=1)
        log_probs = log_probs.gather(1, order)
        never = log_probs < LOWEST / 10
        low = log_probs.double().masked_fill(never, 0).amin(dim=1).clamp(max=0)
        # one code is taken: the others reach up to the one below it
        codes = codes_of(log_probs.double().masked_fill(never, 0), low * (STEPS / (STEPS - 1)))
        return [
            column(low, "<f4"),
            column(tail.masked_fill(tail < LOWEST / 10, -torch.inf), "<f4"),
            rows_column(SortedIds(self.vocabulary, self.held()).pack(ids.cpu().numpy())),
            column(codes.masked_fill(never, _NEVER), "<u2"),
        ]

    def decode(
        self, blobs: Sequence[Blob], stored: Sequence[int], wanted: Sequence[int], device: torch.device | str = "cpu"
    ) -> sparse.Top:
        """See `Encoding`."""
        self._needs_head()
        assert self.vocabulary is not None
        width = self.held()
        tokens = SortedIds(self.vocabulary, width)
        found: list[list[np.ndarray]] = [
            [np.zeros(shape, t)]
            for shape, t in ((0, "<f4"), (0, "<f4"), ((0, tokens.bytes), "u1"), ((0, width), "<u2"))
        ]
        for blob, count, few in zip(blobs, stored, wanted, strict=True):
            reader = Reader(blob)
            low, tail = (reader.take(count, "<f4") for _ in range(2))
            ids, codes = reader.take_rows(count, tokens.bytes), reader.take(count * width, "<u2").reshape(count, width)
            reader.end()
            for column_, part in zip(found, (low, tail, ids, codes), strict=True):
                column_.append(part[:few])
        low, tail, ids, codes = (np.concatenate(parts) for parts in found)
        log_probs = np.where(codes == _NEVER, -np.inf, low[:, None].astype(np.float64) * codes / (STEPS - 1))
        return sparse.Top(
            torch.from_numpy(tokens.unpack(ids)).to(device),
            torch.from_numpy(log_probs.astype(np.float32)).to(device),
            torch.from_numpy(tail).to(device),
            self.temperature,
        )
