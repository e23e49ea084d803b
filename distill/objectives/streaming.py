"""What both streamed losses share: gradients computed in the forward pass, for a sum over rows."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_MADE_OF = "_distill_made_of"

# (which inputs need a gradient, weights of the rows or None for 1) -> values [N], figures for logs, a gradient for each input
Pass = Callable[[tuple[bool, ...], Tensor | None], tuple[Tensor, Tensor | None, list[Tensor | None]]]


def streamed(go_through: Pass, inputs: Sequence[Tensor | None]) -> tuple[Tensor, Tensor | None]:
    """Values of rows whose gradient in `inputs` is computed together with them, for their plain sum.

    Whoever reduces by one factor gets that gradient times the factor, and by another weight for each row that of a second pass.

    Args:
        go_through: the work, on tensors without a graph; gradients are those of sum(row weights * values).
        inputs: what gets gradients.

    Returns:
        `[N]` with gradient, and the figures for logs without.
    """
    if not torch.is_grad_enabled():
        return go_through((False,) * len(inputs), None)[:2]
    values, logged = _Streamed.apply(go_through, *inputs)
    return values, logged


def only_summed(values: Tensor) -> None:
    """Say that the gradient of these values will be one number for all of them; then nothing is kept for a second pass.

    A second pass needs what the first one read, the teacher's signals among it, and it would stay in memory through the whole backward
    pass. Values that somebody has weighted since they were computed are left as they are: their pass may come.
    """
    for part in getattr(values, _MADE_OF, [values]):
        if getattr(type(part.grad_fn), "_forward_cls", None) is _Streamed:
            part.grad_fn.go_through = None
            part.grad_fn.is_part = part is not values


def made_of(values: Tensor, parts: Sequence[Tensor]) -> None:
    """Say of which values, each by itself and in another order, these are put together: what is only summed then, they are, too."""
    setattr(values, _MADE_OF, list(parts))


class _Streamed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, go_through: Pass, *inputs: Tensor | None) -> tuple[Tensor, Tensor | None]:
        ctx.go_through, ctx.needed = go_through, ctx.needs_input_grad[1:]
        values, logged, ctx.gradients = go_through(ctx.needed, None)
        if logged is not None:
            ctx.mark_non_differentiable(logged)
        return values, logged

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor | None) -> Any:
        kept, ctx.gradients = ctx.gradients, None
        # a part of values that are summed gets one number seen n times as well, but laid out: to look would be to wait for it
        trusted = ctx.go_through is None and getattr(ctx, "is_part", False)
        if kept is None or not (trusted or _is_constant(upstream)):
            assert ctx.go_through is not None, (
                "values were weighted, or run through twice, after only_summed was told otherwise"
            )
            return None, *ctx.go_through(ctx.needed, upstream)[2]
        # in place: the gradient of a head is as large as the head, and nobody else has it
        return None, *(g if g is None or not len(upstream) else g.mul_(upstream[0]) for g in kept)


def _is_constant(upstream: Tensor) -> bool:
    """The gradient of a plain sum comes as one number seen N times."""
    return len(upstream) == 0 or upstream.stride(0) == 0 or bool((upstream == upstream[0]).all())


def in_precision_of(originals: Sequence[Tensor | None], gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Each gradient in the dtype of what it is the gradient of."""
    pairs = zip(originals, gradients, strict=True)
    return [None if t is None or g is None else g.to(t.dtype) for t, g in pairs]
