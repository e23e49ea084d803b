"""Base of all encodings: their settings, what they know of the teacher's head, and documents as blobs of bytes."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.models.precision import where_float64_is
from distill.signals.encodings.drawing import uniforms
from distill.signals.encodings.layout import Column, blobs_of, bound, unbound
from distill.signals.head import HeadTap
from distill.signals.head_logits import LOWEST, Side
from distill.signals.sparse import Sparse

Blob = NDArray[np.uint8]
CHUNK = 256  # rows whose logits are held at once
TILE = 2**20  # logits worked on at once on a CPU: 4 MiB in float32
_GPU_TILE = 2**25
_ALIKE = 32  # products of fewer rows are summed in another order on a CPU, and other bits would be other draws


@dataclass(frozen=True, kw_only=True)
class Encoding(ABC):
    """How the next-token signal of a position is stored.

    One that is to encode or decode must know the teacher's head: `of_head` or `of_tap` gives it that.

    Args:
        vocabulary: rows of the teacher's head.
        width: of what the head is given.
        dtype: of that, as `"float32"`.
    """

    name: ClassVar[str]
    next_token: ClassVar[str]
    """What a position can be compared by: `"head"`, `"atoms"` or `"top"`."""
    first: ClassVar[str]
    """The setting that may stand behind a colon of the name."""

    vocabulary: int | None = None
    width: int | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width"):
            self._whole(name, optional=True)

    def of_head(self, *, vocabulary: int, width: int, dtype: str) -> Self:
        """The same encoding of a head of that size."""
        return replace(self, vocabulary=vocabulary, width=width, dtype=dtype)

    def of_tap(self, tap: HeadTap) -> Self:
        """The same encoding of the head that was tapped."""
        return self.of_head(
            vocabulary=len(tap.weight), width=tap.hidden.shape[1], dtype=str(tap.hidden.dtype).removeprefix("torch.")
        )

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides what bytes mean, as plain values: `encoding_of(name, **settings)` is this encoding again."""
        return asdict(self)

    @classmethod
    def takes(cls) -> set[str]:
        """Names of its settings."""
        return {field.name for field in fields(cls)}

    @property
    def temperature(self) -> float | None:
        """The temperature that the stored probabilities are of; None: any can be had."""
        return None

    @abstractmethod
    def bytes_per_position(self) -> float:
        """About how many bytes a position takes."""

    @abstractmethod
    def encode(self, tap: HeadTap, counts: Sequence[int], labels: Tensor, seeds: Sequence[bytes]) -> list[Blob]:
        """The bytes of each document of a batch.

        Args:
            tap: of the teacher's head, at N positions.
            counts: how many of them belong to each document, in order; they sum to N.
            labels: `[N]`, the token that followed each position.
            seeds: a document's key each, 16 bytes: what is drawn depends on it and on nothing else of the batch.

        Raises:
            ValueError: what the teacher says is not finite.
        """

    @abstractmethod
    def decode(
        self, blobs: Sequence[Blob], stored: Sequence[int], wanted: Sequence[int], device: torch.device | str = "cpu"
    ) -> Tensor | Sparse:
        """What was stored of some documents, one after the other.

        Args:
            blobs: of `encode`.
            stored: how many positions each has.
            wanted: how many of its first ones are asked for.
            device: where the result is to lie.

        Returns:
            `[N, D]` for `"head"`, else `Atoms` or `Top`, N the sum of `wanted`.

        Raises:
            ValueError: the length of a blob is not that of so many positions.
        """

    def _whole(self, name: str, low: int = 1, high: int = 2**31 - 1, optional: bool = False) -> None:
        value = getattr(self, name)
        if optional and value is None:
            return
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(
                f"{name} of the encoding {self.name!r} is {value!r}; it must be a whole number from {low} to {high}."
            )

    def _needs_head(self) -> None:
        if self.vocabulary is None or self.width is None or self.dtype is None:
            raise ValueError(f"The encoding {self.name!r} does not know its teacher's head yet; see Encoding.of_head.")


