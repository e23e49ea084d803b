"""Another tokenizer: divergence over the tokens that both vocabularies know and one bucket a side for all others, streamed as the plain one.

The teacher's distribution is laid out in the student's columns: at shared tokens its own probability, and its rest p_r spread over the
student's other tokens in the student's own proportions, p_j = p_r q_j / q_r. There the ratio p_j / q_j is p_r / q_r for all of them, so every
divergence of these two rows, and its slope, is that of the two coarse distributions, and it is computed by the same closed form.

Both are coarsenings of what the models say, so a value is at most that of the whole distributions (data processing), 0 where these are
alike, and the plain one where all tokens are shared. A rest is the log-sum-exp of its columns, never 1 - sum: that has no digits
left where the rest is small. Where the student has no other tokens the teacher is normalised over the shared ones, as for a smaller head.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.objectives.streamed_next_token import (
    Comparison,
    Signal,
    before_transform,
    cut,
    in_chunks,
    log_softmax_at,
    tiles,
    with_cross_entropy,
)
from distill.signals import HeadTap
from distill.signals.head_logits import LOWEST, side_of
from distill.signals.sparse import Top
from distill.text.alignment import SharedTokens

_THIN = 64  # rows of a product at least


@dataclass(frozen=True)
class Columns:
    """Which columns of two heads are the same token, on the device.

    Args:
        student: size of its head.
        of_teacher: `[student]`: the teacher's column of each of the student's; any one where it has none.
        ours, theirs: columns that are no shared token, of the student's head and of the teacher's.
        of_student: `[teacher]`: the student's column of each of the teacher's; `student` where it has none.
    """

    student: int
    of_teacher: Tensor
    ours: Tensor
    theirs: Tensor
    of_student: Tensor

    @classmethod
    def of(cls, shared: SharedTokens, student: int, teacher: int, device: torch.device) -> "Columns":
        """Of heads with so many rows; what pads them is no token."""
        known = shared.within(student, teacher)
        there, back = np.zeros(student, np.int64), np.full(teacher, student, np.int64)
        there[known.student], back[known.teacher] = known.teacher, known.student
        rests = [
            np.setdiff1d(np.arange(size), some) for size, some in ((student, known.student), (teacher, known.teacher))
        ]
        there[rests[0]] = known.teacher[0]
        return cls(student, *(torch.from_numpy(part).to(device) for part in (there, *rests, back)))


def aligned_next_token_divergence(
    student: HeadTap | Tensor,
    teacher: Signal,
    comparison: Comparison,
    columns: Columns,
    labels: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """factor * divergence + cross_entropy * (-log q[label]); the divergence is there for the first rows, which the teacher has, too.

    Args:
        student: tap of its head, or its own logits, `[M, ...]`.
        teacher: the same of the teacher, or a mixture, `[A, ...]`: row i is what it says where the student's row i stands; A may be less than M.
        comparison: what is computed; `vocabulary` has no meaning here.
        columns: which tokens are the same.
        labels: `[M]`, the student's; needed for cross-entropy.

    Returns:
        `[M]` with gradient to the student, and the cross-entropy `[M]` without, where it is asked for.

    Source: the coarsening is the data-processing inequality (Cover and Thomas 2006, 2.8); aligned tokens in place of aligned ranks, which
    universal logit distillation compares (Boizard et al. 2024).
    """
    theirs = cut(teacher)
    return in_chunks(
        student, lambda ours, weights: _Work(ours, theirs, comparison, columns, labels, weights), comparison
    )


def head_size(signal: Any) -> int:
    """Columns of a head, of a mixture of heads, or of logits."""
    if isinstance(signal, Tensor):
        return signal.shape[1]
    return min(len(head.weight) for head in signal.heads) if hasattr(signal, "heads") else len(signal.weight)


class _Work:
    """One comparison of all rows, chunk by chunk; see `streamed_next_token`."""

    def __init__(
        self,
        student: HeadTap | Tensor,
        teacher: Signal,
        comparison: Comparison,
        columns: Columns,
        labels: Tensor | None,
        row_weights: Tensor | None,
    ) -> None:
        rows = student if isinstance(student, Tensor) else student.hidden
        self.vocabulary, self._others = columns.student, len(columns.of_student)
        self.heads = side_of(student, self.vocabulary), side_of(teacher, self._others)
        self.aligned = _rows_in(teacher)
        exact = torch.float64 if self.heads[0].dtype == torch.float64 else torch.float32
        self.values, self.entropy = (torch.zeros(len(rows), dtype=exact, device=rows.device) for _ in range(2))
        self.comparison, self.columns, self.row_weights = comparison, columns, row_weights
        self.labels = labels if comparison.cross_entropy else None
        assert not (comparison.cross_entropy and labels is None)
        self._whole = not (len(columns.ours) or len(columns.theirs))

    def chunk(self, rows: slice, slopes: Tensor | None) -> None:
        """Values of some rows; and in `slopes`, if given, the gradient in the logits before the transform."""
        side, other = self.heads
        logits, device = side.logits(rows, slopes), self.values.device.type
        for known, part in self._parts(rows):
            theirs = other.logits(part) if known else None
            shift = part.start - rows.start
            for tile in tiles(part, max(self.vocabulary, self._others if known else 0), device):
                at = slice(part.start + tile.start, part.start + tile.stop)
                here = slice(shift + tile.start, shift + tile.stop)
                ours = side.exact(logits, here, self.values.dtype)
                log_p = None if theirs is None else other.transformed(other.exact(theirs, tile, self.values.dtype))
                slope = self._rows(side.transformed(ours), log_p, at, slopes is not None)
                if slopes is None or slope is None:
                    continue
                if self.row_weights is not None:
                    slope *= self.row_weights[at, None]
                slopes[here] = before_transform(slope, ours, side)

    def _parts(self, rows: slice) -> Iterator[tuple[bool, slice]]:
        """Rows that the teacher has, no more of its logits at once than of the student's; and the others."""
        border = min(max(self.aligned, rows.start), rows.stop)
        count = rows.stop - rows.start
        height = max(_THIN, count * self.vocabulary // max(self.vocabulary, self._others))
        for start in range(rows.start, border, height):
            yield True, slice(start, min(start + height, border))
        if border < rows.stop:
            yield False, slice(border, rows.stop)

    def _rows(self, logits: Tensor, theirs: Tensor | None, at: slice, wanted: bool) -> Tensor | None:
        own = self.comparison
        slope = None
        if theirs is not None:
            log_q = log_softmax_at(logits, own.temperature)
            log_p = self._laid_out(theirs if own.temperature == 1 else theirs / own.temperature, log_q)
            value, slope = own.divergence.value_and_grad(log_q, log_p, slope=wanted)
            self.values[at] = value if own.factor == 1 else value * own.factor
            scale = own.factor / own.temperature
            slope = slope if slope is None or scale == 1 else slope.mul_(scale)
        if slope is None and wanted:
            slope = torch.zeros_like(logits)
        if self.labels is not None:
            self.entropy[at], slope = with_cross_entropy(logits, slope, self.labels[at], own.cross_entropy)
            self.values[at] += own.cross_entropy * self.entropy[at]
        return slope

    def _laid_out(self, theirs: Tensor, log_q: Tensor) -> Tensor:
        """The teacher's log-probabilities in the student's columns."""
        columns = self.columns
        found = theirs.index_select(1, columns.of_teacher)
        if self._whole:
            return found.log_softmax(dim=-1)
        if len(columns.ours):
            found.index_fill_(1, columns.ours, LOWEST)
        total = found.logsumexp(dim=1, keepdim=True)
        if not len(columns.ours):  # nothing of the teacher's rest could ever be the student's
            return found.sub_(total)
        beside = log_q.index_select(1, columns.ours)
        if len(columns.theirs):
            rest = theirs.index_select(1, columns.theirs).logsumexp(dim=1, keepdim=True)
            total = torch.logaddexp(total, rest)
            rest -= total
        else:
            rest = total.new_full((), LOWEST)
        found.sub_(total)
        spread = rest - beside.logsumexp(dim=1, keepdim=True)
        return found.index_copy_(1, columns.ours, beside.add_(spread).clamp_(min=LOWEST))


def _rows_in(signal: Any) -> int:
    if isinstance(signal, Tensor):
        return len(signal)
    return len((signal.heads[0] if hasattr(signal, "heads") else signal).hidden)


def top_in_students_tokens(top: Top, columns: Columns) -> Top:
    """A teacher's largest probabilities by the student's tokens: what it has no token for is mass of the rest.

    Args:
        top: of a teacher with another tokenizer.
        columns: which tokens are the same; ids of the student's size stand for none.
    """
    ids = columns.of_student.index_select(0, top.ids.clamp(max=len(columns.of_student) - 1).flatten()).view_as(top.ids)
    ids = ids.masked_fill(top.ids >= len(columns.of_student), columns.student)
    none = ids >= columns.student
    log_probs = top.log_probs.clamp(min=LOWEST)
    others = log_probs.masked_fill(~none, LOWEST).logsumexp(dim=1)
    tail = torch.logaddexp(top.tail.clamp(min=LOWEST), others)
    return Top(ids, log_probs.masked_fill(none, LOWEST), tail, top.temperature)
