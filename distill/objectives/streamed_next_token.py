"""Divergence between next-token distributions, streamed: never holds [N, V] in float32, nor two of them.

The work is done in the forward pass, in three nested loops:

* a *group* of rows shares one buffer of gradients in the model's precision, so that the two matrix products of the backward
  pass are wide (narrow ones are bound by reading and writing the whole head);
* a *chunk* of rows has the logits of both sides at once;
* a *tile* of a few rows is worked on in float32 while it stays in the processor's cache. Untiled, the element-wise work costs
  three times as much on a CPU. A GPU works on whole chunks, compiled (`distill.objectives.fused`), and has its logits in float32
  out of products of lower precision.

The gradient kept is that of the sum over rows. Whoever reduces by another weight for each row gets it by a second pass.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distill.objectives import fused
from distill.objectives.divergences import Divergence
from distill.objectives.streaming import in_precision_of, streamed
from distill.signals import HeadTap, MixedHead
from distill.signals.head_logits import LOWEST, MixedSide, Side, logits_of_both, multiplies_low, side_of

GROUP = 2**28  # bytes of gradients held at once; several groups need a float32 copy of the head's gradient
CHUNK = 256  # rows whose logits are held at once; fewer make the matrix products thin
ADDED = 4096  # rows of the head's gradient added at once where the product is in another precision
TILE = 2**18  # logits worked on at once on a CPU: 1 MiB in float32
_GPU_GROUP = 2**30
_GPU_CHUNK = 2**27  # logits of one side held at once: 512 MiB in float32
_GPU_TILE = 2**24


@dataclass(frozen=True)
class Comparison:
    """What is computed from two rows of logits.

    Args:
        divergence: of `distill.objectives.divergences.by_name`.
        temperature: divides both sides in the divergence.
        factor: of the divergence, in value and gradient.
        cross_entropy: weight of cross-entropy on the labels (at temperature 1), added to the divergence.
        vocabulary: compare this many first tokens only; None: all.
    """

    divergence: Divergence
    temperature: float = 1.0
    factor: float = 1.0
    cross_entropy: float = 0.0
    vocabulary: int | None = None


def next_token_divergence(
    student: HeadTap, teacher: HeadTap | MixedHead, comparison: Comparison, labels: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """factor * divergence + cross_entropy * (-log q[label]) at every supervised row.

    Args:
        student, teacher: taps of the heads; widths may differ, the tokens compared may not. The teacher's may be a mixture of several.
        comparison: what to compute.
        labels: `[N]`, needed for cross-entropy.

    Returns:
        `[N]` with gradient to the student's hidden states, head and bias; and, with cross-entropy, `[N]` of it alone, for
        logs, without gradient.

    Source: the order of the loops is ours; the gradient in the forward pass as in Liger Kernel (Hsu et al. 2024).
    """
    ours = cut(student)
    theirs = replace(teacher, heads=tuple(map(cut, teacher.heads))) if isinstance(teacher, MixedHead) else cut(teacher)
    values, entropy = streamed(
        lambda needed, weights: _value_and_grads(ours, theirs, comparison, labels, needed, weights),
        (student.hidden, student.weight, student.bias),
    )
    return values, entropy if comparison.cross_entropy else None


def cut(tap: HeadTap) -> HeadTap:
    """The same tap, outside of any graph."""
    bias = None if tap.bias is None else tap.bias.detach()
    return HeadTap(tap.hidden.detach(), tap.weight.detach(), bias, tap.transform, tap.dtype)


@torch.no_grad()
def _value_and_grads(
    student: HeadTap,
    teacher: HeadTap | MixedHead,
    comparison: Comparison,
    labels: Tensor | None,
    needed: tuple[bool, ...],
    row_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Values `[N]`, cross-entropies `[N]`, and the gradients of sum(row_weights * values) in hidden, weight, bias."""
    vocabulary = comparison.vocabulary or student.weight.shape[0]
    heads = Side(student, vocabulary), side_of(teacher, vocabulary)
    exact = torch.float64 if heads[0].dtype == torch.float64 else torch.float32
    values, entropy = (torch.zeros(len(student.hidden), dtype=exact, device=student.hidden.device) for _ in range(2))
    numbers = fused.numbers_of(values, comparison.temperature, comparison.factor, comparison.cross_entropy)

    def fill(rows: slice, slopes: Tensor) -> None:
        _chunk(heads, comparison, labels, row_weights, rows, slopes, values, entropy, numbers)

    return values, entropy, through_head(heads[0], needed, fill)


