"""Layout of a document's bytes: one column behind the other, each over all its positions.

So a document is read with a few views of its bytes, and its first positions are the first of every column. Numbers are little-endian.
Tokens take two bytes where the vocabulary allows it (65,536), else three: the low two of all, then the high one of all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STEPS = 2**16 - 1  # of a 16-bit code


@dataclass(frozen=True)
class Column:
    """Some positions of a column.

    Args:
        values: `[all entries]`, position by position.
        lengths: `[positions]`, how many entries each has.
        dtype: as it is stored; `"ids2"` and `"ids3"` are tokens of two and three bytes.
    """

    values: NDArray[Any]
    lengths: NDArray[np.int64]
    dtype: str


def rows_column(rows: NDArray[np.uint8]) -> Column:
    """A column of as many bytes for every position: `[n, bytes]`."""
    return Column(rows.reshape(-1), np.full(len(rows), rows.shape[1], np.int64), "u1")


def column(values: Tensor, dtype: str, chosen: Tensor | None = None) -> Column:
    """A column of `[n]` or `[n, K]`; of the latter perhaps only the `chosen` ones."""
    values = values[:, None] if values.dim() == 1 else values
    if chosen is None:
        lengths = np.full(len(values), values.shape[1], np.int64)
        return Column(values.reshape(-1).cpu().numpy(), lengths, dtype)
    return Column(values[chosen].cpu().numpy(), chosen.sum(dim=1).cpu().numpy(), dtype)


def ids_dtype(vocabulary: int) -> str:
    """How tokens of a vocabulary of this size are stored."""
    if vocabulary > 2**24:
        raise ValueError(f"The vocabulary has {vocabulary:,} tokens; three bytes a token are enough for {2**24:,}.")
    return "ids2" if vocabulary <= 2**16 else "ids3"


def size_of(dtype: str) -> int:
    """Bytes of an entry."""
    return int(dtype[-1]) if dtype.startswith("ids") else np.dtype(dtype).itemsize


def count_dtype(largest: int) -> str:
    """The smallest kind of number that counts up to `largest`."""
    return "u1" if largest < 2**8 else "<u2" if largest < 2**16 else "<u4"


def codes_of(log_p: Tensor, low: Tensor) -> Tensor:
    """16-bit codes of logarithms between `low` (`[n]`, at most 0) and 0, evenly spaced: an error of at most -low / 131,070."""
    return (log_p.double() / low.clamp(max=-1e-30)[:, None]).mul_(STEPS).round_().clamp_(0, STEPS).to(torch.int32)


def entropy_codes(negentropy: Tensor, vocabulary: int) -> Tensor:
    """16-bit codes of sum p log p, `[n]`, between its least value, -log V, and 0."""
    least = torch.full_like(negentropy, -float(np.log(vocabulary)))
    return codes_of(negentropy[:, None], least)[:, 0]


def entropies(codes: NDArray[Any], vocabulary: int) -> Tensor:
    """`[n]` float32: what `entropy_codes` stand for."""
    return torch.from_numpy((codes / STEPS * -np.log(vocabulary)).astype(np.float32))


def blobs_of(parts: Sequence[Sequence[Column]], counts: Sequence[int]) -> list[NDArray[np.uint8]]:
    """A blob for each document.

    Args:
        parts: the columns of some positions after the other, each time the same ones.
        counts: positions of each document.
    """
    empty = [b""] * len(counts)
    pieces = [list(empty)] if not parts else []
    for number in range(len(parts[0]) if parts else 0):
        values = np.concatenate([part[number].values for part in parts])
        lengths = np.concatenate([part[number].lengths for part in parts])
        entries = np.concatenate([[0], np.cumsum(lengths)])[np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])]
        dtype = parts[0][number].dtype
        pieces.append([_bytes(values[a:b], dtype) for a, b in pairwise(entries)])
    return [np.frombuffer(b"".join(document), np.uint8) for document in zip(*pieces, strict=True)]


def bound(sets: Sequence[Sequence[NDArray[np.uint8]]]) -> list[NDArray[np.uint8]]:
    """The blobs of documents that have several sets: the length of each, uint32, and all one behind the other. Of one set: its own."""
    if len(sets) == 1:
        return list(sets[0])
    return [
        np.concatenate([np.asarray([part.size for part in parts], "<u4").view(np.uint8), *parts])
        for parts in zip(*sets, strict=True)
    ]


def unbound(blob: NDArray[np.uint8], sets: int, which: int) -> NDArray[np.uint8]:
    """One set of a document that has several.

    Raises:
        ValueError: its bytes are not those of so many.
    """
    ends = 4 * sets + np.cumsum(np.ascontiguousarray(blob[: 4 * sets]).view("<u4"), dtype=np.int64)
    if len(ends) != sets or ends[-1] != len(blob):
        raise ValueError(f"A stored document of {len(blob)} bytes does not hold {sets} sets of draws.")
    return blob[(ends[which - 1] if which else 4 * sets) : ends[which]]


def _bytes(values: NDArray[Any], dtype: str) -> bytes:
    if dtype == "ids2":
        return values.astype("<u2").tobytes()
    if dtype == "ids3":
        return (values & 0xFFFF).astype("<u2").tobytes() + (values >> 16).astype("u1").tobytes()
    return values.astype(dtype).tobytes()


class Reader:
    """Columns of one blob, taken from its front."""

    def __init__(self, blob: NDArray[np.uint8]) -> None:
        self.blob, self.at = np.ascontiguousarray(blob), 0

    def take(self, entries: int, dtype: str) -> NDArray[Any]:
        """The next column.

        Raises:
            ValueError: the blob ends before it does.
        """
        size = entries * size_of(dtype)
        part = self.blob[self.at : self.at + size]
        if len(part) != size:
            raise ValueError(
                f"A stored document has {len(self.blob)} bytes and should have more: it does not hold so many positions."
            )
        self.at += size
        if dtype == "ids2":
            return part.view("<u2").astype(np.int64)
        if dtype == "ids3":
            return part[: 2 * entries].view("<u2").astype(np.int64) + (part[2 * entries :].astype(np.int64) << 16)
        return part.view(dtype)

    def take_rows(self, rows: int, width: int) -> NDArray[np.uint8]:
        """The next column, of `width` bytes a position."""
        return self.take(rows * width, "u1").reshape(rows, width)

    def end(self) -> None:
        """All has been taken.

        Raises:
            ValueError: something is left.
        """
        if self.at != len(self.blob):
            raise ValueError(
                f"A stored document has {len(self.blob)} bytes and should have {self.at}: it holds another number of positions."
            )


def padded(flat: NDArray[Any], lengths: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """`[N, K]` of entries that lie one after the other, K the longest; and where they are."""
    widest = int(lengths.max()) if len(lengths) else 0
    mask: NDArray[np.bool_] = np.arange(widest) < lengths[:, None]
    rows = np.zeros(mask.shape, flat.dtype)
    rows[mask] = flat
    return rows, mask
