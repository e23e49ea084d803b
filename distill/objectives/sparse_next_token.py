"""Sparse teachers: the student's whole distribution against a few tokens of the teacher's, streamed as against a live one.

Against `Atoms` (weights w, sum w p log p known) the forward KL is sum p log p - sum w log q, and its gradient in the student's logits
W q - w with W = sum w: with E[w] = p it is the live gradient in expectation, at any number of atoms.

Against `Top` both distributions are seen through the same K tokens and one bucket for all others. The student's bucket is the
log-sum-exp of the logits of these others, never 1 - sum: a student that puts mass into the tail is told so. A divergence of the coarse
distributions is at most that of the whole ones (data processing), and the same where K is the vocabulary.

Where the student has not all of the teacher's tokens, the teacher is renormalised over those that both have, as a live one is. This is
exact as far as the missing tokens are listed; what of the tail is theirs is not known, and stays there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from distill.models.precision import exact
from distill.objectives.streamed_next_token import (
    Comparison,
    before_transform,
    cut,
    log_softmax_at,
    through_head,
    tiles,
)
from distill.objectives.streaming import streamed
from distill.signals import HeadTap
from distill.signals.head_logits import LOWEST, Side
from distill.signals.sparse import Atoms, Sparse

SPARSE = ("atoms", "top")  # what a source may give in place of all of a distribution


def check_sparse(next_token: str, captured: float | None, divergence: str, temperature: float) -> None:
    """What a stored next-token signal cannot be compared by is refused.

    Args:
        next_token: `"atoms"` or `"top"`; others can do everything.
        captured: the temperature that the stored probabilities are of.
        divergence, temperature: what is asked for.

    Raises:
        ValueError: atoms with another divergence than the forward KL; another temperature than captured.
    """
    if next_token not in SPARSE:
        return
    if next_token == "atoms" and divergence != "forward_kl":
        raise ValueError(
            f"The stored signals are drawn tokens with weights (encoding 'threshold' or 'draws'), and divergence is {divergence!r}: drawn "
            "weights are the teacher's probabilities in expectation only, which is enough for the forward KL alone. Use "
            "Logits('forward_kl'), or capture with encoding='hidden' (every divergence) or 'top' (every one, coarse in the tail)."
        )
    if temperature != captured:
        raise ValueError(
            f"temperature is {temperature}, and the stored probabilities are those at temperature {captured}: they cannot be had at another "
            f"one without the other logits. Use temperature={captured}, capture again with temperature={temperature}, or capture with "
            "encoding='hidden', which has every temperature."
        )


def sparse_next_token_divergence(
    student: HeadTap, teacher: Sparse, comparison: Comparison, labels: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """factor * divergence + cross_entropy * (-log q[label]) at every supervised row, against a sparse teacher.

    Args:
        student: tap of its head.
        teacher: `Atoms`, for the forward KL alone; or `Top`.
        comparison: what is computed. Tokens beyond `comparison.vocabulary` are not the student's: the teacher is renormalised over
            the others. A row of which nothing is left counts 0.
        labels: `[N]`, needed for cross-entropy.

    Returns:
        `[N]`, in nats times `factor`, with gradient to the student's hidden states, head and bias; and, where it is asked for, the
        cross-entropy `[N]` without gradient. Against atoms a single row may be negative: it is right in expectation.

    Source: random sampling knowledge distillation (Anshumann et al. 2025) for the weighted cross-entropy.
    """
    tap, within = cut(student), _within(teacher, comparison.vocabulary or len(student.weight))
    values, entropy = streamed(
        lambda needed, weights: _value_and_grads(tap, within, comparison, labels, needed, weights),
        (student.hidden, student.weight, student.bias),
    )
    return values, entropy if comparison.cross_entropy else None


def sparse_divergence_of_logits(
    student_logits: Tensor, teacher: Sparse, comparison: Comparison, labels: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The same from the student's own logits `[N, V]`, for a head that is no plain matrix product."""
    vocabulary = comparison.vocabulary or student_logits.shape[1]
    within = _within(teacher, vocabulary)

    def go_through(needed: tuple[bool, ...], row_weights: Tensor | None) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        with torch.no_grad():
            wide = student_logits.detach()[:, :vocabulary]
            wide = wide if wide.dtype == torch.float64 else wide.float()
            values, slope, entropy = _rows(wide.clamp(min=LOWEST), within, comparison, labels, needed[0])
            if slope is None:
                return values, entropy, [None]
            if row_weights is not None:
                slope *= row_weights[:, None]
            full = torch.zeros_like(student_logits)
            full[:, :vocabulary] = slope
            return values, entropy, [full]

    values, entropy = streamed(go_through, (student_logits,))
    return values, entropy if comparison.cross_entropy else None


