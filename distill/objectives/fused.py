"""Value and slope of a divergence in two or three passes over the logits: the same formulas, compiled for a GPU.

Run one by one, the element-wise operations of a divergence read and write 90 to 250 bytes a logit. Compiled (`torch.compile`) they
are one kernel for each side's log-sum-exp and one for the rest. The formulas are those of `distill.objectives.divergences`, whose
plain run is the path of CPUs and the twin in the tests. Both sides' log-sum-exps come from the same kernel, so that equal rows have
equal bits and a divergence of exactly 0.

Temperature, factors, the number of rows and the vocabulary are arguments of the kernels: none of them compiles anew. Short rows
(attention maps) have kernels of their own, because a kernel cut for a vocabulary keeps most of its threads idle on them.
"""

import functools
import itertools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from distill.objectives.divergences import Divergence
from distill.signals import LogitTransform

logger = logging.get_logger(__name__)
SMALLEST = 2**22  # logits; for fewer, compiling (seconds, once) is not worth it
SHORT = 2**13  # columns; up to here kernels are for lengths within a factor of four
_PLAIN = LogitTransform()
_counter = itertools.count()
_compiled: dict[Any, Callable[..., Any]] = {}


def pays(logits: Tensor) -> bool:
    """Whether `fused_rows` is to be used for logits of this size, on this machine."""
    return logits.device.type == "cuda" and logits.dtype == torch.float32 and logits.numel() >= SMALLEST and _works()


@functools.cache
def _works() -> bool:
    """Whether kernels can be compiled here, which needs more than torch: a C compiler, a folder to write to."""
    try:
        _compile(lambda x: (x + 1).exp().sum(-1))(torch.zeros(2, 3, device="cuda"))
    except Exception as error:  # whatever a compiler, or the lack of one, raises
        logger.warning(
            "Divergences are not compiled (%s: %s): the same numbers, in several times the time.",
            type(error).__name__,
            str(error).splitlines()[0][:200] if str(error) else "",
        )
        return False
    return True


def numbers_of(like: Tensor, temperature: float = 1.0, factor: float = 1.0, cross_entropy: float = 0.0) -> Tensor:
    """`[3]`: what `fused_rows` multiplies with, where it can read it. Made by kernels: a copy would wait for the device."""
    made = (1 / temperature, factor, cross_entropy)
    return torch.stack([like.new_full((), number) for number in made])


def fused_rows(
    student: Tensor,
    teacher: Tensor,
    out: Tensor | None,
    divergence: Divergence,
    numbers: Tensor,
    transforms: tuple[LogitTransform, LogitTransform] = (_PLAIN, _PLAIN),
    labels: Tensor | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """factor * divergence + cross_entropy * (-log q[label]) of each row, and its slope.

    Args:
        student, teacher: `[n, V]` float32, logits before the transform.
        out: `[n, V]`, takes the slope in the student's logits, times the row's weight. It shares no memory with the others. None: no slope.
        divergence: of `distill.objectives.divergences.by_name`.
        numbers: of `numbers_of`.
        transforms: what the models do to their logits.
        labels: `[n]`, for cross-entropy.
        weights: `[n]` of the rows, in the slope alone.

    Returns:
        `[n]`; and with labels `[n]` of the cross-entropy alone.
    """
    function = divergence.value_and_grad
    settings = (
        (function.func, *sorted(function.keywords.items())) if isinstance(function, functools.partial) else (function,)
    )
    size = _size(student.shape[1])

    def normalised(logits: Tensor, transform: LogitTransform, inverse: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = _once(("normaliser", size, transform), lambda: _normaliser(transform))(
            logits, inverse
        )
        return found

    both = *normalised(student, transforms[0], numbers[:1]), *normalised(teacher, transforms[1], numbers[:1])
    # cross-entropy knows no temperature
    own = None if labels is None else normalised(student, transforms[0], torch.ones_like(numbers[:1]))
    rows = _once(("rows", size, out is None, *settings, *transforms), lambda: _rows(function, *transforms))
    found: tuple[Tensor, Tensor | None] = rows(student, teacher, *both, out, numbers, labels, own, weights)
    return found


def _normaliser(transform: LogitTransform) -> Callable[..., Any]:
    def normaliser(logits: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """`[n, 1]` each: the largest scaled logit, and the log of the sum of the exponentials over it."""
        scaled = transform(logits) * inverse
        largest = scaled.amax(-1, keepdim=True)
        return largest, (scaled - largest).exp().sum(-1, keepdim=True).log()

    return normaliser


def _rows(function: Any, ours: LogitTransform, theirs: LogitTransform) -> Callable[..., Any]:
    def rows(
        student: Tensor, teacher: Tensor, largest: Tensor, rest: Tensor, largest_t: Tensor, rest_t: Tensor, out: Tensor | None,
        numbers: Tensor, labels: Tensor | None, own: tuple[Tensor, Tensor] | None, weights: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        logits = ours(student)
        log_q = logits * numbers[0] - largest - rest
        log_p = theirs(teacher) * numbers[0] - largest_t - rest_t
        value, slope = function(log_q, log_p, slope=out is not None)
        value, entropy = value * numbers[1], None
        slope = None if slope is None else slope * (numbers[1] * numbers[0])
        if labels is not None:
            assert own is not None
            log_1 = logits - own[0] - own[1]
            entropy = -log_1.gather(1, labels[:, None]).squeeze(1)
            value = value + numbers[2] * entropy
        if out is None or slope is None:
            return value, entropy
        if labels is not None:
            hit = torch.arange(student.shape[1], device=student.device) == labels[:, None]
            slope = slope + numbers[2] * (log_1.exp() - hit.to(log_1.dtype))
        if ours.cap is not None:
            slope = slope * (1 - (logits / ours.cap).square())
        if ours.scale != 1:
            slope = slope * ours.scale
        if weights is not None:
            slope = slope * weights[:, None]
        out.copy_(slope)
        return value, entropy

    return rows


def _size(columns: int) -> int:
    """Which kernels serve rows of this length."""
    return 0 if columns > SHORT else (columns.bit_length() + 1) // 2


def _once(key: Any, make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    if key not in _compiled:
        _compiled[key] = _compile(make())
    return _compiled[key]


def _compile(function: Any) -> Callable[..., Any]:
    # torch counts compilations by code object and gives up at 8; each function here is a kind of its own, so it gets its own
    code = function.__code__.replace(co_name=f"{function.__code__.co_name}_{next(_counter)}")
    own = types.FunctionType(code, function.__globals__, code.co_name, None, function.__closure__)
    compiled: Callable[..., Any] = torch.compile(own, dynamic=True)
    return compiled
