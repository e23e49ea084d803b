"""Match the teacher's next-token distributions."""

import math

from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel
from transformers.utils import logging

from distill.objectives import divergences
from distill.objectives.base import Objective
from distill.objectives.schedules import Schedule
from distill.objectives.streamed_next_token import Comparison, next_token_divergence
from distill.signals import LogitTransform, SignalRequest, Signals, probe_head

logger = logging.get_logger(__name__)


class Logits(Objective):
    """Divergence between the next-token distributions of student and teacher at every supervised position.

    The logits of both models are made in chunks, at the supervised rows only, and forgotten (`distill.objectives`). Where the head
    of one of the models is not a plain matrix product followed by a scale or softcap (an adapter on it, 8 bit), the models'
    own logits are used: the same numbers, with more memory. So it is under FSDP1 and DeepSpeed.

    Args:
        divergence: one of `distill.divergences.NAMES`.
        temperature: divides the logits of both sides, above 0.
        t_squared: multiply by temperature^2, in value and gradient, so that the gradient keeps its size when the
            temperature is raised (Hinton et al. 2015). The logged value carries the factor too.
        beta: of `"generalized_jsd"` and `"scaled_jsd"` (0.5 if not given).
        skew: of `"skew_forward_kl"` and `"skew_reverse_kl"` (0.1 if not given).
        cross_entropy: weight of cross-entropy on the labels (at temperature 1), added to the divergence. The log then shows
            `divergence` and `cross_entropy` by themselves, and their sum as `logits`.
        weight: of this term; a number or a `Schedule`.

    Raises:
        ValueError: an unknown divergence, or a value out of range.

    Source: Hinton, Vinyals, Dean 2015.

    Example:
        >>> Logits("forward_kl", temperature=2.0)
    """

    name = "logits"

    def __init__(
        self,
        divergence: str = "forward_kl",
        *,
        temperature: float = 1.0,
        t_squared: bool = True,
        beta: float | None = None,
        skew: float | None = None,
        cross_entropy: float = 0.0,
        weight: float | Schedule = 1.0,
    ) -> None:
        super().__init__(weight)
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"temperature is {temperature}; it must be above 0.")
        if not (math.isfinite(cross_entropy) and cross_entropy >= 0):
            raise ValueError(f"cross_entropy is {cross_entropy}; it is a weight and must be a number of 0 or more.")
        self.divergence = divergences.by_name(divergence, beta=beta, skew=skew)
        self.temperature = temperature
        self.factor = temperature**2 if t_squared else 1.0
        self.cross_entropy = cross_entropy
        self.vocabulary: int | None = None
        self.heads: tuple[LogitTransform, LogitTransform] | None = None

    def bind(self, student: PreTrainedModel, teacher: PreTrainedModel, vocabulary: int | None) -> None:
        self.vocabulary = vocabulary
        heads = [None if self.sharded else probe_head(model) for model in (student, teacher)]
        self.heads = None
        if heads[0] is not None and heads[1] is not None:
            self.heads = heads[0], heads[1]
        else:
            logger.warning_once(
                "Logits uses the models' own logits of all supervised rows at once, which takes more memory: "
                + (
                    "sharded weights are whole only inside the model."
                    if self.sharded
                    else "a head is not a plain matrix product whose result is scaled or capped (an adapter on it? 8 bit?)."
                )
            )

    def student_request(self) -> SignalRequest:
        return SignalRequest(logits=True) if self.heads is None else SignalRequest(head=self.heads[0])

    def teacher_request(self) -> SignalRequest:
        return SignalRequest(logits=True) if self.heads is None else SignalRequest(head=self.heads[1])

    def forward(self, student: Signals, teacher: Signals) -> Tensor | dict[str, Tensor]:
        if student.head is not None and teacher.head is not None:
            comparison = Comparison(self.divergence, self.temperature, self.factor, self.cross_entropy, self.vocabulary)
            rows, entropy = next_token_divergence(student.head, teacher.head, comparison, student.labels)
        else:
            rows, entropy = self._from_logits(student, teacher)
        if entropy is None:
            return rows
        entropy = entropy.detach()
        return {self.name: rows, "divergence": rows.detach() - self.cross_entropy * entropy, "cross_entropy": entropy}

    def _from_logits(self, student: Signals, teacher: Signals) -> tuple[Tensor, Tensor | None]:
        assert student.logits is not None
        assert teacher.logits is not None
        # Heads of one family may be padded to different sizes. The slots beyond the real tokens are cut off on both
        # sides, which is the same as a logit of -inf: no probability ever goes there.
        ours, theirs = student.logits[:, : self.vocabulary], teacher.logits[:, : self.vocabulary]
        rows = self.divergence(ours, theirs, temperature=self.temperature) * self.factor
        if not self.cross_entropy:
            return rows, None
        assert student.labels is not None
        entropy = cross_entropy(divergences.wide(ours), student.labels, reduction="none")
        return rows + self.cross_entropy * entropy, entropy
