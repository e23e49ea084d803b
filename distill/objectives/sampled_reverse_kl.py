"""Sampled reverse KL: of each distribution only the token that the student drew, as a policy gradient.

For y drawn from the student q, log q(y) - log p(y) is the reverse KL in expectation. Its *derivative* is not the derivative of the KL: what is drawn
depends on q, too. Differentiated as they stand (Schulman 2020 named them as values), k1 = log q - log p has a gradient whose expectation is
zero, k2 = (log q - log p)^2 / 2 has that of the reverse KL, and k3 = p/q - 1 - log p/q has that of the **forward** KL. Here the gradient is that of the score
function, (log q(y) - log p(y)) times the gradient of log q(y): summed over the tokens of what was written, that of the reverse KL in expectation, held against the sum
over all that a tiny student can write. A trainer divides the sum of a step by its tokens, whose number the same draws decide: each step's gradient is the right one times a
factor that varies with how much was written, and its mean is off by a share that falls with the rows of a step.
"""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from distill.models.precision import exact, exact_on
from distill.objectives.aligned_next_token import head_size
from distill.objectives.base import Objective, Term
from distill.objectives.divergences import by_name
from distill.objectives.sparse_next_token import sparse_divergence_of_logits, sparse_next_token_divergence
from distill.objectives.streamed_next_token import Comparison
from distill.signals import LogitTransform, MixedHead, SignalRequest, Signals, facts_of
from distill.signals.facts import Side
from distill.signals.rows import SupervisedRows
from distill.signals.sparse import Atoms, Top


@dataclass(frozen=True)
class SampledReverseKL(Objective):
    """Reverse KL on the student's own text, from the one token drawn at each position.

    Wherever the teacher runs here, `Logits("reverse_kl")` has on each text the mean of this gradient over the tokens that could have been drawn there, without the noise and for the same
    forward passes: take that.
    This one is for the comparison, for teachers that say little more than the probability of a given token, and, with `discount`, for the gradient of the
    whole sequence's KL. Rows must be drawn from the student as it is: `Rollouts` at share 1 and temperature 1.

    Args:
        discount: how much of the terms of later tokens counts at a token. 0: each token by its own (the mean of the per-position reverse
            KL on the student's text, its prefixes taken as given; as in Lu et al. 2025). 1: the gradient of the KL between whole sequences, with far
            more noise.
        weight, name: of this term; see `Objective`.

    Raises:
        ValueError: a discount out of range.

    Source: score function (Williams 1992); estimators k1, k2, k3 as values: Schulman 2020.

    Example:
        >>> WhiteBoxTrainer(..., objectives=[SampledReverseKL()], rollouts=Rollouts(max_new_tokens=128))
    """

    kind: ClassVar[str] = "sampled_reverse_kl"
    of_own_text: ClassVar[bool] = True

    _: KW_ONLY
    discount: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.discount <= 1:
            raise ValueError(
                f"discount is {self.discount}; it is what a later token counts at an earlier one, from 0 to 1."
            )

    def bind(
        self,
        student: Side,
        teacher: Side,
        *,
        vocabulary: int | None = None,
        whole_weights: bool = True,
        longest: int | None = None,
    ) -> "SampledReverseKLTerm":
        """See `Objective.bind`."""
        facts = facts_of(teacher)
        if facts.next_token == "atoms":
            raise ValueError(
                "The teacher's signals are drawn tokens with weights (encoding 'threshold' or 'draws'), which do not say how likely the written token is; "
                "give a teacher that runs here, or a ServedTeacher, into whose likeliest tokens the written one is forced."
            )
        if facts.next_token == "top" and facts.temperature != 1:
            raise ValueError(
                f"The teacher's probabilities are those at temperature {facts.temperature}; the text is drawn at temperature 1, and so must they be."
            )
        ours, theirs = (facts_of(side).transform() if whole_weights else None for side in (student, teacher))
        return SampledReverseKLTerm(self, vocabulary, ours, theirs, sparse=facts.next_token == "top")


