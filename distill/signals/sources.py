"""Signal sources that run a model: a teacher of its own, whole or divided over processes, and the student without its adapter.

A trainer knows a teacher only as a `SignalSource`. Where a pair says what its teacher was shown (`teacher_prompt_ids`), the batch brings
rows of the teacher's own, whose supervised positions are those of the student's rows, in the same order.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

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
from distill.pairs.collate import supervised_rows
from distill.signals.facts import ModelFacts, TeacherFacts, describe_model
from distill.signals.requests import SignalRequest, Signals, run_with_taps
from distill.signals.rows import SupervisedRows
from distill.signals.sharding import shard
from distill.teachers.local import LocalTeacher

SELF = "self"  # the word for: the student, with its adapter off
TEACHERS = "teacher_"  # what the names of the teacher's own rows begin with
NO_INPUTS = ("labels", "ids", "documents", "columns")  # of a batch, what no model is given


class SignalSource(Protocol):
    """Where the teacher's signals come from: all that a trainer knows of a teacher.

    Args:
        facts: what objectives check when they are bound; after `prepare`.
        columns: of a pair, what it needs in the batch beside ids: `batch["columns"][name]`.
        documents: whether it needs `batch["documents"]`, which say what each document is (`distill.pairs.signal_keys`).
        tokenizer: the teacher's, where it is known.
    """

    facts: TeacherFacts
    columns: tuple[str, ...]
    documents: bool
    tokenizer: PreTrainedTokenizerBase | None

    def prepare(self, student: Any, device: torch.device) -> None:
        """Called before it is used, and anew for each student: what cannot work is refused here.

        Args:
            student: that is trained, perhaps with an adapter.
            device: where training runs.

        Raises:
            ValueError: says what and the way out.
        """

    def signals(self, batch: Mapping[str, Any], rows: SupervisedRows, request: SignalRequest) -> Signals:
        """What the teacher says at the supervised positions of a batch, `[N, ...]` in the order of the student's.

        Args:
            batch: as the collator made it, on the device.
            rows: the student's supervised positions.
            request: what is wanted.
        """

    def check(self, rows: Any, name: str = "the pairs", max_length: int | None = None) -> None:
        """Refuse a dataset for some of whose rows it has no signals, asked before a training.

        Args:
            rows: as a trainer has them; those of a stream are met when they come.
            name: what they are called in messages.
            max_length: of the training, in tokens.

        Raises:
            ValueError: says which.
        """

    def release(self) -> None:
        """Called when the signals of a batch have been used and are gone."""

    def identity(self, student: Any) -> Any:
        """Which teacher it is, as a plain value: a run is only resumed with the same."""

    def models(self) -> list[PreTrainedModel]:
        """The models that it runs."""


def inputs_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Of a batch, what the student is given."""
    return {name: value for name, value in batch.items() if name not in NO_INPUTS and not name.startswith(TEACHERS)}


def teachers_inputs(batch: Mapping[str, Any], rows: SupervisedRows) -> tuple[dict[str, Any], SupervisedRows]:
    """Of a batch, what the teacher is given, and where its supervised positions are: its own rows, or the student's.

    Args:
        batch: as the collator made it.
        rows: the student's supervised positions.
    """
    own = {name.removeprefix(TEACHERS): value for name, value in batch.items() if name.startswith(TEACHERS)}
    if not own:
        return inputs_of(batch), rows
    return inputs_of(own), SupervisedRows.of(supervised_rows(own["labels"]))


def _signals(
    forward: Any, model: PreTrainedModel, batch: Mapping[str, Any], rows: SupervisedRows, request: SignalRequest
) -> Signals:
    inputs, where = teachers_inputs(batch, rows)
    if where is not rows and request.attention:
        raise ValueError(
            "Some pairs say what the teacher was shown (teacher_prompt_ids), so its rows have other positions than the student's, and "
            "attention maps over different positions cannot be compared; leave AttentionMaps out, or these prompts."
        )
    return run_with_taps(forward, model, inputs, where, request)


