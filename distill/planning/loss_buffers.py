"""Buffers of the streamed losses: the same as in `distill.objectives`, made without the loops that fill them.

Kept beside the real thing by a test that runs both; read `distill.objectives.streamed_next_token` and `distill.objectives.streamed_attention` first.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distill.objectives import streamed_attention as attention
from distill.objectives import streamed_next_token as next_token
from distill.objectives.divergences import Divergence, wide
from distill.planning.live_tensors import LiveBytes
from distill.signals import AttentionTap, HeadTap

CHUNKS = "map chunks"


def head_buffers(student: HeadTap, teacher: HeadTap, divergence: Divergence, live: LiveBytes, device: str) -> Tensor:
    """As `next_token_divergence`: `[N]`, with gradient to the student's hidden states and head.

    Args:
        student, teacher: taps on tensors without values.
        divergence: of `distill.divergences.by_name`.
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
        vocabulary, dtype = min(len(student.weight), len(teacher.weight)), student.dtype
        with torch.no_grad(), live.labelled(CHUNKS):
            count, exact = len(hidden), wide(hidden[:0]).dtype
            heads = [tap.weight.detach()[:vocabulary].to(tap.dtype) for tap in (student, teacher)]
            group, chunk = next_token.pieces(device, count, vocabulary, dtype)
            several = count > group
            ctx.gradients = [
                torch.empty_like(hidden),
                torch.zeros_like(weight, dtype=exact if several else weight.dtype),
                None if bias is None else torch.zeros_like(bias, dtype=exact),
            ]
            slopes = hidden.new_empty((group, vocabulary), dtype=dtype)
            if device == "cpu":
                buffer = [hidden.new_empty((chunk, vocabulary), dtype=teacher.dtype)]
                _tile(slopes, buffer[0], divergence, next_token.TILE)
            else:  # logits of both sides in float32; compiled, the rest stays in registers
                buffer = [hidden.new_empty((chunk, vocabulary), dtype=exact) for _ in range(2)]
            torch.mm(slopes, heads[0])  # made, and then copied
            if ctx.gradients[1].dtype != dtype:
                torch.mm(slopes.t(), hidden[:group].to(dtype))
            # three products of the student and one of the teacher; the two above are counted where they were made
            live.flops += 2 * vocabulary * count * (3 * student.weight.shape[1] + teacher.weight.shape[1])
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
    student: AttentionTap, teacher: AttentionTap, rows: int, divergence: Divergence, live: LiveBytes, device: str
) -> Tensor:
    """As `attention_divergence`: `[N]`, with gradient to the student's queries and keys; `rows` is N."""
    values: Tensor = _Attention.apply(student.query, student.key, teacher, rows, divergence, live, device)
    return values


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        teacher: AttentionTap,
        rows: int,
        divergence: Divergence,
        live: LiveBytes,
        device: str,
    ) -> Tensor:
        heads, time = query.shape[1], query.shape[2]
        with torch.no_grad(), live.labelled(CHUNKS):
            exact = wide(query[:0]).dtype
            gradients = [torch.zeros_like(side, dtype=exact) for side in (query, key)]
            if device == "cpu":
                block, tile = min(attention.ROWS, attention.BLOCK // (heads * time)), attention.TILE
            else:
                block, tile = attention._GPU_BLOCK // (heads * time), 0
            height = min(max(16, block), time if device == "cpu" else time * query.shape[0])
            # the scores of both sides and the keys they came from
            sides = [query.new_empty((heads * height, time), dtype=exact) for _ in range(2)]
            keys = [key.new_empty((*side.key.shape[1:],), dtype=exact) for side in (teacher, teacher)]
            if tile:
                _tile(sides[0], sides[1], divergence, tile)
            else:  # compiled: the slope beside the scores, and the mask
                slope = query.new_empty((heads * height, time))
                mask = query.new_empty((height, time), dtype=torch.bool)
                del slope, mask
            del sides, keys
            # the scores of both, and two products with the student's slope; below the diagonal only
            live.flops += rows * time * heads * (3 * query.shape[-1] + teacher.query.shape[-1])
            ctx.gradients = [gradient.to(query.dtype) for gradient in gradients]
        return query.new_zeros(rows, dtype=exact)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        kept, ctx.gradients = ctx.gradients, None
        return *kept, *(None,) * 5
