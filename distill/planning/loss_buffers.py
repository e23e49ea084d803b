"""Buffers of the streamed losses: the same as in `distill.objectives`, made without the loops that fill them.

Kept beside the real thing by a test that runs both; read `distill.objectives.streamed_next_token` and `distill.objectives.streamed_attention` first.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distill.objectives import streamed_attention as attention
from distill.objectives import streamed_next_token as next_token
from distill.objectives.divergences import Divergence
from distill.planning.live_tensors import LiveBytes
from distill.signals import AttentionTap, HeadTap
from distill.signals.head_logits import in_two_parts, multiplied_in, wide

CHUNKS = "map chunks"


def head_buffers(student: HeadTap, teacher: HeadTap, divergence: Divergence, live: LiveBytes, device: str) -> Tensor:
    """As `next_token_divergence`: `[N]`, with gradient to the student's hidden states and head.

    Args:
        student, teacher: taps on tensors without values.
        divergence: of `distill.objectives.divergences.by_name`.
        live: what the buffers are counted in.
        device: "cpu" or "cuda", which decides the size of a tile.
    """
    bias = student.bias
    values: Tensor = _Head.apply(student.hidden, student.weight, bias, student, teacher, divergence, live, device)
    return values


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        student: HeadTap,
        teacher: HeadTap,
        divergence: Divergence,
        live: LiveBytes,
        device: str,
    ) -> Tensor:
        vocabulary = min(len(student.weight), len(teacher.weight))
        dtypes = [multiplied_in(tap.dtype, device) for tap in (student, teacher)]
        dtype, again = dtypes[0], in_two_parts(teacher.dtype, device)
        with torch.no_grad(), live.labelled(CHUNKS):
            count, exact = len(hidden), wide(hidden[:0]).dtype
            heads = [tap.weight.detach()[:vocabulary].to(d) for tap, d in zip((student, teacher), dtypes, strict=True)]
            group, chunk = next_token.pieces(device, count, vocabulary, dtype)
            several = count > group
            ctx.gradients = [
                torch.empty_like(hidden),
                torch.zeros_like(weight, dtype=exact if several else weight.dtype),
                None if bias is None else torch.zeros_like(bias, dtype=exact),
            ]
            slopes = hidden.new_empty((group, vocabulary), dtype=dtype)
            if device == "cpu":
                buffer = [hidden.new_empty((chunk, vocabulary), dtype=dtypes[1]) for _ in range(1 + again)]
                _tile(slopes, buffer[0], divergence, next_token.TILE)
            else:  # logits of both sides in float32; compiled, the rest stays in registers
                buffer = [hidden.new_empty((chunk, vocabulary), dtype=exact) for _ in range(2)]
            torch.mm(slopes, heads[0])  # made, and then copied
            if ctx.gradients[1].dtype != dtype:
                torch.mm(slopes.t(), hidden[:group].to(dtype))
            # three products of the student and one of the teacher, or two; the two above are counted where they were made
            widths = 3 * student.weight.shape[1] + (1 + again) * teacher.weight.shape[1]
            live.flops += 2 * vocabulary * count * widths
            live.flops -= 2 * vocabulary * group * student.weight.shape[1] * (1 + (ctx.gradients[1].dtype != dtype))
            del buffer  # of the teacher's side, which lives as long as the pass
            if several:
                ctx.gradients[1] = ctx.gradients[1].to(weight.dtype)
            if bias is not None:
                ctx.gradients[2] = ctx.gradients[2].to(bias.dtype)
        return hidden.new_zeros(count, dtype=exact)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        kept, ctx.gradients = ctx.gradients, None
        return *kept, *(None,) * 5


def _tile(student: Tensor, teacher: Tensor, divergence: Divergence, size: int) -> None:
    height = max(1, size // student.shape[-1])
    divergence.value_and_grad(*(wide(side[:height]).log_softmax(-1) for side in (student, teacher)))


def attention_buffers(
    pairs: Sequence[tuple[AttentionTap, AttentionTap]],
    rows: int,
    divergence: Divergence,
    live: LiveBytes,
    device: str,
) -> Tensor:
    """As `attention_divergence`: `[N]`, with gradient to the student's queries and keys.

    Args:
        pairs: student and teacher, a pair for each layer that is compared; all of the same shapes.
        rows: N.
        divergence, live, device: as in `head_buffers`.
    """
    inputs = [tensor for student, _ in pairs for tensor in (student.query, student.key)]
    values: Tensor = _Attention.apply([teacher for _, teacher in pairs], rows, divergence, live, device, *inputs)
    return values


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        teachers: Sequence[AttentionTap],
        rows: int,
        divergence: Divergence,
        live: LiveBytes,
        device: str,
        *inputs: Tensor,
    ) -> Tensor:
        # on a CPU one layer after another; on a GPU side by side, and so are their sums of gradients
        together = 1 if device == "cpu" else len(teachers)
        ctx.gradients = []
        with torch.no_grad(), live.labelled(CHUNKS):
            for first in range(0, len(teachers), together):
                theirs, ours = teachers[first : first + together], inputs[2 * first : 2 * (first + together)]
                sums = [torch.zeros_like(side, dtype=wide(side[:0]).dtype) for side in ours]
                _scores(ours[0], theirs[0], len(theirs), divergence, device)
                for query, teacher in zip(ours[::2], theirs, strict=True):
                    # the scores of both, and two products with the student's slope; below the diagonal only
                    widths = 3 * query.shape[-1] + teacher.query.shape[-1]
                    live.flops += rows * query.shape[2] * query.shape[1] * widths
                while sums:
                    ctx.gradients.append(sums.pop(0).to(ours[0].dtype))
        return inputs[0].new_zeros(rows, dtype=wide(inputs[0][:0]).dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        kept, ctx.gradients = ctx.gradients, None
        return *(None,) * 5, *kept


def _scores(query: Tensor, teacher: AttentionTap, layers: int, divergence: Divergence, device: str) -> None:
    """What the largest block holds: the scores of both sides `[H * m, T]` of one layer or several, and the keys they came from."""
    batch, heads, time, _ = query.shape
    exact = wide(query[:0]).dtype
    if device == "cpu":
        height = min(max(16, min(attention.ROWS, attention.BLOCK // (heads * time))), time)
    else:
        height = min(max(16, attention._GPU_BLOCK // (heads * time)), time * batch * layers)
    sides = [query.new_empty((heads * height, time), dtype=exact) for _ in range(2)]
    keys = [query.new_empty((*teacher.key.shape[1:],), dtype=exact) for _ in range(2)]
    if device == "cpu":
        _tile(sides[0], sides[1], divergence, attention.TILE)
    else:  # compiled: the slope beside the scores, and the mask
        slope = query.new_empty((heads * height, time))
        mask = query.new_empty((height, time), dtype=torch.bool)
        del slope, mask
    del sides, keys