@dataclass(frozen=True, kw_only=True)
class SparseEncoding(Encoding):
    """An encoding of a few tokens of each distribution.

    Args:
        temperature: the probabilities are those of logits / temperature, above 0.
        seed: another one draws other tokens.
        sets: independent sets of draws, of which one is taken whenever a document is read. With one, every epoch sees the same draws of
            a position, and their noise is learned; with m, it averages over epochs. They take m times the bytes.
    """

    temperature: float = 1.0
    seed: int = 0
    sets: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._whole("seed", low=0, high=2**63)
        self._whole("sets", high=2**16)
        if self.sets > 1 and not self.drawn():
            raise ValueError(
                f"sets of the encoding {self.name!r} is {self.sets}; nothing is drawn for it, so one set is all."
            )
        if isinstance(self.temperature, bool) or not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature of the encoding {self.name!r} is {self.temperature}; it must be above 0.")

    @property
    def settings(self) -> dict[str, Any]:
        """See `Encoding`; one set is not named, as in the folders that were made before there were several."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("sets", 1)}

    def drawn(self) -> int:
        """How many numbers between 0 and 1 a position needs."""
        return 0

    @abstractmethod
    def columns(self, log_p: Tensor, labels: Tensor, drawn: Tensor) -> list[Column]:
        """What is stored of some positions.

        Args:
            log_p: `[n, V]`, of logits / temperature; is not changed.
            labels: `[n]`.
            drawn: `[n, self.drawn()]` float64, from 0 and below 1.
        """

    def encode(self, tap: HeadTap, counts: Sequence[int], labels: Tensor, seeds: Sequence[bytes]) -> list[Blob]:
        """See `Encoding`."""
        side = Side(_filled(tap), len(tap.weight))
        dtype = torch.float64 if side.dtype == torch.float64 else torch.float32

        def logits(rows: slice) -> Tensor:
            return side.transformed(side.exact(side.logits(rows), slice(None), dtype))

        return self._encode(logits, counts, labels, seeds)

    def encode_logits(
        self, logits: Tensor, counts: Sequence[int], labels: Tensor, seeds: Sequence[bytes]
    ) -> list[Blob]:
        """As `encode`, of a teacher whose head is no plain matrix product: from its own logits `[N, V]`."""
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return self._encode(lambda rows: wide[rows], counts, labels, seeds)

    @torch.no_grad()
    def _encode(
        self, logits: Callable[[slice], Tensor], counts: Sequence[int], labels: Tensor, seeds: Sequence[bytes]
    ) -> list[Blob]:
        self._needs_head()
        assert len(labels) == sum(counts), (len(labels), counts)
        drawn = [
            torch.from_numpy(uniforms(seeds, counts, self.drawn(), self.seed, number)) for number in range(self.sets)
        ]
        parts: list[list[list[Column]]] = [[] for _ in drawn]
        for start in range(0, len(labels), CHUNK):
            rows = slice(start, min(start + CHUNK, len(labels)))
            found = where_float64_is(logits(slice(start, start + max(rows.stop - start, _ALIKE)))[: rows.stop - start])
            for tile in _tiles(found):
                at = slice(start + tile.start, start + tile.stop)
                log_p = found[tile] if self.temperature == 1 else found[tile] / self.temperature
                log_p = log_p.clamp(min=LOWEST).log_softmax(dim=-1)
                _check_finite(log_p, at.start, counts)
                for numbers, part in zip(drawn, parts, strict=True):
                    part.append(self.columns(log_p, labels[at].to(log_p.device), numbers[at].to(log_p.device)))
        return bound([blobs_of(part, counts) for part in parts])

    def decode(
        self,
        blobs: Sequence[Blob],
        stored: Sequence[int],
        wanted: Sequence[int],
        device: torch.device | str = "cpu",
        which: Sequence[int] | None = None,
    ) -> Sparse:
        """See `Encoding`.

        Args:
            blobs, stored, wanted, device: see there.
            which: of its sets, that of each document; None: the first one.
        """
        if self.sets > 1:
            blobs = [unbound(blob, self.sets, at) for blob, at in zip(blobs, which or [0] * len(blobs), strict=True)]
        return self.decode_set(blobs, stored, wanted, device)

    @abstractmethod
    def decode_set(
        self, blobs: Sequence[Blob], stored: Sequence[int], wanted: Sequence[int], device: torch.device | str = "cpu"
    ) -> Sparse:
        """See `Encoding.decode`; of documents with one set each."""


def _tiles(logits: Tensor) -> Iterator[slice]:
    height = max(1, (TILE if logits.device.type == "cpu" else _GPU_TILE) // logits.shape[1])
    for start in range(0, len(logits), height):
        yield slice(start, min(start + height, len(logits)))


def _filled(tap: HeadTap) -> HeadTap:
    """With rows of zeros at the end, so that even the last product has as many rows as its kernel is made for."""
    rest = -len(tap.hidden) % CHUNK
    few = rest > CHUNK - _ALIKE
    hidden = tap.hidden.detach()
    hidden = torch.cat([hidden, hidden.new_zeros(_ALIKE, hidden.shape[1])]) if few else hidden
    return replace(tap, hidden=hidden, weight=tap.weight.detach(), bias=None if tap.bias is None else tap.bias.detach())


def _check_finite(log_p: Tensor, start: int, counts: Sequence[int]) -> None:
    # one logit that is NaN or infinite leaves no finite log-probability in its row
    refuse_where(~log_p[:, 0].isfinite(), start, counts, "next-token distribution")


def refuse_where(bad: Tensor, start: int, counts: Sequence[int], what: str) -> None:
    """Raise `ValueError` if any of `bad` is true, with the place in the batch."""
    if bool(bad.any()):
        at = start + int(bad.nonzero()[0])
        ends = np.cumsum(counts)
        document = int(np.searchsorted(ends, at, side="right"))
        position = at - int(ends[document]) + int(counts[document])
        raise ValueError(
            f"The teacher's {what} is not finite at supervised position {position} of document {document} of the batch; nothing can be "
            "learned from it. Load the teacher in a wider dtype (float16 overflows at 65,504), and look whether its weights are whole."
        )
