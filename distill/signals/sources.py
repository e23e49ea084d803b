"""Who the teacher of a white box is, and how its forward pass is run.

The trainer knows a teacher only through `TeacherSide`: a model to tap, and a context in which it may be called. There are two
kinds. A teacher of its own is any other model. Or the teacher is the student itself with its adapter off: the same
weights, no second copy in memory (self-distillation).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from distill.models.adapters import (
    adapter_off,
    base_of,
    check_no_virtual_tokens,
    check_off_is_base,
    is_adapted,
    switches_of,
)
from distill.models.evaluating import evaluating, modules_of
from distill.models.quantising import is_dispatched, is_quantised
from distill.signals.sharding import shard
from distill.teachers.local import LocalTeacher

SELF = "self"  # the word for: the student, with its adapter off


class TeacherSide(Protocol):
    """What a trainer needs of a teacher.

    Args:
        model: what is tapped, and what objectives are bound to.
    """

    model: PreTrainedModel

    @contextmanager
    def forward_pass(self) -> Iterator[Any]:
        """Within it the teacher may be run, in evaluation mode and without gradients; yields what is to be called."""
        ...

    def release(self) -> None:
        """Called when the signals of a forward pass have been used and are gone."""


class OwnModel:
    """A teacher of its own. It keeps the precision of its weights, whatever the student is trained in.

    Args:
        model: any causal language model but the student, perhaps with an adapter of its own; put in evaluation mode.
        device: where training runs. A model that was quantised, or spread over devices by `device_map`, stays where it is.

    Raises:
        ValueError: the model has no weights (meta device), cannot be moved and is elsewhere, or has virtual tokens.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        check_no_virtual_tokens(model)
        self.model: PreTrainedModel = base_of(model)
        self.device_type = device.type
        _place(self.model, device)
        self.model.eval()

    @contextmanager
    def forward_pass(self) -> Iterator[Any]:
        """See `TeacherSide`."""
        with torch.autocast(self.device_type, enabled=False), torch.no_grad():
            yield self.model

    def release(self) -> None:
        """It stays whole."""


class ShardedModel(OwnModel):
    """A teacher of its own whose weights are divided over all processes (`distill.signals.sharding.shard`).

    Args:
        model: any causal language model but the student, whole in every process; or one that was sharded when it was loaded.
        device: of this process.

    Raises:
        ValueError: it cannot be sharded.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        if is_quantised(base_of(model)) or is_dispatched(base_of(model)):
            raise ValueError(
                "A teacher that is quantised, or spread over devices by device_map, cannot be divided over processes as well; load "
                "it plainly, or leave shard_teacher out."
            )
        self.parts = shard(base_of(model), device)
        super().__init__(model, device)

    def release(self) -> None:
        """Free the head, which stayed gathered for the objectives."""
        for part in self.parts:
            part.reshard()


def _place(model: Any, device: torch.device) -> None:
    """Move a model to where training runs, unless it stays where it was loaded."""
    if isinstance(model, FSDPModule):
        return  # its parts lie where they belong
    if is_dispatched(model):
        return  # accelerate's hooks bring every layer and its inputs together, and the outputs back
    absent = [name for name, p in model.named_parameters() if p.is_meta]
    if absent:
        raise ValueError(
            f"The teacher has no weights: {len(absent)} of its parameters are on the meta device, the first is {absent[0]}. Load "
            "it with from_pretrained(...), or LocalTeacher(name)."
        )
    is_there = model.device.type == device.type and device.index in (None, model.device.index)
    if not is_quantised(model):
        model.to(device)
    elif not is_there:  # some quantisers cannot be moved, others only lose their kernels
        raise ValueError(
            f"The teacher is quantised and on {model.device}, but training runs on {device}; load it there: "
            f"LocalTeacher(name, quantization_config=..., device_map={str(device)!r})."
        )


class AdapterOff:
    """The student with its adapter off: no dropout, no gradients, and in the student's own precision.

    The pass goes to the `PeftModel` and not to a wrapper (DDP) around it, and through the same autocast as the student's, so
    that a fresh adapter (B = 0) is at exactly 0 from its teacher.

    Args:
        student: the `peft.PeftModel` that is trained.

    Raises:
        ValueError: with the adapter off this model is not what it was before (`distill.models.adapters.check_off_is_base`).
    """

    def __init__(self, student: Any) -> None:
        check_off_is_base(student)
        self.student, self.model = student, base_of(student)
        self._adapters: list[str] = []

    @contextmanager
    def forward_pass(self) -> Iterator[Any]:
        """See `TeacherSide`. What was in training is in training again when it ends."""
        if self._adapters != (
            adapters := list(self.student.peft_config)
        ):  # looked for once, and again when one is added
            self._adapters, self._modules, self._switches = (
                adapters,
                modules_of(self.student),
                switches_of(self.student),
            )
        with evaluating(self.student, self._modules), adapter_off(self.student, self._switches), torch.no_grad():
            yield self.student

    def release(self) -> None:
        """The weights are the student's, and stay."""


def is_students_own(teacher: LocalTeacher | PreTrainedModel | Any, student: Any, gets_adapter: bool) -> bool:
    """Whether the teacher is the student's own weights: the word `"self"`, or the same object.

    Raises:
        ValueError: it is, and the student neither has nor gets an adapter that could be off; it is another adapter on them.
    """
    model = teacher.model if isinstance(teacher, LocalTeacher) else teacher
    if not (isinstance(teacher, str) and teacher == SELF) and base_of(model) is not base_of(student):
        return False
    if not (gets_adapter or is_adapted(student)):
        raise ValueError(
            "Student and teacher are the same object. Give the student an adapter (peft_config=, --lora_r): then the teacher is "
            "the same weights with the adapter off. Or load the model twice, or use make_student."
        )
    if is_adapted(model) and model is not student:
        raise ValueError(
            "The teacher is another adapter on the student's own weights, and a teacher of the same weights is these weights "
            "with every adapter off; give teacher='self', or load the base a second time for the other adapter."
        )
    return True


def teacher_side(model: Any, student: Any, device: torch.device, shard_it: bool) -> TeacherSide:
    """The kind of teacher that is asked for.

    Args:
        model: the teacher, where it is another model than the student.
        student: the student that teaches itself with its adapter off; None: `model` teaches.
        device: where training runs.
        shard_it: divide the teacher's weights over all processes.

    Raises:
        ValueError: it cannot be had; see the classes.
    """
    if student is None:
        return ShardedModel(model, device) if shard_it else OwnModel(model, device)
    if shard_it:
        raise ValueError(
            "The teacher is the student's own weights, which are sharded with the student (FSDP); leave shard_teacher out."
        )
    return AdapterOff(student)
