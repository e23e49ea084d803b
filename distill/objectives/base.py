"""What an objective is: one term of the white-box loss."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from distill.models.students import KEPT_LAYERS, TEACHER_DEPTH
from distill.objectives.schedules import Schedule
from distill.signals import SignalRequest, Signals

LayerMap = str | Mapping[int, int] | Sequence[tuple[int, int]]


class Objective(nn.Module):
    """One term: what it taps, what it compares, its weight. A module, because it may learn a projection.

    Subclasses set `name`, bind themselves to two models (refusing what cannot be had), say what they want tapped, and
    return one number per supervised row. They never reduce: the trainer divides once, by the supervised positions of the
    whole accumulation window.

    Args:
        weight: factor of this term in the loss, 0 or more; or a `Schedule` of it over the steps.

    Raises:
        ValueError: a weight that is negative or not a number.
    """

    name = "objective"
    sharded = False  # set by the trainer before `bind`: weights are whole inside a forward pass only (FSDP, ZeRO)

    def __init__(self, weight: float | Schedule = 1.0) -> None:
        super().__init__()
        if not isinstance(weight, Schedule) and not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"The weight of {type(self).__name__} is {weight}; it must be a number of 0 or more.")
        self.weight = weight

    def weight_at(self, step: int, max_steps: int) -> float:
        """The weight in optimiser step `step` (from 0) of `max_steps`."""
        return self.weight(step, max_steps) if isinstance(self.weight, Schedule) else self.weight

    def bind(self, student: PreTrainedModel, teacher: PreTrainedModel, vocabulary: int | None) -> None:
        """Check that both models can give what is needed, and make projections.

        Args:
            student, teacher: the models.
            vocabulary: number of tokens to compare where the two heads have different sizes; None: all.

        Raises:
            ValueError: something needed cannot be had; names both sides and the way out.
        """
        raise NotImplementedError

    def student_request(self) -> SignalRequest:
        """What is tapped from the student."""
        raise NotImplementedError

    def teacher_request(self) -> SignalRequest:
        """What is tapped from the teacher."""
        raise NotImplementedError

    def forward(self, student: Signals, teacher: Signals) -> Tensor | dict[str, Tensor]:
        """`[N]`: one number per supervised row, in the order of `rows.nonzero()`.

        A dictionary may be returned: under `name` the term, under other names `[N]` each that only the log shows.
        """
        raise NotImplementedError


def resolve_layers(
    layers: LayerMap, student: PreTrainedModel, teacher: PreTrainedModel, *, span_end: bool
) -> list[tuple[int, int]]:
    """Pairs (student layer, teacher layer), 0-based.

    Args:
        layers: `"auto"`: from how the student was cut if it was, else `"even"`; `"even"`: spread over the teacher's depth,
            last to last; `"last"`: the last of each; or explicit, `{student: teacher}`.
        span_end: for a cut student, which teacher layer a student layer answers to. A student layer stands for a teacher
            layer and the dropped ones behind it: True gives the end of that span (right for outputs), False the layer
            its weights came from (right for attention).

    Raises:
        ValueError: an unknown word, or a layer that does not exist.
    """
    n_student = student.config.get_text_config(decoder=True).num_hidden_layers
    n_teacher = teacher.config.get_text_config(decoder=True).num_hidden_layers
    kept = getattr(student.config, KEPT_LAYERS, None)
    depth = getattr(student.config, TEACHER_DEPTH, None)
    if layers == "auto" and kept and len(kept) == n_student and depth == n_teacher:
        ends = [layer - 1 for layer in kept[1:]] + [n_teacher - 1]
        return list(enumerate(ends if span_end else kept))
    if layers in ("auto", "even"):
        if n_student > n_teacher:
            raise ValueError(
                f"The student has {n_student} layers and the teacher {n_teacher}, so layers={layers!r} cannot pair them; "
                "give an explicit map {student layer: teacher layer}."
            )
        return [(i, round((i + 1) * n_teacher / n_student) - 1) for i in range(n_student)]
    if layers == "last":
        return [(n_student - 1, n_teacher - 1)]
    if isinstance(layers, str):
        raise ValueError(
            f"layers is {layers!r}; it must be 'auto', 'even', 'last' or {{student layer: teacher layer}}."
        )
    pairs = list(layers.items() if isinstance(layers, Mapping) else layers)
    for s, t in pairs:
        if not (0 <= s < n_student and 0 <= t < n_teacher):
            raise ValueError(
                f"layers pairs student layer {s} with teacher layer {t}, but the student has layers 0 to {n_student - 1} "
                f"and the teacher 0 to {n_teacher - 1}."
            )
    if not pairs:
        raise ValueError("layers is empty; pair at least one student layer with a teacher layer.")
    return pairs
