"""What an objective is: the settings of one term of the white-box loss; and what a term is: an objective bound to two models."""

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from distill.models.students import KEPT_LAYERS, TEACHER_DEPTH
from distill.objectives.schedules import Schedule
from distill.signals import SignalRequest, Signals
from distill.signals.facts import Side

LayerMap = str | Mapping[int, int] | Sequence[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One term of the loss, as settings that never change: what is compared, how, and with which weight.

    One objective may be given to several trainers: what depends on the models is in the `Term` that `bind` returns. Subclasses
    are frozen dataclasses, too; they name their `kind` and write `bind`.

    Args:
        weight: factor of this term in the loss, 0 or more; or a `Schedule` of it over the steps.
        name: what it is called in logs and checkpoints; its kind by default. Two objectives of one kind need two names.

    Raises:
        ValueError: a weight that is negative or not a number; a name that could not stand in a log or a file.
    """

    kind: ClassVar[str] = "objective"
    of_own_text: ClassVar[bool] = False  # its gradient is right on what the student has drawn, and on nothing else

    weight: float | Schedule = 1.0
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.weight, Schedule) and not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"The weight of {type(self).__name__} is {self.weight}; it must be a number of 0 or more.")
        if not self.name:
            object.__setattr__(self, "name", self.kind)
        if not re.fullmatch(r"[A-Za-z]\w*", self.name) or self.name in _TAKEN:
            raise ValueError(
                f"The name of {type(self).__name__} is {self.name!r}; it must be a word of letters, digits and _ that logs do not use "
                f"for something else ({', '.join(_TAKEN)})."
            )

    def weight_at(self, step: int, max_steps: int) -> float:
        """The weight in optimiser step `step` (from 0) of `max_steps`."""
        return self.weight(step, max_steps) if isinstance(self.weight, Schedule) else self.weight

    def bind(
        self,
        student: Side,
        teacher: Side,
        *,
        vocabulary: int | None = None,
        whole_weights: bool = True,
        longest: int | None = None,
    ) -> "Term":
        """Check that both sides can give what is needed; what runs is returned, with new projections if it has any.

        Args:
            student, teacher: facts of both sides (`distill.signals.facts`): a teacher need not be a model that is here. Ours also take
                models.
            vocabulary: number of tokens to compare where the two heads have different sizes; None: all.
            whole_weights: whether weights can be read outside of a forward pass (not so under FSDP1 and ZeRO 3).
            longest: tokens of the longest row that is known to come, with its padding; None: not known.

        Raises:
            ValueError: something needed cannot be had; names both sides and the way out.
        """
        raise NotImplementedError


# by Trainer's logs and ours, in training or evaluation
_TAKEN = (
    "loss", "rows", "epoch", "step", "learning_rate", "grad_norm", "runtime", "samples_per_second", "steps_per_second",
    "num_input_tokens_seen", "total_flos", "student_tokens_per_second", "teacher_tokens_per_second", "supervised_share", "held_out",
    "forgetting", "overfitting",
    "router_loss", "rollouts", "rollouts_ended", "rollout_tokens", "rollout_tokens_per_second",
)  # fmt: skip


class Term(nn.Module):
    """An objective bound to two models. A module, because it may learn a projection, which is never a part of the student.

    A term returns one number per supervised row and never reduces: the trainer divides once, by the supervised positions of
    the whole accumulation window.

    Args:
        objective: its settings.

    Attributes:
        student_request, teacher_request: what has to be let out of the two forward passes.
        decided: what binding found out about the models, as plain values: with the settings it says what is compared.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective
        self.student_request = self.teacher_request = SignalRequest()
        self.decided: dict[str, Any] = {}
        self.routed = False

    def check_batch(self, rows: Tensor) -> None:
        """What all processes must say together about a batch `[B, T]`, whatever rows each has. A term asks itself; a part of a routed one
        (`routed`), which some processes may not run, is asked by the whole."""

    def forward(self, student: Signals, teacher: Signals) -> Tensor | dict[str, Tensor]:
        """`[N]`: one number per supervised row, in the order of `rows.nonzero()`.

        A dictionary may be returned: under the objective's name the term, under other names `[N]` each that only the log shows.
        """
        raise NotImplementedError


def bound_to(objective: Objective, student: Side, teacher: Side, **known: Any) -> Term:
    """`objective.bind`, with what is known beside the facts as far as it names it: one's own objective need not take all."""
    takes = inspect.signature(objective.bind).parameters
    every = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in takes.values())
    return objective.bind(student, teacher, **{name: value for name, value in known.items() if every or name in takes})


def values_of(term: Term, student: Signals, teacher: Signals, rows: int) -> dict[str, Tensor]:
    """What a term gives for a batch, checked: `{name: [N]}`.

    Args:
        term: any; one that somebody else wrote, too.
        student, teacher: the signals it asked for.
        rows: N, the supervised rows of the batch.

    Raises:
        ValueError: something else than one number a row: a mean, say, which the trainer would divide once more.
    """
    found = term(student, teacher)
    values: dict[str, Tensor] = found if isinstance(found, dict) else {term.objective.name: found}
    if term.objective.name not in values:
        raise ValueError(
            f"The term {term.objective.name!r} ({type(term).__name__}) gave {', '.join(values) or 'nothing'}, and not its own name."
        )
    for name, value in values.items():
        if not isinstance(value, Tensor) or value.shape != (rows,):
            shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"The term {name!r} of {type(term).__name__} has the shape {shape}, and a term is one number for each of the "
                f"{rows} supervised rows, [{rows}]: no mean and no sum, since the trainer divides once, by the rows of the whole step."
            )
    return values


def cut_from(student: Any, teacher: Any) -> list[int] | None:
    """Which layers of the teacher a student kept; None if it was not cut from such a one."""
    kept, depth = (getattr(student.config, name, None) for name in (KEPT_LAYERS, TEACHER_DEPTH))
    own, theirs = (model.config.get_text_config(decoder=True).num_hidden_layers for model in (student, teacher))
    return list(kept) if kept and len(kept) == own and depth == theirs else None


def evenly(count: int, among: int) -> list[int]:
    """`count` of the numbers below `among`, evenly spread; the last is the last."""
    return [round((i + 1) * among / count) - 1 for i in range(count)]


def resolve_layers(layers: LayerMap, student: Any, teacher: Any, *, span_end: bool) -> list[tuple[int, int]]:
    """Pairs (student layer, teacher layer), 0-based.

    Args:
        student, teacher: facts of both sides, or models.
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
    kept = cut_from(student, teacher)
    if layers == "auto" and kept:
        ends = [layer - 1 for layer in kept[1:]] + [n_teacher - 1]
        return list(enumerate(ends if span_end else kept))
    if layers in ("auto", "even"):
        if n_student > n_teacher:
            raise ValueError(
                f"The student has {n_student} layers and the teacher {n_teacher}, so layers={layers!r} cannot pair them; "
                "give an explicit map {student layer: teacher layer}."
            )
        return list(enumerate(evenly(n_student, n_teacher)))
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
