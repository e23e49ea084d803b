"""Top: the k largest log-probabilities, the emitted token's among them, and always the mass of the tail."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.signals import sparse
from distill.signals.encodings.base import Blob, SparseEncoding
from distill.signals.encodings.drawing import largest
from distill.signals.encodings.layout import STEPS, Column, Reader, codes_of, column, rows_column
from distill.signals.encodings.sorted_ids import SortedIds
from distill.signals.head_logits import LOWEST

_NEVER = STEPS  # the code of a token that cannot occur
_NEAR = 40.0  # nats below 0 in which codes are evenly spaced; an emitted token may lie thousands below, and the others keep their digits
_EVEN = 60_000  # codes of these, where some lie below


@dataclass(frozen=True, kw_only=True)
class Top(SparseEncoding):
    """The k likeliest tokens and one bucket for all others. Nothing is renormalised.

    The token that was emitted stands in the place of the last one where it is not among the k likeliest. A position holds the
    tokens in ascending order, their log-probabilities as 16-bit codes between the smallest of them and 0, that smallest one, and the log
    of the tail's mass: 122 bytes at k = 32 and a vocabulary of 49,152. Where the smallest is below -40 (an emitted token that the teacher
    would never have said, a low temperature), most codes are evenly spaced above -40, and those below it in ratios of at most 1.0015.

    Every divergence can be had, at the temperature of capture; coarse in the tail, whose tokens are one to it. Its error does not average
    out over a batch, as that of `threshold` and `draws` does.

    Args:
        k: tokens a position.
        temperature, seed, sets: see `SparseEncoding`; nothing is drawn, so there is one set.

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
        deep = low < -_NEAR
        values = log_probs.double().masked_fill(never, 0)
        # one code is taken: the others reach up to the one below it
        codes = codes_of(values, torch.where(deep, -_NEAR * STEPS / _EVEN, low * (STEPS / (STEPS - 1))))
        ratio = (values / -_NEAR).clamp(min=1).log() / (low / -_NEAR).clamp(min=1.001).log()[:, None]
        far = _EVEN + (ratio * (STEPS - 1 - _EVEN)).round().to(codes.dtype)
        codes = torch.where(deep[:, None] & (values < -_NEAR), far, codes)
        return [
            column(torch.where(deep, -low, low), "<f4"),  # its sign tells of codes below -40
            column(tail.masked_fill(tail < LOWEST / 10, -torch.inf), "<f4"),
            rows_column(SortedIds(self.vocabulary, self.held()).pack(ids.cpu().numpy())),
            column(codes.masked_fill(never, _NEVER), "<u2"),
        ]

    def decode_set(
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
        log_probs = np.where(codes == _NEVER, -np.inf, _log_probs(codes, low.astype(np.float64)[:, None]))
        return sparse.Top(
            torch.from_numpy(tokens.unpack(ids)).to(device),
            torch.from_numpy(log_probs.astype(np.float32)).to(device),
            torch.from_numpy(tail).to(device),
            self.temperature,
        )


def _log_probs(codes: NDArray[np.uint16], low: NDArray[np.float64]) -> NDArray[np.float64]:
    """What codes `[n, k]` stand for, between 0 and the smallest of their row `[n, 1]`; that is above 0 where some lie below -40."""
    deep = low > 0
    found: NDArray[np.float64] = np.where(deep, -_NEAR / _EVEN, low / (STEPS - 1)) * codes
    if deep.any():
        beyond = (codes.astype(np.float64) - _EVEN) / (STEPS - 1 - _EVEN)
        found = np.where(deep & (beyond > 0), -_NEAR * (np.abs(low) / _NEAR) ** beyond, found)
    return found
