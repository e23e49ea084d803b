"""Signal sources that run a model: a teacher of its own, whole or divided over processes, and the student without its adapter."""

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
from distill.signals.base import NamedTeacher, SignalSource, named_teachers, teachers_inputs
from distill.signals.facts import ModelFacts, TeacherFacts, describe_model
from distill.signals.requests import SignalRequest, Signals, run_with_taps
from distill.signals.rows import SupervisedRows
from distill.signals.served import ServedTeacher
from distill.signals.sharding import shard
from distill.teachers.local import LocalTeacher
from distill.teachers.server import ServerTeacher

SELF = "self"  # the word for: the student, with its adapter off


class RunningTeacher(SignalSource):
    """A source that runs a model here, on the teacher's rows where a batch has them, else on the student's.

    Attributes:
        model: that is tapped; after `prepare`.
    """

    model: PreTrainedModel

    def forward_pass(self) -> AbstractContextManager[Any]:
        """Within it the teacher may be run, in evaluation mode and without gradients; yields what is to be called."""
        raise NotImplementedError

    def signals(self, batch: Mapping[str, Any], rows: SupervisedRows, request: SignalRequest) -> Signals:
        """See `SignalSource`."""
        inputs, where = teachers_inputs(batch, rows)
        if where is not rows and request.attention:
            raise ValueError(
                "Some pairs say what the teacher was shown (teacher_prompt_ids), so its rows have other positions than the student's, and "
                "attention maps over different positions cannot be compared; leave AttentionMaps out, or these prompts."
            )
        labels = where.next_tokens(batch["labels" if where is rows else "teacher_labels"])
        with self.forward_pass() as forward:
            return run_with_taps(forward, self.model, inputs, where, request, labels)

    def teachers(self) -> list[Any]:
        """See `SignalSource`: the model by its name, and what the source says of itself."""
        named = named_teachers(self.model) if hasattr(self, "model") else []
        own = super().teachers()[0]
        return [
            NamedTeacher(getattr(self, "name", one.name), {**one.decided, **own.decided}, one.model) for one in named
        ] or [own]

    def models(self) -> list[PreTrainedModel]:
        """See `SignalSource`; of a student, too, what it is shown as a teacher may be longer."""
        return [self.model]


class LiveTeacher(RunningTeacher):
    """A model of its own that runs here. It keeps the precision of its weights, whatever the student is trained in.

    Args:
        model: any causal language model but the student, perhaps with an adapter of its own; a `LocalTeacher`; or a name. It is put in
            evaluation mode and on the device of training; one that was quantised, or spread by `device_map`, stays where it is.
        tokenizer: its tokenizer, where `model` does not bring it.

    Raises:
        ValueError: it has virtual tokens; in `prepare`: it has no weights (meta device), or cannot be moved and is elsewhere.

    Example:
        >>> WhiteBoxTrainer(model=student, teacher=LiveTeacher("HuggingFaceTB/SmolLM2-360M-Instruct"), ...)
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        if isinstance(model, str | os.PathLike):
            model = LocalTeacher(model)
        self._given = model
        if isinstance(model, LocalTeacher):
            model, tokenizer = model.model, tokenizer or model.tokenizer
        check_no_virtual_tokens(model)
        self.model = base_of(model)
        self.tokenizer = tokenizer
        self.facts: TeacherFacts = ModelFacts(self.model)
        self._device_type = "cpu"

    def prepare(self, student: Any, device: torch.device) -> None:
        """See `SignalSource`."""
        if student is not None and base_of(student) is self.model:
            raise ValueError(
                "The teacher is the student itself, which would be at 0 from itself for ever. Give teacher='self' and the student an adapter "
                "(then the teacher is the same weights with the adapter off), or load the model twice."
            )
        self.together = isinstance(self.model, FSDPModule)
        self._device_type = device.type
        _place(self.model, device)
        self.model.eval()

    @contextmanager
    def forward_pass(self) -> Iterator[Any]:
        """See `RunningTeacher`."""
        with torch.autocast(self._device_type, enabled=False), torch.no_grad():
            yield self.model

    def identity(self, student: Any) -> Any:
        """See `SignalSource`."""
        return describe_model(self.model, student)

    def teachers(self) -> list[Any]:
        """See `SignalSource`."""
        return named_teachers(self._given)


class ShardedTeacher(LiveTeacher):
    """A model of its own whose weights are divided over all processes (`distill.signals.sharding.shard`).

    Args:
        model, tokenizer: as `LiveTeacher`; whole in every process, or sharded when it was loaded.

    Raises:
        ValueError: it cannot be sharded.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        super().__init__(model, tokenizer)
        if is_quantised(self.model) or is_dispatched(self.model):
            raise ValueError(
                "A teacher that is quantised, or spread over devices by device_map, cannot be divided over processes as well; load "
                "it plainly, or leave shard_teacher out."
            )
        self._parts: list[FSDPModule] = []
        self._described: list[str] = []

    def prepare(self, student: Any, device: torch.device) -> None:
        """See `SignalSource`."""
        if not self._parts:
            # afterwards every process sees its own part only
            self._described.append(describe_model(self.model, None if student is None else base_of(student)))
            self._parts += shard(self.model, device)
        super().prepare(student, device)

    def identity(self, student: Any) -> Any:
        """See `SignalSource`."""
        return self._described[0] if self._described else super().identity(student)

    def teachers(self) -> list[Any]:
        """See `SignalSource`; of divided weights what was found when they were whole."""
        name = getattr(self._given, "name", "") or getattr(self.model.config, "_name_or_path", "") or "the teacher"
        return [NamedTeacher(name, {"teacher_weights": self.identity(None)}, self.model)]

    def release(self) -> None:
        """Free the head, which stayed gathered for the objectives."""
        for part in self._parts:
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