class SampledReverseKLTerm(Term):
    """`SampledReverseKL`, bound.

    Args:
        objective: its settings.
        vocabulary: compare this many first tokens; None: all.
        ours, theirs: what student and teacher do to their logits; None: take the models' own.
        sparse: the teacher gives its likeliest tokens alone.
    """

    objective: SampledReverseKL

    def __init__(
        self,
        objective: SampledReverseKL,
        vocabulary: int | None,
        ours: LogitTransform | None,
        theirs: LogitTransform | None,
        sparse: bool = False,
    ) -> None:
        super().__init__(objective)
        self.vocabulary = vocabulary
        self.student_request, self.teacher_request = (
            SignalRequest(logits=True) if one is None else SignalRequest(head=one) for one in (ours, theirs)
        )
        if sparse:
            self.teacher_request = SignalRequest()  # it has one thing to give
        self.decided = {"vocabulary": vocabulary, "heads": (ours, theirs)}

    def forward(self, student: Signals, teacher: Signals) -> Tensor:
        """Values are log q - log p of each token, whose mean is the KL; the gradient is the policy's. In evaluation mode (an evaluation is on the pairs,
        which the student did not write) they are log p - log q: of a teacher's text the mean is the forward KL."""
        tokens = student.labels
        assert tokens is not None
        with torch.no_grad():
            ours: Any = student.head if student.head is not None else student.logits
            log_p = _log_probabilities_of_teacher(teacher, tokens, self.vocabulary or head_size(ours))
        log_q = -_surprise(ours, tokens, self.vocabulary)
        reward = log_q.detach() - log_p.to(log_q)
        if not self.training:
            return -reward
        advantage = _to_go(reward, student.where(), self.objective.discount)
        return reward + advantage * (log_q - log_q.detach())


def _surprise(signal: Any, tokens: Tensor, vocabulary: int | None) -> Tensor:
    """`[N]`: -log q of each token, streamed over the head, over so many first tokens; the KL to the distribution that has all of its mass there."""
    vocabulary = None if vocabulary is None else min(vocabulary, head_size(signal))
    weights = torch.ones((len(tokens), 1), dtype=torch.float32, device=tokens.device)
    point = Atoms(tokens[:, None], weights, torch.zeros_like(weights[:, 0]))
    comparison = Comparison(by_name("forward_kl"), vocabulary=vocabulary)
    compare = sparse_divergence_of_logits if isinstance(signal, Tensor) else sparse_next_token_divergence
    return compare(signal, point, comparison)[0]


def _log_probabilities_of_teacher(teacher: Signals, tokens: Tensor, vocabulary: int) -> Tensor:
    """`[N]`: what the teacher says of each token, over the tokens that the student has."""
    if isinstance(teacher.sparse, Top):
        there = teacher.sparse.ids == tokens[:, None]
        # without this wait a token that is missing would count as impossible
        if len(lacking := (~there.any(dim=1)).nonzero()):
            raise ValueError(
                f"The teacher says nothing of the written token {int(tokens[lacking[0, 0]])} (row {int(lacking[0, 0])} of {len(tokens)} supervised ones); "
                "it has to be among the tokens it gives."
            )
        listed = teacher.sparse.log_probs
        outside = teacher.sparse.ids >= vocabulary  # as everywhere, renormalised over the tokens that both have
        whole = torch.logaddexp(listed.masked_fill(outside, -math.inf).logsumexp(dim=1), teacher.sparse.tail)
        return listed.masked_fill(~there, 0).sum(dim=1) - whole
    if isinstance(teacher.mixed, MixedHead):
        parts = zip(teacher.mixed.heads, teacher.mixed.log_weights, strict=True)
        return torch.stack([weight - _surprise(head, tokens, vocabulary) for head, weight in parts]).logsumexp(dim=0)
    return -_surprise(teacher.head if teacher.head is not None else teacher.logits, tokens, vocabulary)


def _to_go(reward: Tensor, where: SupervisedRows, discount: float) -> Tensor:
    """`[N]`: each token's own term and, discounted, those of the later ones of its row."""
    if discount == 0 or not len(reward):
        return reward
    counts = where.counts()
    longest = max(counts)
    row = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    place = torch.cat([torch.arange(count) for count in counts])
    laid = reward.new_zeros((len(counts), longest), dtype=exact_on(reward.device))
    at = (row.to(reward.device), place.to(reward.device))
    laid[at] = exact(reward)
    steps = torch.arange(longest, device=reward.device)
    behind = (steps[:, None] - steps[None, :]).clamp(min=0).to(laid.dtype)
    share = torch.where(steps[:, None] >= steps[None, :], discount**behind, 0)  # [later, earlier]
    return (laid @ share)[at].to(reward)
