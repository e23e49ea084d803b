"""Match the teacher's next-token distributions."""

import math
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.utils import logging

from distill.objectives import divergences
from distill.objectives.aligned_next_token import (
    Columns,
    aligned_next_token_divergence,
    head_size,
    top_in_students_tokens,
)
from distill.objectives.base import Objective, Term
from distill.objectives.sparse_next_token import (
    SPARSE,
    check_sparse,
    sparse_divergence_of_logits,
    sparse_next_token_divergence,
)
from distill.objectives.streamed_next_token import Comparison, next_token_divergence
from distill.objectives.streaming import made_of
from distill.signals import LogitTransform, MixedHead, SignalRequest, Signals, facts_of
from distill.signals.facts import Side
from distill.signals.head_logits import LOWEST
from distill.signals.sparse import Top
from distill.text.alignment import SharedTokens, shared_tokens
from distill.text.token_bytes import TokenBytes

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
        tokens: `"same"`: student and teacher have one vocabulary. `"aligned"`: they have two tokenizers. Then positions are compared where one
            token of each covers the same bytes of the completion (`distill.text.alignment`), over the tokens that both know by their bytes and one
            bucket a side for all others (`distill.objectives.aligned_next_token`). Other positions count 0, and are divided by as all are;
            cross-entropy is of every position. The log shows `aligned`, the share of positions that are compared.
        least_aligned: with `"aligned"`: a training in which fewer positions align is refused.
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
    tokens: str = "same"
    least_aligned: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature is {self.temperature}; it must be above 0.")
        if not (math.isfinite(self.cross_entropy) and self.cross_entropy >= 0):
            raise ValueError(
                f"cross_entropy is {self.cross_entropy}; it is a weight and must be a number of 0 or more."
            )
        if self.tokens not in ("same", "aligned"):
            raise ValueError(
                f"tokens is {self.tokens!r}; it must be 'same' (one vocabulary) or 'aligned' (two tokenizers)."
            )
        if not 0 <= self.least_aligned <= 1:
            raise ValueError(f"least_aligned is {self.least_aligned}; it is a share of positions, between 0 and 1.")
        divergences.by_name(self.divergence, beta=self.beta, skew=self.skew)

    def bind(
        self,
        student: Side,
        teacher: Side,
        *,
        vocabulary: int | None = None,
        whole_weights: bool = True,
        longest: int | None = None,
        shared: SharedTokens | None = None,
    ) -> "LogitsTerm":
        """See `Objective.bind`; `shared`: the tokens that both tokenizers know, for `tokens="aligned"`; None: they are looked for."""
        facts = facts_of(teacher)
        check_sparse(facts.next_token, facts.temperature, self.divergence, self.temperature)
        if self.tokens == "same":
            shared = None
        else:
            if facts.next_token == "atoms":
                raise ValueError(
                    "The stored signals are drawn tokens with weights (encoding 'threshold' or 'draws'), and tokens='aligned' needs the mass of what "
                    "the student has no token for: capture with encoding='hidden' (exact) or 'top'."
                )
            shared = _shared(student, teacher) if shared is None else shared
        ours, theirs = (facts_of(side).transform() if whole_weights else None for side in (student, teacher))
        if facts.next_token in SPARSE:
            return LogitsTerm(self, vocabulary, (ours, None), sparse=True, shared=shared)
        if ours is not None and theirs is not None:
            return LogitsTerm(self, vocabulary, (ours, theirs), shared=shared)
        logger.warning_once(
            "Logits uses the models' own logits of all supervised rows at once, which takes more memory: "
            + (
                "a head is not a plain matrix product whose result is scaled or capped (an adapter on it? 8 bit?)."
                if whole_weights
                else "sharded weights are whole only inside the model."
            )
        )
        return LogitsTerm(self, vocabulary, shared=shared)


def _shared(student: Side, teacher: Side) -> SharedTokens:
    """The tokens that both tokenizers know, these looked for where the models came from."""
    found = [facts_of(side).find_tokenizer() for side in (student, teacher)]
    ours, theirs = found
    if ours is None or theirs is None:
        whose = " and ".join(name for name, one in zip(("student", "teacher"), found, strict=True) if one is None)
        raise ValueError(
            f"tokens='aligned' pairs the tokens of two tokenizers, and that of the {whose} is not known. Give processing_class= and "
            "teacher=LocalTeacher(model, tokenizer)."
        )
    return shared_tokens(TokenBytes(ours), TokenBytes(theirs))


