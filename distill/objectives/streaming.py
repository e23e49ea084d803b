"""What both maps share: gradients computed in the forward pass, for a sum over rows."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gradients_for(
    upstream: Tensor, kept: Sequence[Tensor | None] | None, again: Callable[[], Sequence[Tensor | None]]
) -> list[Tensor | None]:
    """The kept gradients of the plain sum, times the one number that upstream is; else those of a second pass.

    Args:
        upstream: `[N]`, the gradient in each row's value.
        kept: gradients of the sum over rows; scaled in place. None: used up by an earlier backward pass.
        again: goes through the rows once more, with `upstream` as the weights of the rows.
    """
    if kept is None or not _is_constant(upstream):
        return list(again())
    # in place: the gradient of a head is as large as the head, and nobody else has it
    return [g if g is None or not len(upstream) else g.mul_(upstream[0]) for g in kept]


def _is_constant(upstream: Tensor) -> bool:
    """The gradient of a plain sum comes as one number seen N times."""
    return len(upstream) == 0 or upstream.stride(0) == 0 or bool((upstream == upstream[0]).all())


def in_precision_of(originals: Sequence[Tensor | None], gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Each gradient in the dtype of what it is the gradient of."""
    pairs = zip(originals, gradients, strict=True)
    return [None if t is None or g is None else g.to(t.dtype) for t, g in pairs]


def multiplies_low(tensor: Tensor) -> bool:
    """Whether products of such operands are taken as they are, with a result in float32.

    A GPU sums them in float32 anyway, and to round what it found to 8 bits would be most of a gradient's error near the teacher
    (0.25 of it at a KL of 0.004). A CPU has no such product; there the logits are in the precision of the operands.
    """
    return tensor.device.type == "cuda" and tensor.dtype in (torch.bfloat16, torch.float16)
