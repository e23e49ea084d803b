"""Divergence between next-token distributions, streamed: never holds [N, V] in float32, nor two of them.

The work is done in the forward pass, in three nested loops:

* a *group* of rows shares one buffer of gradients in the model's precision, so that the two matrix products of the backward
  pass are wide (narrow ones are bound by reading and writing the whole head);
* a *chunk* of rows has the logits of both sides at once;
* a *tile* of a few rows is worked on in float32 while it stays in the processor's cache. Untiled, the element-wise work costs
  three times as much on a CPU. A GPU works on whole chunks, compiled (`distill.objectives.fused`), and has its logits in float32
  out of products of lower precision.

The gradient kept is that of the sum over rows. Whoever reduces by another weight for each row gets it by a second pass. Where no gradient
is wanted (an evaluation) there are no groups: no slope is computed, and nothing is held but a chunk.

A model whose head cannot be read (an adapter on it, 8 bit, weights that are whole only inside it) gives its own logits in its place. Their
gradient is as large as they are; chunks and tiles are the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from distill.objectives import fused
from distill.objectives.divergences import Divergence
from distill.objectives.streaming import in_precision_of, streamed
from distill.signals import HeadTap, MixedHead
from distill.signals.head_logits import Head, Logits, Side, logits_of_both, multiplies_low, side_of

GROUP = 2**28  # bytes of gradients held at once; several groups need a float32 copy of the head's gradient
CHUNK = 256  # rows whose logits are held at once; fewer make the matrix products thin
ADDED = 4096  # rows of the head's gradient added at once where the product is in another precision
TILE = 2**18  # logits worked on at once on a CPU: 1 MiB in float32
_GPU_GROUP = 2**30
_GPU_CHUNK = 2**27  # logits of one side held at once: 512 MiB in float32
_GPU_TILE = 2**24
Signal = HeadTap | MixedHead | Tensor


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
    student: HeadTap | Tensor, teacher: Signal, comparison: Comparison, labels: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """factor * divergence + cross_entropy * (-log q[label]) at every supervised row.

    Args:
        student, teacher: taps of the heads, or the models' own logits `[N, V]`; widths may differ, the tokens compared may not. The
            teacher's may be a mixture of several heads.
        comparison: what to compute.
        labels: `[N]`, needed for cross-entropy.

    Returns:
        `[N]` with gradient to the student's hidden states, head and bias (to its logits); and, with cross-entropy, `[N]` of it alone, for
        logs, without gradient.

    Source: the order of the loops is ours; the gradient in the forward pass as in Liger Kernel (Hsu et al. 2024).
    """
    theirs = cut(teacher)

    def work_of(ours: Any, row_weights: Tensor | None) -> _Work:
        vocabulary = comparison.vocabulary or (ours.shape[1] if isinstance(ours, Tensor) else len(ours.weight))
        return _Work(ours, theirs, vocabulary, comparison, labels, row_weights)

    return in_chunks(student, work_of, comparison)


def in_chunks(
    student: HeadTap | Tensor, work_of: Callable[[Any, Tensor | None], Any], comparison: Comparison
) -> tuple[Tensor, Tensor | None]:
    """What a comparison of whole rows gives, gone through chunk by chunk, with its gradient to the student.

    Args:
        student: tap of its head, or its own logits.
        work_of: given the student outside of any graph and the rows' weights in slopes, makes the work: `heads`, `vocabulary`, `values`,
            `entropy` and `chunk`, as of `_Work`.
        comparison: whether cross-entropy is asked for.

    Returns:
        See `next_token_divergence`.
    """
    ours = cut(student)

    @torch.no_grad()
    def go_through(needed: tuple[bool, ...], row_weights: Tensor | None) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        work = work_of(ours, row_weights)
        own = isinstance(ours, Tensor)
        gradients = in_own_logits(ours, work, needed[0]) if own else through_head(work.heads[0], needed, work.chunk)
        return work.values, work.entropy, gradients

    inputs = (student,) if isinstance(student, Tensor) else (student.hidden, student.weight, student.bias)
    values, entropy = streamed(go_through, inputs)
    return values, entropy if comparison.cross_entropy else None


def cut(signal: Any) -> Any:
    """The same tap, mixture or logits, outside of any graph."""
    if isinstance(signal, Tensor):
        return signal.detach()
    if isinstance(signal, MixedHead):
        return replace(signal, heads=tuple(map(cut, signal.heads)))
    bias = None if signal.bias is None else signal.bias.detach()
    return HeadTap(signal.hidden.detach(), signal.weight.detach(), bias, signal.transform, signal.dtype)


def in_own_logits(student: Tensor, work: Any, needed: bool) -> list[Tensor | None]:
    """As `through_head`: the one gradient in the student's own logits, which takes the slopes as they come."""
    count, vocabulary = len(student), work.vocabulary
    gradient = torch.empty_like(student) if needed else None
    if gradient is not None:
        gradient[:, vocabulary:] = 0
    _, chunk = pieces(student.device.type, count, vocabulary, work.values.dtype)
    for start in range(0, count, chunk):
        rows = slice(start, min(start + chunk, count))
        work.chunk(rows, None if gradient is None else gradient[rows, :vocabulary])
    return [gradient]


