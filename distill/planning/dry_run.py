"""One step of either trainer on tensors without values: the same forward passes, objectives and backward pass, counted."""

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import convert_outputs_to_fp32
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel

from distill.models.adapters import add_adapter, base_of, lora_config
from distill.objectives import AttentionMaps, HiddenStates, Logits, Objective, Term
from distill.objectives.attention import AttentionMapsTerm
from distill.objectives.base import resolve_layers
from distill.objectives.hidden import HiddenStatesTerm
from distill.objectives.logits import LogitsTerm
from distill.planning.configs import Shape
from distill.planning.live_tensors import LiveBytes
from distill.planning.loss_buffers import CHUNKS, attention_buffers, head_buffers
from distill.planning.setting import Setting
from distill.signals import LogitTransform, SignalRequest, Signals, SupervisedRows, run_with_taps
from distill.signals.head import head_of

TEACHER, FORWARD, BACKWARD = "teacher forward", "student forward", "backward"


@dataclass(frozen=True)
class DryRun:
    """What a step holds beside weights and optimiser states.

    Args:
        moments: bytes by label, where their sum is highest: in the teacher's forward pass, the student's with the loss, and
            the backward pass.
        gradients: bytes of the gradients when the backward pass is through.
        weights: bytes of the student's weights, an adapter's among them.
        trained: parameters that train, projections of an objective among them.
        teacher_flops, student_flops: of the teacher's forward pass, and of everything else.
    """

    moments: dict[str, dict[str, int]]
    gradients: int
    weights: int
    trained: int
    teacher_flops: int
    student_flops: int


def dry_run(setting: Setting, student: Shape, teacher: Shape | None = None) -> DryRun:
    """Count a step; without a teacher, of the black box.

    Args:
        setting: the batch and the rest.
        student, teacher: shapes; they are not changed.

    Raises:
        ValueError: an objective that these two models do not allow; an adapter that fits no layer; a model whose code cannot
            run on tensors without values.
    """
    # rows of unequal length have padding, which makes transformers build a mask [B, 1, T, T]; one row has none
    ways = (True, False) if setting.rows > 1 else (False,)
    for masked in ways:
        model: Any = copy.deepcopy(student.model)
        if setting.lora_r is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
                model = add_adapter(model, lora_config(setting.lora_r), 0)
        frozen = None if teacher is None else copy.deepcopy(teacher.model).requires_grad_(False).eval()
        with FakeTensorMode(allow_non_fake_inputs=True):
            try:
                model, frozen = _on_cpu(model), None if frozen is None else _on_cpu(frozen)
                return _Step(setting, model, frozen, masked).run()
            except ValueError:
                raise
            except (
                Exception
            ) as error:  # whatever a model's own code raises where it looks at values, or takes no such mask
                failed = error
    first = (str(failed).strip().splitlines() or [""])[0]
    raise ValueError(
        f"{type(student.model).__name__} cannot be counted without its values ({type(failed).__name__}: {first[:160]})."
    ) from failed