@dataclass(frozen=True)
class _Top:
    """`Top`, of the student's tokens alone; a column that is `outside` has no mass and repeats another one's token."""

    ids: Tensor
    log_probs: Tensor
    tail: Tensor
    outside: Tensor
    known: Tensor  # whether any of the teacher's mass is the student's to match


def _within(teacher: Sparse, vocabulary: int) -> Atoms | _Top:
    """What of it the student has tokens for, renormalised over these."""
    outside = teacher.ids >= vocabulary
    if isinstance(teacher, Atoms):
        return _atoms_within(teacher, outside, vocabulary)
    log_probs, tail = teacher.log_probs.clamp(min=LOWEST), teacher.tail.clamp(min=LOWEST)
    log_probs = log_probs.masked_fill(outside, LOWEST)
    # all of the student's tokens are listed: nothing of the tail is theirs, and the student's bucket is empty
    tail = tail.masked_fill((~outside).sum(dim=1) >= vocabulary, LOWEST)
    one_inside = teacher.ids.gather(1, outside.int().argmin(dim=1, keepdim=True)).clamp(max=vocabulary - 1)
    whole = torch.logaddexp(log_probs.logsumexp(dim=1), tail)
    return _Top(torch.where(outside, one_inside, teacher.ids), log_probs, tail, outside, whole > LOWEST / 2)


def _atoms_within(teacher: Atoms, outside: Tensor, vocabulary: int) -> Atoms:
    """Weights that sum to what they did, and sum p log p of the tokens that are left.

    Of a token that was drawn, and not kept with its own probability, its weight stands for p in the second: that shifts the value
    by a constant, and no gradient.
    """
    touched, all_ = outside.any(dim=1), exact(teacher.weights)
    weights = all_.masked_fill(outside, 0)
    share = weights.sum(dim=1) / all_.sum(dim=1).clamp(min=1e-30)
    scale = torch.where(share > 0, 1 / share.clamp(min=1e-30), 0)
    gone = all_.masked_fill(~outside, 0)
    # stored in 16 bits, it may come out above 0, as of no distribution
    inside = ((teacher.negentropy - gone.xlogy(gone).sum(dim=1)) * scale + scale.clamp(min=1).log()).clamp(max=0)
    return Atoms(
        teacher.ids.clamp(max=vocabulary - 1),
        torch.where(touched[:, None], scale[:, None] * weights, weights),
        torch.where(touched, torch.where(share > 0, inside, 0), teacher.negentropy),
        teacher.temperature,
    )


def _some(teacher: Atoms | _Top, rows: slice) -> Atoms | _Top:
    if isinstance(teacher, Atoms):
        return Atoms(teacher.ids[rows], teacher.weights[rows], teacher.negentropy[rows], teacher.temperature)
    return _Top(
        teacher.ids[rows], teacher.log_probs[rows], teacher.tail[rows], teacher.outside[rows], teacher.known[rows]
    )


