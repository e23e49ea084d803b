"""Divergence between two attention maps, from their queries and keys: memory is linear in T, no map is ever whole.

Blocks of query positions of one row of the batch see all the keys they may see, so every softmax is over whole rows; inside a
block the element-wise work goes tile by tile through the processor's cache. The gradient is computed in the forward pass:
with s the scaling and S the slope in the scores, dQ = s S K and dK = s S^T Q.
"""

import torch
from torch import Tensor

from distill.objectives.divergences import LOWEST, Divergence, by_name, wide
from distill.objectives.streaming import in_precision_of, streamed
from distill.signals import AttentionTap

BLOCK = 2**22  # scores of one side held at once: 16 MiB in float32
ROWS = 256  # positions of a block at most on a CPU: with more, much of a causal block lies above the diagonal
TILE = 2**17  # scores worked on at once on a CPU
_GPU_BLOCK = 2**26
_FORWARD_KL = by_name("forward_kl")


def attention_divergence(
    student: AttentionTap, teacher: AttentionTap, rows: Tensor, divergence: Divergence = _FORWARD_KL
) -> Tensor:
    """Divergence of the student's map from the teacher's at each supervised position, mean over heads.

    Args:
        student, teacher: one layer each, with the same number of query heads; key heads and dimensions may differ.
        rows: `[B, T]` bool, the supervised positions: the rows of the map that are compared.
        divergence: of `distill.divergences.by_name`.

    Returns:
        `[N]`, in nats, with gradient to the student's queries, keys and sinks.

    Source: the maps as in MiniLM (Wang et al. 2020); the streaming as in FlashAttention (Dao et al. 2022) in that no map is
    stored, with the gradient taken in the forward pass.
    """
    taps = _cut(student), _cut(teacher)
    values, _ = streamed(
        lambda needed, weights: _value_and_grads(*taps, rows, divergence, needed, weights),
        (student.query, student.key, student.sinks),
    )
    return values


def _cut(tap: AttentionTap) -> AttentionTap:
    """Without graph, and without the values, which no map needs."""
    sinks = None if tap.sinks is None else tap.sinks.detach()
    query, key = tap.query.detach(), tap.key.detach()
    return AttentionTap(query, key, key, tap.mask, tap.scaling, tap.softcap, sinks)