class _Step:
    def __init__(self, setting: Setting, student: Any, teacher: PreTrainedModel | None, masked: bool) -> None:
        self.masked = masked
        self.setting, self.student, self.teacher = setting, student, teacher
        self.terms: list[Term] = []
        if teacher is not None:
            self.terms = [_bind(objective, base_of(student), teacher) for objective in setting.objectives]
        self.projections = torch.nn.ModuleList(self.terms)
        held = torch.nn.ModuleList([student, self.projections, *([] if teacher is None else [teacher])])
        self.live = LiveBytes(held, setting.supervised)
        self.signals: Signals | None = None

    def run(self) -> DryRun:
        setting, live = self.setting, self.live
        _as_accelerate_does(self.student, setting.compute_dtype)
        self.student.train()
        if setting.checkpointing:
            base_of(self.student).activation_checkpointing_enable({"use_reentrant": False})
            if setting.lora_r is not None:
                self.student.enable_input_require_grads()
        with live:
            inputs = self._inputs()
            for _ in range(min(setting.accumulation, 2)):
                live.flops = 0
                if self.teacher is not None:
                    with live.moment(TEACHER, "teacher's signals"), torch.no_grad():
                        self.signals = self._taps(
                            self.teacher, inputs, SignalRequest.union(term.teacher_request for term in self.terms)
                        )
                teacher_flops = live.flops
                with live.moment(FORWARD, "activations"):
                    loss = self._black_box(inputs) if self.teacher is None else self._white_box(inputs)
                self.signals = None
                with live.moment(BACKWARD, "gradients"):
                    loss.backward()
                del loss
        parameters = [*self.student.parameters(), *self.projections.parameters()]
        graded = [p.grad for p in parameters if p.grad is not None]
        return DryRun(
            moments={name: dict(found) for name, found in live.highest.items() if name},
            gradients=sum(g.numel() * g.element_size() for g in graded),
            weights=sum(p.numel() * p.element_size() for p in parameters),
            trained=sum(p.numel() for p in parameters if p.requires_grad),
            teacher_flops=teacher_flops,
            student_flops=live.flops - teacher_flops,
        )

    def _inputs(self) -> dict[str, Tensor]:
        rows, length = self.setting.rows, self.setting.length
        inputs = {"input_ids": torch.zeros((rows, length), dtype=torch.long)}
        if self.masked:
            inputs["attention_mask"] = torch.ones((rows, 1, length, length), dtype=torch.bool)
        return inputs

    def _black_box(self, inputs: dict[str, Tensor]) -> Tensor:
        labels = torch.zeros_like(inputs["input_ids"])
        loss: Tensor = self.student(**inputs, labels=labels, use_cache=False).loss
        return loss

    def _white_box(self, inputs: dict[str, Tensor]) -> Tensor:
        request = SignalRequest.union(term.student_request for term in self.terms)
        student, teacher = self._taps(self.student, inputs, request), self.signals
        assert teacher is not None
        with self.live.labelled(CHUNKS):
            terms = [self._term(term, student, teacher).sum() for term in self.terms]
        return torch.stack(terms).sum()

    def _taps(self, model: Any, inputs: dict[str, Tensor], request: SignalRequest) -> Signals:
        mask = torch.ones((self.setting.rows, self.setting.length), dtype=torch.bool)
        places = torch.zeros(self.setting.supervised, dtype=torch.long)  # a mask without values says nothing
        rows = SupervisedRows(mask, places, places)
        signals = run_with_taps(model, base_of(model), inputs, rows, request)
        if not request.logits or signals.logits is None or len(signals.logits) == self.setting.supervised:
            return signals
        raise ValueError(f"{type(model).__name__} makes the logits of all positions, which is not counted here.")

    def _term(self, term: Term, student: Signals, teacher: Signals) -> Tensor:
        live, device = self.live, self.setting.device
        if isinstance(term, LogitsTerm) and student.head is not None and teacher.head is not None:
            return head_buffers(student.head, teacher.head, term.divergence, live, device)
        if isinstance(term, AttentionMapsTerm):
            count = self.setting.supervised
            pairs = [(student.attention[s], teacher.attention[t]) for s, t in term.pairs]
            return attention_buffers(pairs, count, term.divergence, live, device)
        found = term(student, teacher)
        assert isinstance(found, Tensor)
        return found


def _on_cpu(model: Any) -> Any:
    model.to_empty(device="cpu")  # of a fake tensor: a CPU's kernels are chosen, and there is no storage
    base_of(model).tie_weights()
    return model


def _as_accelerate_does(model: Any, dtype: torch.dtype | None) -> None:
    """Mixed precision of `Accelerator.prepare_model`: autocast around the forward pass, and its outputs in float32."""
    if dtype is not None:
        model.forward = convert_outputs_to_fp32(torch.autocast("cpu", dtype=dtype)(model.forward))


def _bind(objective: Objective, student: PreTrainedModel, teacher: PreTrainedModel) -> Term:
    """What `Objective.bind` gives, without the forward passes by which it asks the models."""
    ours, theirs = (model.config.get_text_config(decoder=True) for model in (student, teacher))
    if isinstance(objective, Logits):
        plain = all(head_of(model) is not None for model in (student, teacher))
        vocabulary = None if ours.vocab_size == theirs.vocab_size else min(ours.vocab_size, theirs.vocab_size)
        return LogitsTerm(objective, vocabulary, (LogitTransform(), LogitTransform()) if plain else None)
    if isinstance(objective, HiddenStates):
        pairs, sizes = (
            resolve_layers(objective.layers, student, teacher, span_end=True),
            (ours.hidden_size, theirs.hidden_size),
        )
        needed = objective.needs_projection(*sizes)
        return HiddenStatesTerm(
            objective, pairs, {pair: torch.nn.Linear(*sizes, bias=False) for pair in pairs if needed}
        )
    if isinstance(objective, AttentionMaps):
        if objective.relations is not None:
            raise ValueError("relations of AttentionMaps are not counted by the plan; leave them out.")
        counts = ours.num_attention_heads, theirs.num_attention_heads
        if counts[0] != counts[1] and objective.heads is None:
            raise ValueError(
                f"The student has {counts[0]} attention heads and the teacher {counts[1]}, so their maps cannot be compared head by "
                "head; leave attention out of the objectives."
            )
        return AttentionMapsTerm(objective, resolve_layers(objective.layers, student, teacher, span_end=False))
    raise ValueError(f"The plan knows logits, hidden and attention, not {type(objective).__name__}.")
