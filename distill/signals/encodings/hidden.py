"""Hidden: the head's input, from which every divergence at every temperature can be had; the head is stored once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from distill.signals.encodings.base import Blob, Encoding, refuse_where
from distill.signals.encodings.layout import Reader, blobs_of, column
from distill.signals.head import HeadTap

_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
_AS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


@dataclass(frozen=True, kw_only=True)
class Hidden(Encoding):
    """The last hidden states, bit by bit in the teacher's own dtype, or in 8 bits.

    Args:
        bits: None: as they are. 8: whole numbers from -127 to 127 with a scale a row, for a quarter or half of the bytes; far from
            the teacher that costs .04 of the student's gradient, near it .11.

    Raises:
        ValueError: another number of bits.
    """

    name: ClassVar[str] = "hidden"
    next_token: ClassVar[str] = "head"
    first: ClassVar[str] = "bits"

    bits: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits not in (None, 8):
            raise ValueError(
                f"bits of the encoding 'hidden' is {self.bits}; it must be 8, or left out for the teacher's own dtype."
            )
        if self.dtype is not None and self.dtype not in _BYTES:
            raise ValueError(f"The teacher's hidden states are {self.dtype}; they must be one of {', '.join(_BYTES)}.")

    def bytes_per_position(self) -> float:
        """Exactly, once the head is known; else that of a width of 576 in 16 bits."""
        width, size = self.width or 576, _BYTES[self.dtype or "bfloat16"]
        return width * size if self.bits is None else width + 4

    @torch.no_grad()
    def encode(self, tap: HeadTap, counts: Sequence[int], labels: Tensor, seeds: Sequence[bytes]) -> list[Blob]:
        """See `Encoding`. Nothing is drawn."""
        self._needs_head()
        assert self.dtype is not None
        hidden = tap.hidden.detach().contiguous()
        assert hidden.shape == (sum(counts), self.width), (hidden.shape, self)
        refuse_where(~hidden.isfinite().all(dim=1), 0, counts, "hidden state")
        if self.bits is None:
            size = _BYTES[self.dtype]
            parts = [column(hidden.view(_AS[size]), f"<i{size}")]
        else:
            scale = hidden.float().abs().amax(dim=1) / 127
            whole = (hidden.float() / torch.where(scale > 0, scale, 1)[:, None]).round_().to(torch.int8)
            parts = [column(scale, "<f4"), column(whole, "i1")]
        return blobs_of([parts], counts)

    def decode(
        self, blobs: Sequence[Blob], stored: Sequence[int], wanted: Sequence[int], device: torch.device | str = "cpu"
    ) -> Tensor:
        """See `Encoding`: `[N, D]` in the teacher's dtype."""
        self._needs_head()
        assert self.dtype is not None
        assert self.width is not None
        own: torch.dtype = getattr(torch, self.dtype)
        size = _BYTES[self.dtype]
        states, scales = [np.zeros(0, f"<i{size}" if self.bits is None else "i1")], [np.zeros(0, "<f4")]
        for blob, count, few in zip(blobs, stored, wanted, strict=True):
            reader = Reader(blob)
            if self.bits is not None:
                scales.append(reader.take(count, "<f4")[:few])
            states.append(reader.take(count * self.width, states[0].dtype.str)[: few * self.width])
            reader.end()
        whole = torch.from_numpy(np.concatenate(states)).view(-1, self.width)
        if self.bits is None:
            return whole.view(own).to(device)
        return (whole.to(device).float() * torch.from_numpy(np.concatenate(scales)).to(device)[:, None]).to(own)