@torch.no_grad()
def _value_and_grads(
    student: AttentionTap,
    teacher: AttentionTap,
    rows: Tensor,
    divergence: Divergence,
    needed: tuple[bool, ...],
    row_weights: Tensor | None = None,
) -> tuple[Tensor, None, list[Tensor | None]]:
    """Values `[N]`, nothing for logs, and the gradients of sum(row_weights * values) in the student's query, key and sinks."""
    count, heads, time = int(rows.sum()), student.query.shape[1], rows.shape[1]
    exact = wide(student.query[:0]).dtype
    values = torch.zeros(count, dtype=exact, device=rows.device)
    originals = (student.query, student.key, student.sinks)
    gradients = [
        torch.zeros(t.shape, dtype=exact, device=t.device) if t is not None and needs else None
        for t, needs in zip(originals, needed, strict=True)
    ]
    block = min(ROWS, BLOCK // (heads * time)) if rows.device.type == "cpu" else _GPU_BLOCK // (heads * time)
    done = 0
    for row in rows.any(1).nonzero().squeeze(1).tolist():
        for positions in rows[row].nonzero().squeeze(1).split(max(16, block)):
            at = slice(done, done + len(positions))
            keys = _union(*(_keys_seen(tap, row, positions) for tap in (student, teacher)))
            sides = [_Block(tap, row, positions, keys, exact) for tap in (student, teacher)]
            has_sinks = student.sinks is not None or teacher.sinks is not None
            value, slope = _compare(sides[0].scores(has_sinks), sides[1].scores(has_sinks), divergence)
            values[at] = value.mean(0)
            if any(needed):
                weight = 1 / heads if row_weights is None else row_weights[at, None] / heads
                sides[0].add_gradients(slope.mul_(weight), gradients)
            done = at.stop
    return values, None, in_precision_of(originals, gradients)


def _compare(student: Tensor, teacher: Tensor, divergence: Divergence) -> tuple[Tensor, Tensor]:
    """`[H, n]`, and the slope in the student's scores, written over them."""
    shape, flat = student.shape, (student.flatten(0, 1), teacher.flatten(0, 1))
    values = student.new_empty(len(flat[0]))
    height = max(1, TILE // shape[-1]) if student.device.type == "cpu" else len(values)
    for start in range(0, len(values), height):
        tile = slice(start, start + height)
        values[tile], flat[0][tile] = divergence.value_and_grad(*(scores[tile].log_softmax(-1) for scores in flat))
    return values.view(shape[:2]), student


class _Block:
    """The rows of a map at some positions of one row of the batch, over the keys that any of them may see."""

    def __init__(self, tap: AttentionTap, row: int, positions: Tensor, keys: slice, dtype: torch.dtype) -> None:
        self.tap, self.row, self.positions, self.keys = tap, row, positions, keys
        groups = tap.key.shape[1]
        # query heads that share a key head are stacked: one product a key head
        query = tap.query[row][:, positions].to(dtype) * tap.scaling
        self.query = query.reshape(groups, -1, query.shape[-1])
        self.key = tap.key[row][:, keys].to(dtype)
        self.capped: Tensor | None = None

    def scores(self, with_sinks: bool = False) -> Tensor:
        """`[H, n, K]`, masked; one more column with sinks."""
        scores = torch.bmm(self.query, self.key.transpose(1, 2))
        scores = scores.view(self.tap.query.shape[1], len(self.positions), -1)
        if self.tap.softcap is not None:
            scores = scores.div_(self.tap.softcap).tanh_()
            self.capped = scores.clone()
            scores = scores.mul_(self.tap.softcap)
        if self.tap.mask is None:
            places = torch.arange(self.keys.start, self.keys.stop, device=scores.device)
            scores.masked_fill_(places > self.positions[:, None], LOWEST)
        else:
            mask = _mask_rows(self.tap.mask, self.row, self.positions)[..., self.keys]
            if mask.dtype == torch.bool:
                scores.masked_fill_(~mask, LOWEST)
            else:
                scores.add_(mask).clamp_(min=LOWEST)
        if not with_sinks:
            return scores
        sinks = scores.new_full((len(scores),), LOWEST) if self.tap.sinks is None else self.tap.sinks.to(scores.dtype)
        return torch.cat([scores, sinks[:, None, None].expand(-1, scores.shape[1], 1)], dim=-1)

    def add_gradients(self, slope: Tensor, gradients: list[Tensor | None]) -> None:
        """slope `[H, n, K (+ 1)]` in the scores; adds to those of query, key and sinks."""
        query, key, sinks = gradients
        if sinks is not None:
            sinks += slope[..., -1].sum(1)
        slope = slope[..., : self.keys.stop - self.keys.start]
        if self.capped is not None:
            slope = slope * (1 - self.capped.square())
        slope = slope.reshape(len(self.key), -1, slope.shape[-1])
        if query is not None:
            part = torch.bmm(slope, self.key).mul_(self.tap.scaling)
            query[self.row][:, self.positions] = part.view(query.shape[1], len(self.positions), -1)
        if key is not None:
            key[self.row][:, self.keys] += torch.bmm(slope.transpose(1, 2), self.query)


def attention_scores(tap: AttentionTap, row: int, positions: Tensor) -> Tensor:
    """Masked scores `[H, n, T]` of one row of the batch, in float32: their softmax over the last axis is the map.

    With sinks there is one more column. For looking at maps; the divergence does not need them whole.

    Args:
        tap: queries and keys of a layer.
        row: index into the batch.
        positions: `[n]`, the query positions wanted.
    """
    dtype = wide(tap.query[:0]).dtype
    block = _Block(tap, row, positions, slice(0, tap.key.shape[2]), dtype)
    return block.scores(with_sinks=tap.sinks is not None)


def _mask_rows(mask: Tensor, row: int, positions: Tensor) -> Tensor:
    """`[H or 1, n, T]`."""
    return mask[row if len(mask) > 1 else 0][:, positions]


def _keys_seen(tap: AttentionTap, row: int, positions: Tensor) -> slice:
    """From the first to behind the last key that any of the positions may see."""
    if tap.mask is None:
        return slice(0, int(positions[-1]) + 1)
    mask = _mask_rows(tap.mask, row, positions)
    allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    seen = allowed.flatten(0, 1).any(0).nonzero()
    return slice(int(seen[0]), int(seen[-1]) + 1)


def _union(one: slice, other: slice) -> slice:
    return slice(min(one.start, other.start), max(one.stop, other.stop))
