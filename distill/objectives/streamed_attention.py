"""Divergence between attention maps, streamed from queries and keys: memory is linear in T, no map is ever whole.

Blocks of query positions see all the keys they may see, so every softmax is over whole rows. On a CPU a block is of one row of the
batch and one layer, and the element-wise work goes tile by tile through the processor's cache; on a GPU a block takes many rows and
layers at once. Nothing here waits for the device but `SupervisedRows.of` and the look at the masks, once for all layers. The gradient
is computed in the forward pass: with s the scaling and S the slope in the scores, dQ = s S K and dK = s S^T Q.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distill.objectives import fused
from distill.objectives.attention_tiles import Block, Blocks, neighbours_of
from distill.objectives.divergences import Divergence, by_name
from distill.objectives.streaming import in_precision_of, streamed
from distill.signals import AttentionTap, SupervisedRows
from distill.signals.attention_masks import MaskRule
from distill.signals.head_logits import LOWEST, multiplies_low, wide

BLOCK = 2**22  # scores of one side held at once: 16 MiB in float32
ROWS = 256  # positions of a block at most: with more, much of a causal block lies above the diagonal
TILE = 2**17  # scores worked on at once on a CPU
_GPU_BLOCK = 2**26
_FORWARD_KL = by_name("forward_kl")
Gradients = list[Tensor | None]  # of query, key and sinks
Tap = AttentionTap | Sequence[AttentionTap]


def attention_divergence(
    student: Tap, teacher: Tap, rows: Tensor | SupervisedRows, divergence: Divergence = _FORWARD_KL
) -> Tensor:
    """Divergence of the student's maps from the teacher's at each supervised position, mean over heads and layers.

    Args:
        student, teacher: one layer each, or as many of one as of the other, with the same number of query heads; key heads and
            dimensions may differ.
        rows: the supervised positions: the rows of the map that are compared. `[B, T]` bool, or already looked up.
        divergence: of `distill.objectives.divergences.by_name`.

    Returns:
        `[N]`, in nats, with gradient to the student's queries, keys and sinks.

    Source: the maps as in MiniLM (Wang et al. 2020); the streaming as in FlashAttention (Dao et al. 2022) in that no map is
    stored, with the gradient taken in the forward pass.
    """
    ours, theirs = ([tap] if isinstance(tap, AttentionTap) else list(tap) for tap in (student, teacher))
    where = rows if isinstance(rows, SupervisedRows) else SupervisedRows.of(rows)
    pairs = [(_cut(s), _cut(t)) for s, t in zip(ours, theirs, strict=True)]
    values, _ = streamed(
        lambda needed, weights: _value_and_grads(pairs, where, divergence, needed, weights),
        [tensor for tap in ours for tensor in (tap.query, tap.key, tap.sinks)],
    )
    return values


def _cut(tap: AttentionTap) -> AttentionTap:
    """Without graph, and without the values, which no map needs."""
    sinks = None if tap.sinks is None else tap.sinks.detach()
    query, key = tap.query.detach(), tap.key.detach()
    return AttentionTap(query, key, None, tap.mask, tap.scaling, tap.softcap, sinks)


def _takes_many(device: torch.device) -> bool:
    """Whether rows and layers are computed side by side; a processor's cache is better served one by one."""
    return device.type != "cpu"


@torch.no_grad()
def _value_and_grads(
    pairs: list[tuple[AttentionTap, AttentionTap]],
    rows: SupervisedRows,
    divergence: Divergence,
    needed: Sequence[bool],
    row_weights: Tensor | None = None,
) -> tuple[Tensor, None, Gradients]:
    """Values `[N]`, nothing for logs, and the gradients of sum(row_weights * values) in each layer's query, key and sinks."""
    exact, count = wide(pairs[0][0].query[:0]).dtype, len(rows)
    values = torch.zeros(count + 1, dtype=exact, device=rows.index.device)  # one more, for what repetitions give
    weights = None if row_weights is None else torch.cat([row_weights.to(exact), row_weights.new_zeros(1, dtype=exact)])
    numbers = fused.numbers_of(values)
    blocks = Blocks(rows, [tap for pair in pairs for tap in pair])
    groups: dict[Any, list[int]] = {}
    for i, pair in enumerate(pairs):
        groups.setdefault(tuple(map(neighbours_of, pair)), []).append(i)
    share, finished = 1 / len(pairs), dict[int, Gradients]()
    many = _takes_many(values.device)
    for group in groups.values():
        cut = _blocks_of(pairs[group[0]], blocks, many) if count else []
        # gradients are sums in `exact`, and in the model's own precision once they are done: on a CPU one layer after another
        for layers in [group] if many else [[i] for i in group]:
            sums = {i: _zeros(pairs[i][0], needed[3 * i : 3 * i + 3], exact) for i in layers}
            for block, deep in cut:
                for first in range(0, len(layers), deep):
                    now = layers[first : first + deep]
                    _block([pairs[i] for i in now], block, divergence, numbers, values, [sums[i] for i in now], weights)
            finished |= {i: _finished(pairs[i][0], sums.pop(i), share) for i in layers}
    return values[:count].mul_(share), None, [gradient for i in range(len(pairs)) for gradient in finished[i]]


