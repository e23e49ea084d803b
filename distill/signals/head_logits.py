"""Logits of a head, float32 out of bfloat16 products: near the teacher their rounding would be most of the gradient.

Both sides' logits rounded to bfloat16 leave an error of 0.1 to 0.4 in the gradient where the KL is below 0.1, which is where a
distillation ends. What is cheapest depends on the device:

* a GPU sums in float32 anyway and is asked for the sums (`out_dtype`): a tenth longer;
* a CPU that multiplies in this precision (AVX512, AMX, Arm) rounds what it gives back, so the product is taken in two parts: the
  rounded one, and a second product that says by how much it was rounded. The student is asked at once how far it is from the teacher's
  rounded logits, and is rounded in proportion to that distance: three products in place of two;
* any other CPU only emulates it, several times slower than float32: there the operands are converted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from distill.signals.head import HeadTap, LogitTransform, MixedHead

# exp() of it is exactly 0 in every dtype, and differences of two of them are still finite
LOWEST = -1e30


def wide(tensor: Tensor) -> Tensor:
    """At least float32; no copy if it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def multiplies_low(tensor: Tensor) -> bool:
    """Whether products of such operands are taken as they are, with a result in float32.

    A GPU sums them in float32 anyway, and to round what it found to 8 bits would be most of a gradient's error near the teacher
    (0.25 of it at a KL of 0.004). A CPU has no such product; what is done there says the top of this file.
    """
    return tensor.device.type == "cuda" and tensor.dtype in (torch.bfloat16, torch.float16)


@cache
def cpu_multiplies(dtype: torch.dtype) -> bool:
    """Whether this CPU's matrix products take float16 or bfloat16 as they are; without it they are emulated."""
    name = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}.get(dtype)
    ask: Callable[[], bool] | None = getattr(torch.ops.mkldnn, name, None) if name else None
    return ask is not None and bool(ask())


def multiplied_in(dtype: torch.dtype, device: str) -> torch.dtype:
    """The precision of the operands of a head's products, for a head that computes in `dtype`."""
    low = dtype in (torch.bfloat16, torch.float16)
    return torch.float32 if low and device == "cpu" and not cpu_multiplies(dtype) else dtype


