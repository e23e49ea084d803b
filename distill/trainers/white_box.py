"""White-box distillation: match what is inside the teacher, on the same pairs, in the same Trainer."""

from typing import Any

import datasets
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments
from transformers.utils import logging

from distill.models.adapters import base_of, check_no_virtual_tokens
from distill.objectives import HiddenStates, Objective, Schedule
from distill.pairs.collate import supervised_rows, supervised_tokens
from distill.pairs.packing import PackedPairs
from distill.signals import SignalRequest, run_with_taps
from distill.signals.sources import is_students_own, teacher_side
from distill.teachers.local import LocalTeacher
from distill.text.vocabulary import shared_vocabulary
from distill.trainers.fsdp import check_teacher_is_everywhere
from distill.trainers.identity import describe_objectives, describe_teacher
from distill.trainers.projections import ProjectingTrainer

logger = logging.get_logger(__name__)


class WhiteBoxTrainer(ProjectingTrainer):
    """`transformers.Trainer` on pairs with another loss: the weighted sum of objectives.

    Each objective is summed over the supervised rows and divided once by their number in the whole accumulation window
    over all processes, so the gradient does not depend on how a batch is split. Every objective's value is logged under
    its own name, and as `eval_...` in evaluation, where the mean is over tokens.

    Args:
        model: the student.
        teacher: a `LocalTeacher`, a loaded model, or a name. It is put in evaluation mode and never trained. `"self"` (or the
            student itself): the student's own weights with its adapter off, without a second copy.
        objectives: e.g. `[Logits("forward_kl"), AttentionMaps(weight=0.1), HiddenStates(weight=0.1)]`.
        args: `TrainingArguments`.
        train_dataset, eval_dataset: pairs.
        processing_class: the student's tokenizer.
        shard_teacher: divide the teacher's weights over all processes; each layer is gathered when it runs.
        kwargs: `max_length`, `packing`, `peft_config` as for `PairTrainer`; and as for `transformers.Trainer`, without
            `compute_loss_func` and `compute_metrics`.

    Raises:
        ValueError: no objectives; something an objective needs cannot be had from these two models; settings under which
            the loss would not be what it says.

    Example:
        >>> trainer = WhiteBoxTrainer(model=student, teacher=teacher, objectives=[Logits("forward_kl")], args=args,
        ...                           train_dataset=pairs, processing_class=tokenizer)
    """

    # compute_loss divides by the supervised positions of the whole window itself
    loss_is_scaled_for_ga = True
    collates_ids = True  # to name the pairs whose loss is not finite

    def __init__(
        self,
        model: PreTrainedModel | Any,
        args: TrainingArguments | None = None,
        *,
        teacher: LocalTeacher | PreTrainedModel | str,
        objectives: list[Objective],
        train_dataset: datasets.Dataset | Any = None,
        eval_dataset: datasets.Dataset | Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        shard_teacher: bool = False,
        **kwargs: Any,
    ) -> None:
        for name in ("compute_loss_func", "compute_metrics"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"WhiteBoxTrainer has its own loss and keeps no logits; {name} cannot be used with it."
                )
        names = [objective.name for objective in objectives]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"objectives are {names}; give at least one, and each kind at most once.")
        of_itself = is_students_own(teacher, model, kwargs.get("peft_config") is not None)
        if isinstance(teacher, str) and not of_itself:
            teacher = LocalTeacher(teacher)
        teacher_model = teacher.model if isinstance(teacher, LocalTeacher) else model if of_itself else teacher
        vocabulary = shared_vocabulary(
            base_of(model),
            base_of(teacher_model),
            processing_class,
            teacher.tokenizer if isinstance(teacher, LocalTeacher) else None,
        )
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        self._refuse_other_losses()
        check_teacher_is_everywhere(self.args)
        check_no_virtual_tokens(self.model)
        # before it is sharded, when every process sees its own part only
        self._teacher_identity = (
            describe_teacher(base_of(teacher_model), base_of(self.model)) if shard_teacher else None
        )
        self.teacher_side = teacher_side(
            teacher_model, self.model if of_itself else None, self.args.device, shard_teacher
        )
        self.teacher = self.teacher_side.model
        self.student: PreTrainedModel = base_of(self.model)  # unwrapped; self.model may be or come to be a wrapper
        self.objectives = list(objectives)
        for objective in objectives:
            # FSDP2 keeps the head whole from the forward pass until its gradient is there
            objective.sharded = bool(
                self.is_deepspeed_enabled or (self.is_fsdp_enabled and not self.accelerator.is_fsdp2)
            )
            objective.bind(self.student, self.teacher, vocabulary)
        self.learn_beside(torch.nn.ModuleList(objectives))  # their projections
        if isinstance(self.train_dataset, PackedPairs):
            self._check_packing(self.teacher, use_cache=False)
            if any(isinstance(o, HiddenStates) and o.distance == "cka" for o in objectives):
                raise ValueError(
                    "HiddenStates(distance='cka') compares the states of a whole row, and a packed row holds several pairs; "
                    "leave packing out, or choose distance='mse' or 'cosine'."
                )
        self._student_request = SignalRequest.union(o.student_request() for o in objectives)
        self._teacher_request = SignalRequest.union(o.teacher_request() for o in objectives)
        self._train_terms: dict[str, Tensor] = {}  # sums of values already divided, since the last log
        self._train_steps = 0  # and over how many optimiser steps
        self._last_weights: dict[str, float] = {}
        self._eval_terms: dict[str, Tensor] = {}  # sums over rows, and the number of rows
        # so that Trainer counts the supervised positions whatever the model's forward accepts
        self.model_accepts_loss_kwargs = True
        self.teacher_side.release()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Sum over objectives of weight * sum over rows / items; see `transformers.Trainer.compute_loss`."""
        inputs = dict(inputs)
        labels: Tensor = inputs.pop("labels")
        ids: Any = inputs.pop("ids", None)
        rows = supervised_rows(labels)
        weights = self.weights()
        values, zero_loss = self._values(model, inputs, rows, supervised_tokens(labels, rows), weights)
        sums = {name: value.sum() for name, value in values.items()}
        items = rows.sum() if num_items_in_batch is None else num_items_in_batch
        items = torch.as_tensor(items, device=rows.device).clamp(min=1)  # a batch with nothing to learn from is a zero
        # weight 0 still shows the term in the log; it must not turn inf into NaN
        terms = [weight * sums[name] for name, weight in weights.items() if weight > 0]
        if model is not self.student or self.args.world_size > 1 or not terms:
            terms.append(zero_loss)
        loss = torch.stack(terms).sum() / items
        if not torch.isfinite(loss):
            raise FloatingPointError(describe_non_finite(values, rows, ids, self.state.global_step))
        self._keep_terms(sums, rows, items)
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # DDP averages gradients; items counts all processes
        return (loss, {}) if return_outputs else loss

    def weights(self) -> dict[str, float]:
        """The weight of every objective in the present step."""
        return {o.name: o.weight_at(self.state.global_step, self.state.max_steps) for o in self.objectives}

    def _values(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        rows: Tensor,
        tokens: Tensor,
        weights: dict[str, float],
    ) -> tuple[dict[str, Tensor], Tensor]:
        """`[N]` of every objective, and what objectives show beside it; and a zero that hangs on the model's output."""
        if not len(tokens):
            logger.warning_once(
                "A batch has no supervised position: it adds nothing. Is max_length shorter than prompts?"
            )
        values: dict[str, Tensor] = {}
        # The teacher first: what it needs while it runs is gone before the student's activations are there.
        with self.rates.teacher(), self.teacher_side.forward_pass() as forward:
            teacher = run_with_taps(forward, self.teacher, inputs, rows, self._teacher_request, tokens)
        student = run_with_taps(model, self.student, inputs, rows, self._student_request, tokens)
        with torch.autocast(self.args.device.type, enabled=False):  # whatever the models run in, this is in float32
            for objective in self.objectives:
                # a term without weight is computed for the log alone
                with torch.set_grad_enabled(torch.is_grad_enabled() and weights[objective.name] > 0):
                    found = objective(student, teacher)
                values.update(found if isinstance(found, dict) else {objective.name: found})
        self.teacher_side.release()
        assert student.zero_loss is not None
        return values, student.zero_loss.float()

    def _keep_terms(self, sums: dict[str, Tensor], rows: Tensor, items: Tensor | int) -> None:
        if self.student.training:
            kept, values = self._train_terms, {name: value.detach() / items for name, value in sums.items()}
            self._train_steps += self.accelerator.sync_gradients  # True in the last micro-batch of a step
            self._last_weights = self.weights()
        else:
            kept, values = self._eval_terms, {name: value.detach() for name, value in sums.items()}
            values["rows"] = rows.sum()
        for name, value in values.items():
            kept[name] = kept.get(name, 0) + value.double()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the value of every objective to Trainer's training logs."""
        if "loss" in logs and self._train_terms:
            values = self._gathered(self._train_terms)
            logs.update({name: value / max(self._train_steps, 1) for name, value in values.items()})
            scheduled = [o.name for o in self.objectives if isinstance(o.weight, Schedule)]
            logs.update({f"{name}_weight": self._last_weights[name] for name in scheduled})
            self._train_terms, self._train_steps = {}, 0
        super().log(logs, start_time)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's, but `eval_loss` and every term are means over tokens, where Trainer averages batch means."""
        self._eval_terms = {}
        output: Any = super().evaluation_loop(*args, **kwargs)
        sums = self._gathered(self._eval_terms)
        rows = sums.pop("rows", 0.0)
        if rows:
            prefix = kwargs.get("metric_key_prefix", "eval")
            output.metrics.update({f"{prefix}_{name}": value / rows for name, value in sums.items()})
            output.metrics[f"{prefix}_loss"] = sum(w * sums[name] for name, w in self.weights().items()) / rows
        return output

    def _gathered(self, sums: dict[str, Tensor]) -> dict[str, float]:
        if not sums:
            return {}
        total = self.accelerator.reduce(torch.stack([value.to(self.args.device) for value in sums.values()]), "sum")
        return dict(zip(sums, total.tolist(), strict=True))

    def identity(self) -> dict[str, Any]:
        """As for the black box, and which teacher and objectives."""
        mine = {
            "teacher": self._teacher_identity or describe_teacher(self.teacher, self.student),
            "objectives": describe_objectives(self.objectives),
        }
        return super().identity() | mine

    def _open_window(self) -> dict[str, Any]:
        terms = {name: float(value) for name, value in self._train_terms.items()}
        return {**super()._open_window(), "terms": terms, "steps": self._train_steps}

    def _take_up_window(self, window: dict[str, Any]) -> None:
        super()._take_up_window(window)
        device = self.args.device
        self._train_steps = window["steps"]
        self._train_terms = {n: torch.tensor(v, dtype=torch.float64, device=device) for n, v in window["terms"].items()}

    def _refuse_other_losses(self) -> None:
        if self.args.label_smoothing_factor:
            raise ValueError(
                "label_smoothing_factor belongs to cross-entropy; WhiteBoxTrainer has no labels to smooth."
            )
        if self.args.n_gpu > 1:
            raise ValueError("Several GPUs in one process (DataParallel) are not supported; use `accelerate launch`.")


def describe_non_finite(values: dict[str, Tensor], rows: Tensor, ids: list[str] | None, step: int) -> str:
    """Which terms, of which rows, at which step."""
    row_of = rows.nonzero()[:, 0]
    bad = {name: row_of[~value.isfinite()].unique().tolist() for name, value in values.items()}
    said = [
        f"{name} of {', '.join(repr(ids[r]) if ids else f'row {r} of the batch' for r in where)}"
        for name, where in bad.items()
        if where
    ]
    sums = ", ".join(f"{name} {float(value.detach().sum()):.4g}" for name, value in values.items())
    return (
        f"The loss at step {step} is not finite: {'; '.join(said) or 'a sum is too large'} (sums of this batch: {sums}). "
        "A smaller learning rate, max_grad_norm or bfloat16 in place of float16 may help; or look at these pairs."
    )
