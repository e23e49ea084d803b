"""Match the teacher's next-token distributions."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from torch import Tensor
from transformers.utils import logging

from distill.objectives import divergences
from distill.objectives.base import Objective, Term
from distill.objectives.sparse_next_token import (
    SPARSE,
    check_sparse,
    sparse_divergence_of_logits,
    sparse_next_token_divergence,
)
from distill.objectives.streamed_next_token import Comparison, next_token_divergence
from distill.signals import LogitTransform, SignalRequest, Signals, facts_of
from distill.signals.facts import Side

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Logits(Objective):
    """Divergence between the next-token distributions of student and teacher at every supervised position.

    The logits of both models are made in chunks, at the supervised rows only, and forgotten (`distill.objectives`). Where the head
    of one of the models is not a plain matrix product followed by a scale or softcap (an adapter on it, 8 bit), the models'
    own logits are used: the same numbers, with more memory. So it is under FSDP1 and DeepSpeed.

    Args:
        divergence: one of `distill.objectives.divergences.NAMES`.
        temperature: divides the logits of both sides, above 0.
        t_squared: multiply by temperature^2, in value and gradient, so that the gradient keeps its size when the
            temperature is raised (Hinton et al. 2015). The logged value carries the factor too.
        beta: of `"generalized_jsd"` and `"scaled_jsd"` (0.5 if not given).
        skew: of `"skew_forward_kl"` and `"skew_reverse_kl"` (0.1 if not given).
        cross_entropy: weight of cross-entropy on the labels (at temperature 1), added to the divergence. The log then shows
            `divergence` and `cross_entropy` by themselves, and their sum as `logits` (under another name: `NAME_divergence`, ...).
        weight, name: of this term; see `Objective`.

    Raises:
        ValueError: an unknown divergence, or a value out of range.

    Source: Hinton, Vinyals, Dean 2015.

    Example:
        >>> Logits("forward_kl", temperature=2.0)
    """

    kind: ClassVar[str] = "logits"

    divergence: str = "forward_kl"
    _: KW_ONLY
    temperature: float = 1.0
    t_squared: bool = True
    beta: float | None = None
    skew: float | None = None
    cross_entropy: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature is {self.temperature}; it must be above 0.")
        if not (math.isfinite(self.cross_entropy) and self.cross_entropy >= 0):
            raise ValueError(
                f"cross_entropy is {self.cross_entropy}; it is a weight and must be a number of 0 or more."
            )
        divergences.by_name(self.divergence, beta=self.beta, skew=self.skew)

    def bind(
        self,
        student: Side,
        teacher: Side,
        *,
        vocabulary: int | None = None,
        whole_weights: bool = True,
        longest: int | None = None,
    ) -> "LogitsTerm":
        """See `Objective.bind`."""
        facts = facts_of(teacher)
        check_sparse(facts.next_token, facts.temperature, self.divergence, self.temperature)
        ours, theirs = (facts_of(side).transform() if whole_weights else None for side in (student, teacher))
        if facts.next_token in SPARSE:
            return LogitsTerm(self, vocabulary, (ours, None), sparse=True)
        if ours is not None and theirs is not None:
            return LogitsTerm(self, vocabulary, (ours, theirs))
        logger.warning_once(
            "Logits uses the models' own logits of all supervised rows at once, which takes more memory: "
            + (
                "a head is not a plain matrix product whose result is scaled or capped (an adapter on it? 8 bit?)."
                if whole_weights
                else "sharded weights are whole only inside the model."
            )
        )
        return LogitsTerm(self, vocabulary)


class LogitsTerm(Term):
    """`Logits`, bound.

    Args:
        objective: its settings.
        vocabulary: compare this many first tokens; None: all.
        transforms: what student and teacher do to their logits; None: take the models' own logits.
        sparse: the teacher gives a few tokens of each distribution; None in place of the student's transform: take its own logits.
    """

    objective: Logits

    def __init__(
        self,
        objective: Logits,
        vocabulary: int | None = None,
        transforms: tuple[LogitTransform | None, LogitTransform | None] | None = None,
        sparse: bool = False,
    ) -> None:
        super().__init__(objective)
        self.vocabulary, self.transforms = vocabulary, transforms
        self.divergence = divergences.by_name(objective.divergence, beta=objective.beta, skew=objective.skew)
        self.factor = objective.temperature**2 if objective.t_squared else 1.0
        self.student_request, self.teacher_request = (
            SignalRequest(logits=True) if one is None else SignalRequest(head=one) for one in transforms or (None, None)
        )
        if sparse:
            self.teacher_request = SignalRequest()  # it has one thing to give
        self.decided = {"vocabulary": vocabulary, "heads": transforms}

    def forward(self, student: Signals, teacher: Signals) -> Tensor | dict[str, Tensor]:
        own = self.objective
        comparison = Comparison(self.divergence, own.temperature, self.factor, own.cross_entropy, self.vocabulary)
        if teacher.sparse is not None:
            if student.head is not None:
                rows, entropy = sparse_next_token_divergence(student.head, teacher.sparse, comparison, student.labels)
            else:
                assert student.logits is not None
                rows, entropy = sparse_divergence_of_logits(student.logits, teacher.sparse, comparison, student.labels)
        else:
            ours, theirs = student.head, teacher.mixed or teacher.head
            if ours is None or theirs is None:
                # Heads of one family may be padded to different sizes. The slots beyond the real tokens are cut off on both
                # sides, which is the same as a logit of -inf: no probability ever goes there.
                assert student.logits is not None
                assert teacher.logits is not None
                rows, entropy = next_token_divergence(student.logits, teacher.logits, comparison, student.labels)
            else:
                rows, entropy = next_token_divergence(ours, theirs, comparison, student.labels)
        if entropy is None:
            return rows
        entropy, prefix = entropy.detach(), "" if own.name == own.kind else f"{own.name}_"
        return {
            own.name: rows,
            f"{prefix}divergence": rows.detach() - own.cross_entropy * entropy,
            f"{prefix}cross_entropy": entropy,
        }