def through_head(side: Side, needed: tuple[bool, ...], fill: Callable[[slice, Tensor], None]) -> list[Tensor | None]:
    """Gradients in hidden states, weight and bias of a head, from the slopes in its logits, a chunk of rows after the other.

    Args:
        side: the head.
        needed: which of the three.
        fill: given some rows and `[n, V]`, it puts there the slopes in their logits before the transform, each times its row's weight.
    """
    tap, dtype, vocabulary = side.tap, side.dtype, len(side.weight)
    count, device = len(tap.hidden), tap.hidden.device
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    gradients: list[Tensor | None] = [None, None, None]
    group, chunk = pieces(device.type, count, vocabulary, dtype)
    if needed[0]:
        gradients[0] = torch.empty_like(tap.hidden)
    if needed[1]:
        several = count > group  # then the sum is kept in float32, or small chunks would be rounded away
        gradients[1] = torch.zeros(tap.weight.shape, dtype=exact if several else tap.weight.dtype, device=device)
    if needed[2]:
        gradients[2] = torch.zeros(tap.weight.shape[0], dtype=exact, device=device)
    slopes = torch.empty((group, vocabulary), dtype=dtype, device=device)
    for first in range(0, count, group):
        inside = slopes[: min(group, count - first)]
        for start in range(first, first + len(inside), chunk):
            end = min(start + chunk, first + len(inside))
            fill(slice(start, end), inside[start - first : end - first])
        hidden = tap.hidden[first : first + len(inside)].to(dtype)
        if gradients[0] is not None:
            gradients[0][first : first + len(inside)] = inside @ side.weight
        if gradients[1] is not None:
            _add_product(gradients[1][:vocabulary], inside.t(), hidden)
        if gradients[2] is not None:
            gradients[2][:vocabulary] += inside.sum(0, dtype=exact)
    return in_precision_of((tap.hidden, tap.weight, tap.bias), gradients)


def pieces(device: str, count: int, vocabulary: int, dtype: torch.dtype) -> tuple[int, int]:
    """Rows of a group and of a chunk. A GPU is given larger ones: narrow products and many launches are what costs there."""
    on_cpu = device == "cpu"
    group = max(1, min(count, (GROUP if on_cpu else _GPU_GROUP) // (vocabulary * dtype.itemsize)))
    height = _GPU_CHUNK // vocabulary
    return group, min(group, CHUNK if on_cpu else max(CHUNK, height - height % CHUNK))


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    elif multiplies_low(a):
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        # in pieces: a CPU adds in another precision by way of a converted copy of the whole, which is as large as the head
        for part, rows in zip(total.split(ADDED), a.split(ADDED), strict=True):
            part += rows @ b


def _chunk(
    heads: tuple[Side, Side | MixedSide],
    comparison: Comparison,
    labels: Tensor | None,
    row_weights: Tensor | None,
    rows: slice,
    slopes: Tensor,
    values: Tensor,
    entropy: Tensor,
    numbers: Tensor,
) -> None:
    """Values of some rows, and in `slopes` the gradient in the logits before the transform."""
    student, teacher = logits_of_both(heads[0], heads[1], rows, slopes)
    if fused.pays(student.base) and fused.pays(teacher.base) and not heads[0].two_parts:
        for side, logits in zip(heads, (student, teacher), strict=True):
            if side.bias is not None:
                logits.base.clamp_(min=LOWEST)  # as `transformed` does
        values[rows], found = fused.fused_rows(
            student.base, teacher.base, slopes, comparison.divergence, numbers, (heads[0].tap.transform, heads[1].tap.transform),
            labels[rows] if labels is not None and comparison.cross_entropy else None,
            None if row_weights is None else row_weights[rows],
        )  # fmt: skip
        if found is not None:
            entropy[rows] = found
        return
    height = tile_height(slopes)
    for start in range(0, len(slopes), height):
        tile = slice(start, start + height)
        at = slice(rows.start + start, min(rows.start + start + height, rows.stop))
        ours, theirs = (
            side.exact(logits, tile, values.dtype) for side, logits in zip(heads, (student, teacher), strict=True)
        )
        value, slope = _tile(ours, theirs, heads, comparison)
        if comparison.cross_entropy:
            assert labels is not None
            entropy[at], slope = _with_cross_entropy(ours, slope, labels[at], heads[0], comparison)
            value = value + comparison.cross_entropy * entropy[at]
        values[at] = value
        if row_weights is not None:
            slope *= row_weights[at, None]
        slopes[tile] = before_transform(slope, ours, heads[0])


def tile_height(slopes: Tensor) -> int:
    """Rows of `[n, V]` that are worked on at once."""
    return max(1, (TILE if slopes.device.type == "cpu" else _GPU_TILE) // slopes.shape[1])


def _tile(
    student: Tensor, teacher: Tensor, heads: tuple[Side, Side | MixedSide], comparison: Comparison
) -> tuple[Tensor, Tensor]:
    """Value and slope of the divergence, the slope in the student's transformed logits."""
    both = [
        _log_softmax(side.transformed(logits), comparison.temperature)
        for side, logits in zip(heads, (student, teacher), strict=True)
    ]
    value, slope = comparison.divergence.value_and_grad(*both)
    if comparison.factor != 1:
        value = value * comparison.factor
    scale = comparison.factor / comparison.temperature
    return value, slope if scale == 1 else slope.mul_(scale)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return (logits if temperature == 1 else logits / temperature).log_softmax(dim=-1)


def _with_cross_entropy(
    student: Tensor, slope: Tensor, labels: Tensor, side: Side, comparison: Comparison
) -> tuple[Tensor, Tensor]:
    log_q = side.transformed(student).log_softmax(dim=-1)
    column = labels[:, None]
    entropy = -log_q.gather(1, column).squeeze(1)
    extra = log_q.exp_().scatter_add_(1, column, log_q.new_full(column.shape, -1.0))
    return entropy, slope.add_(extra, alpha=comparison.cross_entropy)


def before_transform(slope: Tensor, logits: Tensor, side: Side) -> Tensor:
    """Chain rule through cap * tanh(scale * logits / cap)."""
    transform = side.tap.transform
    if transform.cap is not None:
        transformed = transform(logits) / transform.cap
        slope = slope * (1 - transformed * transformed)
    return slope if transform.scale == 1 else slope * transform.scale
