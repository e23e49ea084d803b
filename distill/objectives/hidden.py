"""Match the teacher's hidden states."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill.objectives.base import LayerMap, Objective, resolve_layers
from distill.taps import Signals, Wants


class HiddenStates(Objective):
    """Distance between layer outputs of student and teacher at every supervised position, mean over the paired layers.

    Args:
        layers: which pairs; see `distill.objectives.base.resolve_layers`. For a cut student, `"auto"` pairs each student
            layer with the last teacher layer it stands for.
        distance: `"mse"`: squared distance over the teacher's squared norm, ||s - t||^2 / ||t||^2; `"cosine"`: 1 - cos.
        projection: a learned linear map from the student's width to the teacher's, one a pair. `None`: only if the widths
            differ. It trains with the student and is saved in checkpoints beside it, never inside it.
        weight: of this term.

    Raises:
        ValueError: an unknown distance or layer; `projection=False` with different widths.

    Source: FitNets (Romero et al. 2015), TinyBERT (Jiao et al. 2020); cosine as in DistilBERT (Sanh et al. 2019).

    Example:
        >>> HiddenStates(layers="last", distance="cosine", weight=0.1)
    """

    name = "hidden"

    def __init__(
        self,
        layers: LayerMap = "auto",
        *,
        distance: str = "mse",
        projection: bool | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        if distance not in ("mse", "cosine"):
            raise ValueError(f"distance is {distance!r}; it must be 'mse' or 'cosine'.")
        self.layers, self.distance, self.projection = layers, distance, projection
        self.pairs: list[tuple[int, int]] = []
        self.projections = nn.ModuleDict()

    def bind(self, student: PreTrainedModel, teacher: PreTrainedModel, vocabulary: int | None) -> None:
        self.pairs = resolve_layers(self.layers, student, teacher, span_end=True)
        width, target = (m.config.get_text_config(decoder=True).hidden_size for m in (student, teacher))
        if self.projection is False and width != target:
            raise ValueError(
                f"The student is {width} wide and the teacher {target}, so hidden states need a projection; "
                "leave projection=None."
            )
        self.projections = nn.ModuleDict()
        if self.projection or width != target:
            for s, t in self.pairs:
                linear = nn.Linear(width, target, bias=False, device=student.device)  # float32, as its optimiser state
                nn.init.orthogonal_(linear.weight)
                self.projections[f"{s}_{t}"] = linear

    def student_wants(self) -> Wants:
        return Wants(hidden=frozenset(s for s, _ in self.pairs))

    def teacher_wants(self) -> Wants:
        return Wants(hidden=frozenset(t for _, t in self.pairs))

    def forward(self, student: Signals, teacher: Signals) -> Tensor:
        return torch.stack(
            [self._distance(student.hidden[s], teacher.hidden[t], f"{s}_{t}") for s, t in self.pairs]
        ).mean(0)

    def _distance(self, student: Tensor, teacher: Tensor, key: str) -> Tensor:
        student, teacher = student.float(), teacher.float()
        if key in self.projections:
            student = self.projections[key](student)
        if self.distance == "cosine":
            return 1 - nn.functional.cosine_similarity(student, teacher, dim=-1)
        # relative to the teacher's norm, which grows a hundredfold with depth: every layer counts alike
        return (student - teacher).square().sum(-1) / teacher.square().sum(-1).clamp(min=1e-12)