class LogitsTerm(Term):
    """`Logits`, bound.

    Args:
        objective: its settings.
        vocabulary: compare this many first tokens; None: all.
        transforms: what student and teacher do to their logits; None: take the models' own logits.
        sparse: the teacher gives a few tokens of each distribution; None in place of the student's transform: take its own logits.
        shared: the tokens that both know, where the tokenizers are two; None: they are one.
    """

    objective: Logits

    def __init__(
        self,
        objective: Logits,
        vocabulary: int | None = None,
        transforms: tuple[LogitTransform | None, LogitTransform | None] | None = None,
        sparse: bool = False,
        shared: SharedTokens | None = None,
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
        self.shared, self._columns = shared, dict[torch.device, Columns]()
        self.decided = {"vocabulary": vocabulary, "heads": transforms}
        if shared is not None:
            self.decided["aligned"] = shared.described()

    def forward(self, student: Signals, teacher: Signals) -> Tensor | dict[str, Tensor]:
        own = self.objective
        comparison = Comparison(self.divergence, own.temperature, self.factor, own.cross_entropy, self.vocabulary)
        aligned = None
        if self.shared is not None:
            rows, entropy, aligned = self._aligned(student, teacher, comparison, self.shared)
        elif teacher.sparse is not None:
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
        prefix = "" if own.name == own.kind else f"{own.name}_"
        shown = {own.name: rows} if aligned is None else {own.name: rows, f"{prefix}aligned": aligned}
        if entropy is None:
            return rows if aligned is None else shown
        entropy = entropy.detach()
        return shown | {
            f"{prefix}divergence": rows.detach() - own.cross_entropy * entropy,
            f"{prefix}cross_entropy": entropy,
        }

    def _aligned(
        self, student: Signals, teacher: Signals, comparison: Comparison, shared: SharedTokens
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Of all N rows: values, cross-entropies, and 1 where the teacher has the same position."""
        assert teacher.aligned is not None, "whoever aligns the batch says which rows are the same"
        ours: Any = student.head
        theirs: Any = teacher.mixed or teacher.head
        if ours is None or (theirs is None and teacher.sparse is None):
            ours, theirs = student.logits, teacher.logits
        order, places = teacher.aligned
        count, known = len(order), len(places)
        if not comparison.cross_entropy:
            order = order[:known]  # no other row has anything to say
        mine = _some_rows(ours, order)
        labels = None if student.labels is None else student.labels.index_select(0, order)
        if teacher.sparse is not None:
            assert isinstance(teacher.sparse, Top)
            there = teacher.sparse.ids
            columns = self._on(there.device, shared, head_size(ours), max(shared.sizes[1], 1))
            top = _padded(top_in_students_tokens(teacher.sparse, columns), places, len(order))
            compare = sparse_divergence_of_logits if isinstance(mine, Tensor) else sparse_next_token_divergence
            values, entropy = compare(mine, top, comparison, labels)
        else:
            columns = self._on(order.device, shared, head_size(ours), head_size(theirs))
            values, entropy = aligned_next_token_divergence(
                mine, _some_rows(theirs, places), comparison, columns, labels
            )
        rows = values.new_zeros(count).index_copy(0, order, values)
        made_of(rows, [values])
        if entropy is not None:
            entropy = entropy.new_zeros(count).index_copy_(0, order, entropy)
        return rows, entropy, values.detach().new_zeros(count).index_fill_(0, order[:known], 1.0)

    def _on(self, device: torch.device, shared: SharedTokens, student: int, teacher: int) -> Columns:
        if device not in self._columns:
            self._columns[device] = Columns.of(shared, student, teacher, device)
        return self._columns[device]


def _some_rows(signal: Any, index: Tensor) -> Any:
    """Some rows of a head's tap, of a mixture of them, or of logits."""
    if isinstance(signal, Tensor):
        return signal.index_select(0, index)
    if isinstance(signal, MixedHead):
        return replace(signal, heads=tuple(_some_rows(head, index) for head in signal.heads))
    return replace(signal, hidden=signal.hidden.index_select(0, index))


def _padded(top: Top, places: Tensor, count: int) -> Top:
    """These rows of it, and behind them rows that say nothing, up to so many."""
    more = count - len(places)
    ids = torch.cat([top.ids.index_select(0, places), top.ids.new_zeros((more, top.ids.shape[1]))])
    log_probs = top.log_probs.index_select(0, places)
    log_probs = torch.cat([log_probs, log_probs.new_full((more, log_probs.shape[1]), LOWEST)])
    tail = top.tail.index_select(0, places)
    return Top(ids, log_probs, torch.cat([tail, tail.new_full((more,), LOWEST)]), top.temperature)