def through_head(
    side: Side, needed: tuple[bool, ...], fill: Callable[[slice, Tensor | None], None]
) -> list[Tensor | None]:
    """Gradients in hidden states, weight and bias of a head, from the slopes in its logits, a chunk of rows after the other.

    Args:
        side: the head.
        needed: which of the three.
        fill: given some rows and `[n, V]`, it puts there the slopes in their logits before the transform, each times its row's weight. Given
            None, no slope is wanted.
    """
    tap, dtype, vocabulary = side.tap, side.dtype, len(side.weight)
    count, device = len(tap.hidden), tap.hidden.device
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    gradients: list[Tensor | None] = [None, None, None]
    group, chunk = pieces(device.type, count, vocabulary, dtype)
    if not any(needed):
        for start in range(0, count, chunk):
            fill(slice(start, min(start + chunk, count)), None)
        return gradients
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


class _Work:
    """One comparison of all rows, chunk by chunk.

    Args:
        student, teacher: taps without a graph, or logits.
        vocabulary: how many tokens are compared.
        comparison, labels: as for `next_token_divergence`.
        row_weights: `[N]`, in the slopes alone.

    Attributes:
        values, entropy: `[N]`, of the rows that are done.
    """

    def __init__(
        self,
        student: HeadTap | Tensor,
        teacher: Signal,
        vocabulary: int,
        comparison: Comparison,
        labels: Tensor | None,
        row_weights: Tensor | None,
    ) -> None:
        rows = student if isinstance(student, Tensor) else student.hidden
        self.heads = side_of(student, vocabulary), side_of(teacher, vocabulary)
        exact = torch.float64 if self.heads[0].dtype == torch.float64 else torch.float32
        self.values, self.entropy = (torch.zeros(len(rows), dtype=exact, device=rows.device) for _ in range(2))
        self.vocabulary, self.comparison, self.row_weights = vocabulary, comparison, row_weights
        self.labels = labels if comparison.cross_entropy else None
        assert not (comparison.cross_entropy and labels is None)
        self.numbers = fused.numbers_of(
            self.values, comparison.temperature, comparison.factor, comparison.cross_entropy
        )

    def chunk(self, rows: slice, slopes: Tensor | None) -> None:
        """Values of some rows; and in `slopes`, if given, the gradient in the logits before the transform."""
        both = logits_of_both(*self.heads, rows, slopes)
        if all(fused.pays(logits.base) for logits in both) and not self.heads[0].two_parts:
            self._fused(both, rows, slopes)
            return
        for tile in tiles(rows, self.vocabulary, self.values.device.type):
            at = slice(rows.start + tile.start, rows.start + tile.stop)
            ours, theirs = (
                side.exact(logits, tile, self.values.dtype) for side, logits in zip(self.heads, both, strict=True)
            )
            value, slope = self._divergence(ours, theirs, slopes is not None)
            if self.labels is not None:
                self.entropy[at], slope = with_cross_entropy(
                    self.heads[0].transformed(ours), slope, self.labels[at], self.comparison.cross_entropy
                )
                value = value + self.comparison.cross_entropy * self.entropy[at]
            self.values[at] = value
            if slopes is None or slope is None:
                continue
            if self.row_weights is not None:
                slope *= self.row_weights[at, None]
            slopes[tile] = before_transform(slope, ours, self.heads[0])

    def _fused(self, both: tuple[Logits, Logits], rows: slice, slopes: Tensor | None) -> None:
        student, teacher = (side.finite(logits) for side, logits in zip(self.heads, both, strict=True))
        self.values[rows], found = fused.fused_rows(
            student, teacher, slopes, self.comparison.divergence, self.numbers,
            (self.heads[0].transform, self.heads[1].transform), None if self.labels is None else self.labels[rows],
            None if self.row_weights is None else self.row_weights[rows],
        )  # fmt: skip
        if found is not None:
            self.entropy[rows] = found

    def _divergence(self, ours: Tensor, theirs: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
        """Value and slope of the divergence, the slope in the student's transformed logits."""
        comparison = self.comparison
        both = [
            log_softmax_at(side.transformed(logits), comparison.temperature)
            for side, logits in zip(self.heads, (ours, theirs), strict=True)
        ]
        value, slope = comparison.divergence.value_and_grad(*both, slope=wanted)
        if comparison.factor != 1:
            value = value * comparison.factor
        scale = comparison.factor / comparison.temperature
        return value, slope if slope is None or scale == 1 else slope.mul_(scale)


def with_cross_entropy(
    logits: Tensor, slope: Tensor | None, labels: Tensor, weight: float
) -> tuple[Tensor, Tensor | None]:
    """Cross-entropies `[n]` of transformed logits `[n, V]`, and the slope with theirs, times `weight`, added in place; None stays None."""
    log_q = logits.log_softmax(dim=-1)
    column = labels[:, None]
    entropy = -log_q.gather(1, column).squeeze(1)
    if slope is None:
        return entropy, None
    extra = log_q.exp_().scatter_add_(1, column, log_q.new_full(column.shape, -1.0))
    return entropy, slope.add_(extra, alpha=weight)


def tiles(rows: slice, vocabulary: int, device: str) -> Iterator[slice]:
    """Of a chunk of `rows`, from 0: a few of them at once."""
    height, count = max(1, (TILE if device == "cpu" else _GPU_TILE) // vocabulary), rows.stop - rows.start
    for start in range(0, count, height):
        yield slice(start, min(start + height, count))


def log_softmax_at(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities at a temperature."""
    return (logits if temperature == 1 else logits / temperature).log_softmax(dim=-1)


def before_transform(slope: Tensor, logits: Tensor, side: Head) -> Tensor:
    """Chain rule through cap * tanh(scale * logits / cap)."""
    transform = side.transform
    if transform.cap is not None:
        transformed = transform(logits) / transform.cap
        slope = slope * (1 - transformed * transformed)
    return slope if transform.scale == 1 else slope * transform.scale