def in_two_parts(dtype: torch.dtype, device: str) -> bool:
    """Whether logits of that head are a rounded product and the rest."""
    return device == "cpu" and multiplied_in(dtype, device) in (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Logits:
    """Logits `[n, V]` before the model's transform: the sum of both parts."""

    base: Tensor
    rest: Tensor | None = None

    def exact(self, rows: slice, dtype: torch.dtype) -> Tensor:
        """Some rows in `dtype`; without a rest and a conversion, the buffer itself."""
        base = self.base[rows].to(dtype)
        return base if self.rest is None else base + self.rest[rows]


class Side:
    """One head, in the precision it is multiplied in, cut to the tokens compared. What it returns is used again by the next call.

    Where that precision is not the head's own (bfloat16 on a CPU that does not multiply it), it is copied whole: 4 bytes a weight, for
    student and teacher each, while a batch is compared.
    """

    def __init__(self, tap: HeadTap, vocabulary: int) -> None:
        device = tap.hidden.device.type
        self.tap, self.dtype, self.transform = tap, multiplied_in(tap.dtype, device), tap.transform
        self.two_parts = in_two_parts(tap.dtype, device)
        self.weight = tap.weight[:vocabulary].to(self.dtype)
        self.bias = None if tap.bias is None else tap.bias[:vocabulary].to(self.dtype)
        self._buffers: dict[str, Tensor] = {}

    def transformed(self, logits: Tensor) -> Tensor:
        """What the model makes of them. A bias may be -inf, for tokens that cannot occur; it stays finite here."""
        logits = logits if self.bias is None else logits.clamp(min=LOWEST)
        return self.transform(logits)

    def exact(self, logits: Logits, rows: slice, dtype: torch.dtype) -> Tensor:
        """Some rows of what `logits` gave, with the bias, before the transform."""
        found = logits.exact(rows, dtype)
        return found + self.bias if self.two_parts and self.bias is not None else found

    def logits(self, rows: slice, out: Tensor | None = None, near: Tensor | None = None) -> Logits:
        """Logits of some rows.

        Args:
            rows: of the tap's.
            out: `[n, V]` where they, or their rest, may be put.
            near: `[n, V]`, logits in this precision that these are near to, for a base.
        """
        hidden, weight = self.tap.hidden[rows].to(self.dtype), self.weight.t()
        if self.two_parts:
            base = torch.mm(hidden, weight, out=self._buffer("base", hidden)) if near is None else near
            out = self._buffer("rest", hidden) if out is None else out
            # -base + product is summed in float32 and rounded once
            return Logits(base, torch.addmm(base, hidden, weight, beta=-1, out=out))
        if out is None or hidden.device.type == "cuda":  # what is compiled reads one and writes the other
            out = self._buffer("base", hidden)
        if multiplies_low(hidden):
            torch.mm(hidden, weight, out_dtype=torch.float32, out=out)
            return Logits(out if self.bias is None else out.add_(self.bias))
        if self.bias is None:
            return Logits(torch.mm(hidden, weight, out=out))
        return Logits(torch.addmm(self.bias, hidden, weight, out=out))

    def finite(self, logits: Logits) -> Tensor:
        """What compiled code reads of logits in one part; a bias may be -inf."""
        return logits.base if self.bias is None else logits.base.clamp_(min=LOWEST)

    def _buffer(self, name: str, hidden: Tensor) -> Tensor:
        if name not in self._buffers:
            dtype = torch.float32 if multiplies_low(hidden) else hidden.dtype
            self._buffers[name] = hidden.new_empty((len(hidden), len(self.weight)), dtype=dtype)
        return self._buffers[name][: len(hidden)]


class MixedSide:
    """Several heads as one, whose logits are the log-probabilities of the mixture, in float32 (float64 of such heads).

    Args:
        mixed: the heads and their weights.
        vocabulary: compare this many first tokens.
    """

    bias, two_parts, transform = None, False, LogitTransform()  # no more is done to these logits

    def __init__(self, mixed: MixedHead, vocabulary: int) -> None:
        self._sides = [Side(tap, vocabulary) for tap in mixed.heads]
        self._log_weights = mixed.log_weights
        self.dtype = max((side.dtype for side in self._sides), key=lambda dtype: dtype.itemsize)
        self._exact = torch.promote_types(self.dtype, torch.float32)

    def transformed(self, logits: Tensor) -> Tensor:
        """They are what they are."""
        return logits

    def exact(self, logits: Logits, rows: slice, dtype: torch.dtype) -> Tensor:
        """Some rows of what `logits` gave."""
        return logits.exact(rows, dtype)

    def logits(self, rows: slice, out: Tensor | None = None, near: Tensor | None = None) -> Logits:
        """Log-probabilities of the mixture at some rows."""
        total: Tensor | None = None
        for side, log_weight in zip(self._sides, self._log_weights, strict=True):
            found = side.logits(rows)
            whole = side.transformed(side.exact(found, slice(None), self._exact))
            log_p = whole.log_softmax(-1) + log_weight
            total = log_p if total is None else torch.logaddexp(total, log_p, out=total)
        assert total is not None
        return Logits(total)

    def finite(self, logits: Logits) -> Tensor:
        """As of a `Side`."""
        return logits.base


class Own:
    """What a model made of its head by itself, where that cannot be read: the same as `Side`, with all logits there from the start.

    They are read a few rows at a time: whatever is made of them in float32 is as small as what is made of a head.
    """

    bias, two_parts, transform = None, False, LogitTransform()  # a bias and whatever else is in them

    def __init__(self, logits: Tensor, vocabulary: int) -> None:
        self.whole, self.dtype = logits[:, :vocabulary], logits.dtype

    def transformed(self, logits: Tensor) -> Tensor:
        """A logit of -inf, of a token that cannot occur, stays finite."""
        return logits.clamp(min=LOWEST)

    def exact(self, logits: Logits, rows: slice, dtype: torch.dtype) -> Tensor:
        """Some rows of what `logits` gave; the model's own memory, if it is in `dtype`."""
        return logits.exact(rows, dtype)

    def logits(self, rows: slice, out: Tensor | None = None, near: Tensor | None = None) -> Logits:
        """As of a `Side`."""
        part = self.whole[rows]
        return Logits(part if part.device.type == "cpu" else wide(part))

    def finite(self, logits: Logits) -> Tensor:
        """As of a `Side`; the model's own memory is not written."""
        base = wide(logits.base)
        return base.clamp(min=LOWEST) if base.dtype == self.dtype else base.clamp_(min=LOWEST)


Head = Side | MixedSide | Own


def side_of(signal: HeadTap | MixedHead | Tensor, vocabulary: int) -> Head:
    """Whatever logits of a model come from, cut to the tokens compared: one head, several as one, or the logits themselves."""
    if isinstance(signal, Tensor):
        return Own(signal, vocabulary)
    return MixedSide(signal, vocabulary) if isinstance(signal, MixedHead) else Side(signal, vocabulary)


def logits_of_both(student: Head, teacher: Head, rows: slice, out: Tensor | None) -> tuple[Logits, Logits]:
    """Logits of some rows of both; the student's, or their rest, in `out` where the device allows it."""
    theirs = teacher.logits(rows)
    beside = teacher.two_parts and student.two_parts and teacher.dtype == student.dtype
    return student.logits(rows, out, theirs.base if beside else None), theirs