class SelfTeacher(RunningTeacher):
    """The student with its adapter off: no second copy, no dropout, no gradients, and in the student's own precision.

    With pairs that say what the teacher was shown, this is self-distillation from privileged context (Snell et al. 2022): the model learns to
    do without what it was given. The pass goes to the `PeftModel` and not to a wrapper (DDP) around it, and through the same autocast as
    the student's, so that a fresh adapter (B = 0) is at exactly 0 from its teacher.

    Raises:
        ValueError: in `prepare`: there is no adapter; with the adapter off this model is not what it was before
            (`distill.models.adapters.check_off_is_base`).
    """

    def __init__(self) -> None:
        self._adapters: list[str] = []

    def prepare(self, student: Any, device: torch.device) -> None:
        """See `SignalSource`."""
        if not is_adapted(student):
            raise ValueError(
                "The teacher is the student itself, and it has no adapter that could be off. Give the student an adapter (peft_config=, "
                "--lora_r): then the teacher is the same weights with the adapter off."
            )
        check_off_is_base(student)
        self.student, self.model = student, base_of(student)
        self.facts: TeacherFacts = ModelFacts(self.model)
        self._adapters = []

    @contextmanager
    def forward_pass(self) -> Iterator[Any]:
        """See `RunningTeacher`. What was in training is in training again when it ends."""
        # looked for once, and again when one is added
        if self._adapters != (adapters := list(self.student.peft_config)):
            self._adapters = adapters
            self._modules, self._switches = modules_of(self.student), switches_of(self.student)
        with evaluating(self.student, self._modules), adapter_off(self.student, self._switches), torch.no_grad():
            yield self.student

    def identity(self, student: Any) -> Any:
        """See `SignalSource`."""
        return describe_model(self.model, self.model)

    def teachers(self) -> list[Any]:
        """See `SignalSource`; before `prepare` it is nobody's yet."""
        if not hasattr(self, "model"):
            return [NamedTeacher(SELF)]
        return [NamedTeacher(SELF, {"teacher_weights": self.identity(None)}, self.model)]


def is_students_own(teacher: Any, student: Any) -> bool:
    """Whether the teacher is the student's own weights: the word `"self"`, or the same object.

    Raises:
        ValueError: it is, and the student has no adapter that could be off; it is another adapter on them.
    """
    model = teacher.model if isinstance(teacher, LocalTeacher) else teacher
    if not (isinstance(teacher, str) and teacher == SELF) and base_of(model) is not base_of(student):
        return False
    if not is_adapted(student):
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


def source_of(teacher: Any, student: Any, shard_it: bool = False) -> SignalSource:
    """The signal source that a user means.

    Args:
        teacher: a source as it is; `"self"` or the student itself; a `LocalTeacher`, a model, or a name; a `ServerTeacher`.
        student: that is trained, its adapter already on it.
        shard_it: divide the teacher's weights over all processes.

    Raises:
        ValueError: it cannot be had; see the classes.
    """
    if hasattr(teacher, "signals") and not isinstance(teacher, torch.nn.Module):
        lacking = [name for name in dir(SignalSource) if not name.startswith("_") and not hasattr(teacher, name)]
        if lacking:
            raise ValueError(
                f"{type(teacher).__name__} has signals(), but not {', '.join(lacking)}; make it a subclass of distill.signals.SignalSource."
            )
        if shard_it:
            raise ValueError(
                f"shard_teacher divides the weights of a teacher that is given as a model, and {type(teacher).__name__} is a signal source "
                "already; leave shard_teacher out."
            )
        return copy.copy(teacher)  # what it is prepared for is this trainer's
    if isinstance(teacher, ServerTeacher):
        if shard_it:
            raise ValueError(
                "shard_teacher divides a teacher's weights, and those of a server are not here; leave it out."
            )
        return ServedTeacher(teacher)
    if is_students_own(teacher, student):
        if shard_it:
            raise ValueError(
                "The teacher is the student's own weights, which are sharded with the student (FSDP); leave shard_teacher out."
            )
        return SelfTeacher()
    return ShardedTeacher(teacher) if shard_it else LiveTeacher(teacher)


def prepared(given: dict[Any, Any], student: Any, device: torch.device) -> dict[Any, SignalSource]:
    """Sources of this student; a name is loaded once, whoever asks again."""
    for key, one in given.items():
        if isinstance(one, str | os.PathLike) and one != SELF:
            given[key] = LocalTeacher(one)
    sources = {key: source_of(one, student) for key, one in given.items()}
    for source in sources.values():
        source.prepare(student, device)
    return sources