def _blocks_of(pair: tuple[AttentionTap, AttentionTap], blocks: Blocks, many: bool) -> list[tuple[Block, int]]:
    """The blocks of layers like this one, and of how many layers each is computed at once."""
    _, heads, time, _ = pair[0].query.shape
    limit = _GPU_BLOCK if many else BLOCK
    # launching a block costs a GPU's host as long as computing 2**26 scores: all rows first, then as many positions as go in
    height = max(ROWS, limit // (heads * time * blocks.batch)) if many else max(16, min(ROWS, limit // (heads * time)))
    beside = max(1, min(blocks.batch, limit // (height * heads * time))) if many else 1
    sizes = [
        (block, block.at.numel() * heads * (block.keys.stop - block.keys.start))
        for block in blocks.cut(pair, beside, height)
    ]
    return [(block, max(1, limit // size) if many else 1) for block, size in sizes]


def _zeros(student: AttentionTap, needed: Sequence[bool], exact: torch.dtype) -> Gradients:
    """For sums of a layer's gradients: query `[B * T + 1, H, d]`, whose last row takes what repetitions give, key and sinks."""
    (batch, heads, time, width), sinks = student.query.shape, student.sinks
    shapes = ((batch * time + 1, heads, width), student.key.shape, () if sinks is None else sinks.shape)
    there = (needed[0], needed[1], needed[2] and sinks is not None)
    return [
        student.query.new_zeros(shape, dtype=exact) if wanted else None
        for shape, wanted in zip(shapes, there, strict=True)
    ]


def _finished(student: AttentionTap, sums: Gradients, share: float) -> Gradients:
    """A layer's gradients in the shapes and the precision of its tensors, from the sums over heads; `sums` is written over."""
    batch, heads, time, width = student.query.shape
    for gradient in sums:
        if gradient is not None:
            gradient.mul_(share / heads)
    if sums[0] is not None:
        sums[0] = sums[0][:-1].view(batch, time, heads, width).transpose(1, 2)
    return in_precision_of((student.query, student.key, student.sinks), sums)


def _block(
    pairs: list[tuple[AttentionTap, AttentionTap]],
    block: Block,
    divergence: Divergence,
    numbers: Tensor,
    values: Tensor,
    gradients: list[Gradients],
    weights: Tensor | None,
) -> None:
    """Adds what one block of several layers has: sums over heads to the values, and slopes of the plain sum to the gradients."""
    with_sinks = any(tap.sinks is not None for tap in pairs[0])
    # layers that are computed side by side have one mask, and two models often have the same
    made = {id(tap.mask): _mask(tap, block) for tap in pairs[0]}
    sides = [[_Side(tap, block, made[id(tap.mask)], values.dtype) for tap in taps] for taps in zip(*pairs, strict=True)]
    student, teacher = (
        torch.stack([side.scores(with_sinks) for side in layers])
        if len(layers) > 1
        else layers[0].scores(with_sinks)[None]
        for layers in sides
    )
    factor = None
    if weights is not None:
        factor = weights[block.at]
    elif block.padded:
        factor = (block.at < len(values) - 1).to(values.dtype)
    # of slopes: in which precision they will be multiplied; an evaluation has none
    low = sides[0][0].query.dtype if any(g is not None for found in gradients for g in found) else None
    value, slope = _compare(student, teacher, divergence, numbers, factor, low)  # [L, c, H, m], [L, c, H, m, K]
    values.index_add_(0, block.at.flatten(), value.mean(2).sum(0).flatten())
    if slope is None:
        return
    for side, one, found in zip(sides[0], slope, gradients, strict=True):
        side.add_gradients(one, found)


def _compare(
    student: Tensor,
    teacher: Tensor,
    divergence: Divergence,
    numbers: Tensor,
    factor: Tensor | None,
    low: torch.dtype | None,
) -> tuple[Tensor, Tensor | None]:
    """Values without the last axis, and the slope in the student's scores times `factor` `[c, m]`; the scores are written over.

    `low`: the precision in which the slope will be multiplied; None: no slope.
    """
    shape, flat = student.shape, (student.flatten(0, -2), teacher.flatten(0, -2))
    if fused.pays(student):
        slope = None if low is None else torch.empty_like(flat[0], dtype=low)
        of_rows = None if factor is None else factor[None, :, None].expand(shape[:-1]).flatten()
        values, _ = fused.fused_rows(*flat, slope, divergence, numbers, weights=of_rows)
        return values.view(shape[:-1]), None if slope is None else slope.view(shape)
    values = student.new_empty(len(flat[0]))
    height = max(1, TILE // shape[-1]) if student.device.type == "cpu" else max(1, len(values))
    for start in range(0, len(values), height):
        tile = slice(start, start + height)
        both = [scores[tile].log_softmax(-1) for scores in flat]
        values[tile], part = divergence.value_and_grad(*both, slope=low is not None)
        if part is not None:
            flat[0][tile] = part
    if low is None:
        return values.view(shape[:-1]), None
    if factor is not None:
        student.mul_(factor[None, :, None, :, None])
    return values.view(shape[:-1]), student.to(low)


def _mask(tap: AttentionTap, block: Block) -> Tensor:
    """`[c, H or 1, m, K]`: boolean (True: may not be seen, as `masked_fill_` wants it) or additive."""
    if tap.mask is None:
        keys = torch.arange(block.keys.start, block.keys.stop, device=block.positions.device)
        return (keys > block.positions[..., None])[:, None]
    if isinstance(tap.mask, MaskRule):
        return ~tap.mask.shown(block.row_index, block.positions, block.keys)
    rows = block.row_index if len(tap.mask) > 1 else torch.zeros_like(block.row_index)
    mask = tap.mask[..., block.keys][rows, :, block.positions].transpose(1, 2)
    return ~mask if mask.dtype == torch.bool else mask


class _Side:
    """One model's layer in a block."""

    def __init__(self, tap: AttentionTap, block: Block, mask: Tensor, dtype: torch.dtype) -> None:
        self.tap, self.block, self.mask = tap, block, mask
        # query heads that share a key head are stacked: one product a key head
        groups = tap.key.shape[1]
        query = tap.query[block.row_index, :, block.positions]  # [c, m, H, d]
        # products of low precision are exact in float32; scaling by a power of two too, any other is left for later
        self.exact, low = dtype, multiplies_low(query)
        self.left = tap.scaling if low and math.frexp(tap.scaling)[0] != 0.5 else 1.0
        query = query if low else query.to(dtype)
        query = query if self.left != 1 else query * tap.scaling
        c, m, self.heads, width = query.shape
        self.query = query.transpose(1, 2).reshape(c * groups, -1, width)
        key = tap.key[block.rows] if isinstance(block.rows, slice) else tap.key.index_select(0, block.rows)
        self.key = key[:, :, block.keys].to(query.dtype).flatten(0, 1)
        self.shape = c, self.heads, m, -1
        self.capped: Tensor | None = None

    def _product(self, one: Tensor, other: Tensor) -> Tensor:
        return torch.bmm(one, other) if one.dtype == self.exact else torch.bmm(one, other, out_dtype=self.exact)

    def scores(self, with_sinks: bool = False) -> Tensor:
        """`[c, H, m, K]`, masked; one more column with sinks."""
        scores = self._product(self.query, self.key.transpose(1, 2)).view(self.shape)
        scores = scores if self.left == 1 else scores.mul_(self.left)
        if self.tap.softcap is not None:
            scores = scores.div_(self.tap.softcap).tanh_()
            self.capped = scores.clone()
            scores = scores.mul_(self.tap.softcap)
        if self.mask.dtype == torch.bool:
            scores.masked_fill_(self.mask, LOWEST)
        else:
            scores.add_(self.mask).clamp_(min=LOWEST)
        if not with_sinks:
            return scores
        sinks = scores.new_full((self.heads,), LOWEST) if self.tap.sinks is None else self.tap.sinks.to(scores.dtype)
        return torch.cat([scores, sinks[None, :, None, None].expand(*scores.shape[:3], 1)], dim=-1)

    def add_gradients(self, slope: Tensor, gradients: Gradients) -> None:
        """slope `[c, H, m, K (+ 1)]` in the scores; adds to those of query, key and sinks. It may be written over."""
        query, key, sinks = gradients
        if sinks is not None:
            sinks += slope[..., -1].sum((0, 2), dtype=sinks.dtype)
        slope = slope[..., : self.block.keys.stop - self.block.keys.start]
        if self.capped is not None:
            slope = slope * (1 - self.capped.square()).to(slope.dtype)
        slope = slope.reshape(len(self.key), -1, slope.shape[-1])
        block = self.block
        if query is not None:
            part = self._product(slope, self.key).mul_(self.tap.scaling)
            query.index_copy_(0, block.spots.flatten(), part.view(self.shape).transpose(1, 2).flatten(0, 1))
        if key is not None:
            part = self._product(slope.transpose(1, 2), self.query).mul_(self.left)
            part = part.view(-1, key.shape[1], self.key.shape[1], key.shape[3])
            if isinstance(block.rows, slice):
                key[block.rows][:, :, block.keys] += part
            else:
                key[:, :, block.keys].index_add_(0, block.rows, part)


def attention_scores(tap: AttentionTap, row: int, positions: Tensor) -> Tensor:
    """Masked scores `[H, n, T]` of one row of the batch, in float32: their softmax over the last axis is the map.

    With sinks there is one more column. For looking at maps; the divergence does not need them whole.

    Args:
        tap: queries and keys of a layer.
        row: index into the batch.
        positions: `[n]`, the query positions wanted.
    """
    at = positions[None]
    index = torch.full_like(at[:, :1], row)
    block = Block(slice(row, row + 1), index, at, at, at, False, slice(0, tap.key.shape[2]))
    return _Side(tap, block, _mask(tap, block), wide(tap.query[:0]).dtype).scores(with_sinks=tap.sinks is not None)[0]
