"""Match the teacher's attention maps."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.maps import attention_kl
from distill.objectives.base import LayerMap, Objective, resolve_layers
from distill.taps import Signals, Wants, probe_attention


class AttentionMaps(Objective):
    """KL(teacher's map || student's map) at every supervised position, mean over heads and over the paired layers.

    Queries and keys are captured through the attention interface of `transformers`; the models keep their fast attention
    and their outputs do not change.

    Args:
        layers: which pairs; see `distill.objectives.base.resolve_layers`. For a cut student, `"auto"` pairs each student
            layer with the teacher layer its weights came from.
        weight: of this term.

    Raises:
        ValueError: on construction of the trainer: a model whose attention cannot be tapped, or another number of heads.

    Source: MiniLM (Wang et al. 2020).

    Example:
        >>> AttentionMaps(layers="last", weight=0.1)
    """

    name = "attention"

    def __init__(self, layers: LayerMap = "auto", *, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.layers = layers
        self.pairs: list[tuple[int, int]] = []

    def bind(self, student: PreTrainedModel, teacher: PreTrainedModel, vocabulary: int | None) -> None:
        self.pairs = resolve_layers(self.layers, student, teacher, span_end=False)
        student_taps = probe_attention(student, self.student_wants().attention)
        teacher_taps = probe_attention(teacher, self.teacher_wants().attention)
        for s, t in self.pairs:
            heads = student_taps[s].query.shape[1], teacher_taps[t].query.shape[1]
            if heads[0] != heads[1]:
                raise ValueError(
                    f"Student layer {s} has {heads[0]} attention heads and teacher layer {t} has {heads[1]}, so their maps "
                    "cannot be compared head by head; use HiddenStates, or a student with as many heads."
                )

    def student_wants(self) -> Wants:
        return Wants(attention=frozenset(s for s, _ in self.pairs))

    def teacher_wants(self) -> Wants:
        return Wants(attention=frozenset(t for _, t in self.pairs))

    def forward(self, student: Signals, teacher: Signals) -> Tensor:
        rows = student.rows
        return torch.stack(
            [attention_kl(student.attention[s], teacher.attention[t], rows) for s, t in self.pairs]
        ).mean(0)
