"""Match the teacher's next-token distributions."""

from torch import Tensor
from transformers import PreTrainedModel

from distill import divergences
from distill.objectives.base import Objective
from distill.taps import Signals, Wants


class Logits(Objective):
    """Divergence between the next-token distributions of student and teacher at every supervised position.

    Args:
        divergence: `"forward_kl"`, `"reverse_kl"` or `"generalized_jsd"`; see `distill.divergences`.
        temperature: divides the logits of both sides, above 0.
        t_squared: multiply by temperature^2, in value and gradient, so that the gradient keeps its size when the
            temperature is raised (Hinton et al. 2015). The logged value carries the factor too.
        beta: mixture weight of `"generalized_jsd"` (0.5 if not given).
        weight: of this term.

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
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be above 0.")
        self.divergence = divergences.by_name(divergence, beta=beta)
        self.temperature = temperature
        self.factor = temperature**2 if t_squared else 1.0
        self.vocabulary: int | None = None

    def bind(self, student: PreTrainedModel, teacher: PreTrainedModel, vocabulary: int | None) -> None:
        self.vocabulary = vocabulary

    def student_wants(self) -> Wants:
        return Wants(logits=True)

    def teacher_wants(self) -> Wants:
        return Wants(logits=True)

    def forward(self, student: Signals, teacher: Signals) -> Tensor:
        assert student.logits is not None
        assert teacher.logits is not None
        # Heads of one family may be padded to different sizes. The slots beyond the real tokens are cut off on both
        # sides, which is the same as a logit of -inf: no probability ever goes there.
        rows = self.divergence(
            student.logits[:, : self.vocabulary], teacher.logits[:, : self.vocabulary], temperature=self.temperature
        )
        return rows * self.factor