@torch.no_grad()
def _value_and_grads(
    student: HeadTap,
    teacher: "Atoms | _Top",
    comparison: Comparison,
    labels: Tensor | None,
    needed: tuple[bool, ...],
    row_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Values `[N]`, cross-entropies `[N]`, and the gradients of sum(row_weights * values) in hidden, weight, bias."""
    side = Side(student, comparison.vocabulary or len(student.weight))
    exact = torch.float64 if side.dtype == torch.float64 else torch.float32
    values, entropy = (torch.zeros(len(student.hidden), dtype=exact, device=student.hidden.device) for _ in range(2))

    def fill(rows: slice, slopes: Tensor | None) -> None:
        logits = side.logits(rows, slopes)
        for tile in tiles(rows, len(side.weight), values.device.type):
            at = slice(rows.start + tile.start, rows.start + tile.stop)
            ours = side.exact(logits, tile, exact)
            part = None if labels is None else labels[at]
            values[at], slope, entropy[at] = _rows(
                side.transformed(ours), _some(teacher, at), comparison, part, slopes is not None
            )
            if slopes is None or slope is None:
                continue
            if row_weights is not None:
                slope *= row_weights[at, None]
            slopes[tile] = before_transform(slope, ours, side)

    gradients = through_head(side, needed, fill)
    return values, entropy, gradients


def _rows(
    logits: Tensor, teacher: "Atoms | _Top", comparison: Comparison, labels: Tensor | None, wanted: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Values `[n]`, their slopes `[n, V]` in the student's transformed logits if they are wanted, and cross-entropies `[n]`."""
    log_q = log_softmax_at(logits, comparison.temperature)
    entropy, beside = torch.zeros_like(log_q[:, 0]), None
    if comparison.cross_entropy:
        assert labels is not None
        column = labels[:, None]
        own = log_q if comparison.temperature == 1 else logits.log_softmax(dim=-1)
        entropy = -own.gather(1, column).squeeze(1)
        if wanted:
            beside = own.exp().scatter_add_(1, column, own.new_full((), -1.0).expand(column.shape))
    value, slope = (
        _atoms(log_q, teacher, wanted) if isinstance(teacher, Atoms) else _top(log_q, teacher, comparison, wanted)
    )
    value = value * comparison.factor
    if comparison.cross_entropy:
        value = value + comparison.cross_entropy * entropy
    if slope is None:
        return value, None, entropy
    scale = comparison.factor / comparison.temperature
    slope = slope if scale == 1 else slope.mul_(scale)
    return value, slope if beside is None else slope.add_(beside, alpha=comparison.cross_entropy), entropy


def _atoms(log_q: Tensor, teacher: Atoms, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Forward KL against weighted tokens, and its slope W q - w; `log_q` is overwritten."""
    weights = teacher.weights.to(log_q.dtype)
    value = teacher.negentropy.to(log_q.dtype) - (weights * log_q.gather(1, teacher.ids)).sum(dim=1)
    if not wanted:
        return value, None
    slope = log_q.exp_().mul_(weights.sum(dim=1, keepdim=True))
    return value, slope.scatter_add_(1, teacher.ids, -weights)


def _top(log_q: Tensor, teacher: "_Top", comparison: Comparison, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """A divergence of two distributions over the K tokens and the bucket of all others, and its slope over all tokens; `log_q` is overwritten."""
    listed = log_q.gather(1, teacher.ids).masked_fill_(teacher.outside, LOWEST)
    rest = log_q.scatter_(1, teacher.ids, LOWEST)
    bucket = rest.logsumexp(dim=1, keepdim=True)
    both = torch.cat([listed, bucket], dim=1)
    theirs = torch.cat([teacher.log_probs, teacher.tail[:, None]], dim=1).to(log_q.dtype)
    # codes of 16 bits do not sum to 1 to the last digit; nothing leaves the tail by this
    normal = both.log_softmax(dim=1), theirs.log_softmax(dim=1)
    value, slope = comparison.divergence.value_and_grad(*normal, slope=wanted)
    value = value.where(teacher.known, 0)
    if slope is None:
        return value, None
    slope = slope.where(teacher.known[:, None], 0)
    # a bucket's slope falls on its tokens by their share of it
    whole = rest.sub_(bucket).exp_().mul_(slope[:, -1:])
    return value, whole.scatter_add_(1, teacher.ids, slope[:, :-1])