class LiveTeacher:
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

    columns: tuple[str, ...] = ()
    documents = False

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        if isinstance(model, str):
            model = LocalTeacher(model)
        if isinstance(model, LocalTeacher):
            model, tokenizer = model.model, tokenizer or model.tokenizer
        check_no_virtual_tokens(model)
        self.model: PreTrainedModel = base_of(model)
        self.tokenizer = tokenizer
        self.facts: TeacherFacts = ModelFacts(self.model)
        self._identity: str | None = None
        self._device_type = "cpu"

    def prepare(self, student: Any, device: torch.device) -> None:
        """See `SignalSource`."""
        self._device_type = device.type
        _place(self.model, device)
        self.model.eval()

    @contextmanager
    def forward_pass(self) -> Iterator[Any]:
        """Within it the teacher may be run, in evaluation mode and without gradients; yields what is to be called."""
        with torch.autocast(self._device_type, enabled=False), torch.no_grad():
            yield self.model

    def signals(self, batch: Mapping[str, Any], rows: SupervisedRows, request: SignalRequest) -> Signals:
        """See `SignalSource`."""
        with self.forward_pass() as forward:
            return _signals(forward, self.model, batch, rows, request)

    def check(self, rows: Any, name: str = "the pairs", max_length: int | None = None) -> None:
        """See `SignalSource`: a trainer looks at lengths and ids itself."""

    def release(self) -> None:
        """It stays whole."""

    def identity(self, student: Any) -> Any:
        """See `SignalSource`."""
        return self._identity or describe_model(self.model, student)

    def models(self) -> list[PreTrainedModel]:
        """See `SignalSource`."""
        return [self.model]


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

    def prepare(self, student: Any, device: torch.device) -> None:
        """See `SignalSource`."""
        if not self._parts:
            # afterwards every process sees its own part only
            self._identity = describe_model(self.model, None if student is None else base_of(student))
            self._parts = shard(self.model, device)
        super().prepare(student, device)

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


class SelfTeacher:
    """The student with its adapter off: no second copy, no dropout, no gradients, and in the student's own precision.

    With pairs that say what the teacher was shown, this is self-distillation from privileged context (Snell et al. 2022): the model learns to
    do without what it was given. The pass goes to the `PeftModel` and not to a wrapper (DDP) around it, and through the same autocast as
    the student's, so that a fresh adapter (B = 0) is at exactly 0 from its teacher.

    Raises:
        ValueError: in `prepare`: there is no adapter; with the adapter off this model is not what it was before
            (`distill.models.adapters.check_off_is_base`).
    """

    columns: tuple[str, ...] = ()
    documents = False
    tokenizer: PreTrainedTokenizerBase | None = None

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
        """See `LiveTeacher.forward_pass`. What was in training is in training again when it ends."""
        # looked for once, and again when one is added
        if self._adapters != (adapters := list(self.student.peft_config)):
            self._adapters = adapters
            self._modules, self._switches = modules_of(self.student), switches_of(self.student)
        with evaluating(self.student, self._modules), adapter_off(self.student, self._switches), torch.no_grad():
            yield self.student

    def signals(self, batch: Mapping[str, Any], rows: SupervisedRows, request: SignalRequest) -> Signals:
        """See `SignalSource`."""
        with self.forward_pass() as forward:
            return _signals(forward, self.model, batch, rows, request)

    def check(self, rows: Any, name: str = "the pairs", max_length: int | None = None) -> None:
        """See `SignalSource`: its limits are the student's."""

    def release(self) -> None:
        """The weights are the student's, and stay."""

    def identity(self, student: Any) -> Any:
        """See `SignalSource`."""
        return describe_model(self.model, self.model)

    def models(self) -> list[PreTrainedModel]:
        """See `SignalSource`: none of its own."""
        return []


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
        teacher: a source as it is; `"self"` or the student itself; a `LocalTeacher`, a model, or a name.
        student: that is trained, its adapter already on it.
        shard_it: divide the teacher's weights over all processes.

    Raises:
        ValueError: it cannot be had; see the classes.
    """
    if hasattr(teacher, "signals") and hasattr(teacher, "prepare"):
        if shard_it:
            raise ValueError(
                f"shard_teacher divides a teacher that is given as a model; {type(teacher).__name__} is a signal source already: give "
                "ShardedTeacher(model) in its place."
            )
        return teacher
    if is_students_own(teacher, student):
        if shard_it:
            raise ValueError(
                "The teacher is the student's own weights, which are sharded with the student (FSDP); leave shard_teacher out."
            )
        return SelfTeacher()
    return ShardedTeacher(teacher) if shard_it else LiveTeacher(teacher)
