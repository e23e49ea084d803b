"""White-box distillation: match what is inside the teacher, on the same pairs, in the same Trainer."""

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from distill.models.adapters import base_of, check_no_virtual_tokens
from distill.objectives import HiddenStates, Logits, Objective, Schedule
from distill.objectives.base import values_of
from distill.objectives.routed import bound_to_all
from distill.objectives.streaming import only_summed
from distill.pairs.collate import EMPTY, PairCollator, supervised_rows
from distill.signals import ModelFacts, SignalRequest, Signals, SupervisedRows, run_with_taps
from distill.signals.base import ALIGNED, SignalSource, inputs_of
from distill.signals.several import routed_by
from distill.signals.sources import SELF, source_of
from distill.teachers.local import LocalTeacher
from distill.trainers.alignment_checks import aligned_with, is_aligned, say_coverage
from distill.trainers.base import PairTrainer
from distill.trainers.checks import check_names, check_other_losses, compared_with, longest_row
from distill.trainers.fsdp import check_teacher_is_everywhere
from distill.trainers.identity import describe_terms
from distill.trainers.on_policy import OnPolicy, check_any_text, check_own_text
from distill.trainers.packing_check import check_packing
from distill.trainers.projections import Projections
from distill.trainers.rollouts import Rollouts
from distill.trainers.router_loss import ROUTER_LOSS, check_one_batch_a_step, router_coefficient
from distill.trainers.shown_checks import check_same_positions, check_same_tokens
from distill.trainers.teacher_checks import check_labels, check_source, needed_of
from distill.trainers.term_sums import TermSums
from distill.trainers.watched_collator import WatchedCollator

logger = logging.get_logger(__name__)


class WhiteBoxTrainer(PairTrainer):
    """`transformers.Trainer` on pairs with another loss: the weighted sum of objectives.

    Each objective is summed over the supervised rows and divided once by their number in the whole accumulation window
    over all processes, so the gradient does not depend on how a batch is split. Every objective's value is logged under
    its own name, and as `eval_...` in evaluation, where the mean is over tokens. A mixture of experts with
    `config.output_router_logits` adds its router's loss as it does to cross-entropy, logged as `router_loss` before its coefficient.
    An objective of weight 0 is only looked at: computed, and its signals asked for, in the steps that are logged (every `logging_steps`),
    and the log has that step's value in place of a mean over steps.

    Args:
        model: the student.
        teacher: a `LocalTeacher`, a loaded model, or a name. It is put in evaluation mode and never trained. `"self"` (or the
            student itself): the student's own weights with its adapter off, without a second copy. A `ServerTeacher`: asked while the
            training runs. Or any `SignalSource` (`distill.signals`).
        objectives: e.g. `[Logits("forward_kl"), AttentionMaps(weight=0.1), HiddenStates(weight=0.1)]`.
        args: `TrainingArguments`.
        train_dataset, eval_dataset: pairs. Where one says what the teacher was shown (`teacher_prompt_ids`), the teacher gives its signals
            behind that prompt (context distillation), and the student learns to do without.
        processing_class: the student's tokenizer.
        shard_teacher: divide the teacher's weights over all processes; each layer is gathered when it runs.
        rollouts: put the student's own text in the place of some rows (on-policy distillation), see `distill.trainers.rollouts.Rollouts`.
        route_by: with `teacher={value: teacher, ...}`, the column of the pairs by which each row finds its own (`Routed`).
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
    use_cache = False  # whatever its config says, see `distill.signals.requests`
    collated: Mapping[str, Any] = {
        "with_ids": True,
        "teacher_rows": True,
    }  # ids name the pairs whose loss is not finite

    def __init__(
        self,
        model: PreTrainedModel | Any = None,
        args: TrainingArguments | None = None,
        *,
        teacher: LocalTeacher | PreTrainedModel | SignalSource | Mapping[str, Any] | str,
        objectives: list[Objective],
        train_dataset: datasets.Dataset | Any = None,
        eval_dataset: datasets.Dataset | Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        shard_teacher: bool = False,
        route_by: str | None = None,
        rollouts: Rollouts | None = None,
        **kwargs: Any,
    ) -> None:
        for name in ("compute_loss_func", "compute_metrics"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"WhiteBoxTrainer has its own loss and keeps no logits; {name} cannot be used with it."
                )
        check_names(objectives)
        check_own_text(objectives, rollouts)
        if isinstance(teacher, str | os.PathLike) and teacher != SELF:
            teacher = LocalTeacher(teacher)
        teacher = routed_by(route_by, teacher)
        needed = needed_of(teacher, kwargs.get("data_collator"))
        own = kwargs.get("data_collator")
        if own is not None and not isinstance(own, PairCollator):
            kwargs["data_collator"] = WatchedCollator(own)
        self.collated = {**self.collated, **needed, "words": is_aligned(objectives)}
        if rollouts is not None:
            check_any_text(teacher)
            self.collated |= {"with_pairs": True}
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        self.objectives, self.rollouts = tuple(objectives), rollouts
        self.source = source_of(teacher, self.model, shard_teacher)
        self.bind()

    def _check_settings(self) -> None:
        super()._check_settings()
        check_other_losses(self.args)
        check_teacher_is_everywhere(self.args)

    def _check_loss(self, model: Any) -> None:
        super()._check_loss(model)
        check_one_batch_a_step(self.args, model)

    def bind(self) -> None:
        """Terms between the teacher and the student that is there now; again for each student that `model_init` makes.

        Raises:
            ValueError: something an objective needs cannot be had from these two models.
        """
        check_no_virtual_tokens(self.model)
        self.router_coefficient = router_coefficient(self.model)
        self.student: PreTrainedModel = base_of(self.model)  # unwrapped; self.model may be or come to be a wrapper
        self.source.prepare(self.model, self.args.device)
        if not is_aligned(self.objectives):
            check_source(self)
        self.on_policy = None if self.rollouts is None else OnPolicy(self, self.rollouts)
        shared = aligned_with(self)
        vocabulary = {"": None} if shared else compared_with(self.source, self.student, self.processing_class)
        self.compared = vocabulary, shared
        if any(isinstance(o, Logits) and o.cross_entropy for o in self.objectives):
            check_labels(self, vocabulary)
        # FSDP2 keeps the head whole from the forward pass until its gradient is there; FSDP1 and ZeRO do not
        whole = not (self.is_deepspeed_enabled or (self.is_fsdp_enabled and not self.accelerator.is_fsdp2))
        student, longest = ModelFacts(self.student), longest_row(self)
        if longest is not None and self.on_policy is not None:
            longest = max(longest, self.on_policy.longest)
        bound = [
            bound_to_all(
                o,
                student,
                self.source.facts,
                vocabulary=vocabulary,
                whole_weights=whole,
                longest=longest,
                shared=shared,
            )
            for o in self.objectives
        ]
        if any(term.teacher_request.has_attention() for term in bound):
            for name, dataset in self._rows().items():
                check_same_positions(dataset, name)
        self.terms = torch.nn.ModuleList(bound)  # one for each objective, in their order
        earlier, self.projections = getattr(self, "projections", None), Projections(self.terms, self)
        if earlier is not None:
            self.remove_callback(earlier)
        if self.optimizer is not None:  # the caller's own
            self.projections.join(self.optimizer, self.lr_scheduler)
        if self.has_bins():
            for model in self.source.models():
                check_packing(self, model, use_cache=False)
            if any(isinstance(o, HiddenStates) and o.distance == "cka" for o in self.objectives):
                raise ValueError(
                    "HiddenStates(distance='cka') compares the states of a whole row, and a packed row holds several pairs; "
                    "leave packing out, or choose distance='mse' or 'cosine'."
                )
        self._sums = TermSums(self.accelerator, self.args.device)
        self._last_weights: dict[str, float] = {}
        # so that Trainer counts the supervised positions whatever the model's forward accepts
        self.model_accepts_loss_kwargs = True
        if shared:
            say_coverage(self)
        self.source.release()

    def _begin_text(self, resume_from_checkpoint: str | bool | None) -> None:
        """As `PairTrainer`'s; rows that were made anew are other rows to the source."""
        before = self.train_dataset, self.eval_dataset
        super()._begin_text(resume_from_checkpoint)
        if self.train_dataset is not before[0] or self.eval_dataset is not before[1]:
            if is_aligned(self.objectives):
                aligned_with(self)
            else:
                check_source(self)

    def _take_student(self) -> None:
        """As `PairTrainer`'s; the terms are bound to it."""
        super()._take_student()
        if hasattr(self, "terms"):
            self.bind()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Sum over objectives of weight * sum over rows / items; see `transformers.Trainer.compute_loss`."""
        ids: Any = inputs.get("ids")
        where = SupervisedRows.of(supervised_rows(inputs["labels"]))
        if "teacher_labels" in inputs and not isinstance(self.data_collator, PairCollator):
            check_same_tokens(inputs, where)
        rows, weights = where.mask, self.weights()
        if not len(where) and set(ids or ()) != {EMPTY["id"]}:
            logger.warning_once(
                "A batch has no supervised position: it adds nothing. Is max_length shorter than prompts?"
            )
        values, student = self._values(model, inputs, where, weights)
        for value in values.values():
            only_summed(value)
        sums = {name: value.sum() for name, value in values.items()}
        items = rows.sum() if num_items_in_batch is None else num_items_in_batch
        items = torch.as_tensor(items, device=rows.device).clamp(min=1)  # a batch with nothing to learn from is a zero
        # weight 0 still shows the term in the log; it must not turn inf into NaN
        terms = [weight * sums[name] for name, weight in weights.items() if weight > 0]
        if model is not self.student or self.args.world_size > 1 or not terms:
            assert student.zero_loss is not None
            terms.append(student.zero_loss.float())
        loss = torch.stack(terms).sum() / items
        if self.router_coefficient and student.router_loss is not None:  # as the model adds it to its own: once a batch
            loss = loss + self.router_coefficient * student.router_loss.float()
            sums[ROUTER_LOSS] = student.router_loss.detach().float() * (items if self.student.training else len(where))
        self.finite.remember({name: values[name] for name, weight in weights.items() if weight > 0}, rows, ids)
        if not torch.is_grad_enabled():
            self.finite.look(loss.detach())
        elif self.is_deepspeed_enabled:  # whose backward pass takes the step as well
            self.finite.check(loss.detach())
        if self.student.training:
            self._sums.keep_training(sums, items)
            self._last_weights = weights
        else:
            self._sums.keep_evaluation(sums, rows.sum())
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # DDP averages gradients; items counts all processes
        return (loss, {}) if return_outputs else loss

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, *args: Any, **kwargs: Any) -> Any:
        """As `PairTrainer`'s; before the batches of a step are counted, rollouts take the places of some rows."""
        if self.on_policy is not None:
            self.rates.begin()
            epoch_iterator = iter(self.on_policy.replaced(list(islice(epoch_iterator, num_batches))))
        return super().get_batch_samples(epoch_iterator, num_batches, *args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """As Trainer's; at the end of a step the projections have the mean gradient over processes, as the student has."""
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:
            self.projections.average()
        return loss

    def weights(self) -> dict[str, float]:
        """The weight of every objective in the present step."""
        return {o.name: o.weight_at(self.state.global_step, self.state.max_steps) for o in self.objectives}

    def _values(
        self,
        model: torch.nn.Module,
        batch: dict[str, Tensor],
        rows: SupervisedRows,
        weights: dict[str, float],
    ) -> tuple[dict[str, Tensor], Signals]:
        """`[N]` of every objective that counts or is shown, and what it shows beside it; and the student's signals."""
        values: dict[str, Tensor] = {}
        shown = self._step_is_shown()
        every: Any = self.terms
        terms: list[Any] = [term for term in every if shown or weights[term.objective.name] > 0]
        ours, theirs = (
            SignalRequest.union(getattr(term, side) for term in terms)
            for side in ("student_request", "teacher_request")
        )
        # The teacher first: what it needs while it runs is gone before the student's activations are there.
        with self.rates.teacher() if self.source.models() else nullcontext():
            teacher = self.source.signals(batch, rows, theirs)
        if ALIGNED[0] in batch:
            order, places = (batch[name] for name in ALIGNED)
            teacher = replace(teacher, aligned=(order, places))
        student = run_with_taps(model, self.student, inputs_of(batch), rows, ours, rows.next_tokens(batch["labels"]))
        with torch.autocast(self.args.device.type, enabled=False):  # whatever the models run in, this is in float32
            for term in terms:
                term.train(self.student.training)
                # a term without weight is computed for the log alone
                with torch.set_grad_enabled(torch.is_grad_enabled() and weights[term.objective.name] > 0):
                    found = values_of(term, student, teacher, len(rows))
                others = {*values, *weights} - {term.objective.name}
                if taken := sorted(others & found.keys()):
                    raise ValueError(
                        f"{', '.join(taken)} is the name of an objective, and also of what {term.objective.name!r} shows in the log "
                        "beside itself; give one of the two objectives another name=."
                    )
                values.update(found)
        self.source.release()
        return values, student

    def _step_is_shown(self) -> bool:
        """Whether what this batch gives will be seen whatever its weight: in an evaluation, or at the end of a step that is logged."""
        args, state, step = self.args, self.state, self.state.global_step + 1
        if not self.student.training or args.logging_strategy == IntervalStrategy.EPOCH:
            return True  # which step ends an epoch is not known in it
        if args.logging_strategy == IntervalStrategy.STEPS and step % max(int(state.logging_steps), 1) == 0:
            return True
        return step >= state.max_steps or (step == 1 and args.logging_first_step)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the value of every objective to Trainer's training logs."""
        if "loss" in logs:
            logs.update(self._sums.training_means())
            if self.on_policy is not None:
                logs.update(self.on_policy.close())
            scheduled = [
                o.name for o in self.objectives if isinstance(o.weight, Schedule) and o.name in self._last_weights
            ]
            logs.update({f"{name}_weight": self._last_weights[name] for name in scheduled})
        super().log(logs, start_time)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's, but `eval_loss` and every term are means over tokens, where Trainer averages batch means."""
        self._sums.begin_evaluation()
        output: Any = super().evaluation_loop(*args, **kwargs)
        self.finite.agree(self.args.device)
        if means := self._sums.evaluation_means():
            prefix = kwargs.get("metric_key_prefix", "eval")
            output.metrics.update({f"{prefix}_{name}": value for name, value in means.items()})
            weights = self.weights() | ({ROUTER_LOSS: self.router_coefficient} if ROUTER_LOSS in means else {})
            output.metrics[f"{prefix}_loss"] = sum(
                weight * means[name]
                for name, weight in weights.items()
                if weight  # a term only looked at may be inf
            )
        return output

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As Trainer's, and the projections train too."""
        own_scheduler = None if self._created_lr_scheduler else self.lr_scheduler
        optimizer = super().create_optimizer(model)
        self.projections.join(optimizer, own_scheduler)
        return optimizer

    def _clip_grad_norm(self, model: Any) -> Any:
        """As Trainer's, and the projections' gradients are a part of the norm."""
        return super()._clip_grad_norm(self.projections.beside(model))

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """As Trainer's, and the projections' gradients are a part of the norm."""
        return super()._get_grad_norm(self.projections.beside(model), grad_norm)

    def save_beside(self, checkpoint: Path) -> None:
        """The projections."""
        self.projections.save(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.projections.load(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self.projections.load(Path(str(self.state.best_model_checkpoint)))

    def identity(self) -> dict[str, Any]:
        """As for the black box, and which teacher and objectives."""
        mine = {"teacher": self.source.identity(self.student), "objectives": describe_terms(self.terms)}
        if self.on_policy is not None:
            mine["rollouts"] = self.on_policy.identity()
        return super().identity() | mine

    def begin_window(self) -> None:
        """As `PairTrainer.begin_window`."""
        super().begin_window()
        self._sums.begin_training_window()
        if self.on_policy is not None:
            self.on_policy.begin(self.state.global_step)

    def open_window(self) -> dict[str, Any]:
        """As `PairTrainer.open_window`, and the sums of the terms."""
        rollouts = {} if self.on_policy is None else {"rollouts": self.on_policy.open_window()}
        return super().open_window() | self._sums.open_window() | rollouts

    def take_up_window(self, window: dict[str, Any], last_logged: int) -> None:
        """As `PairTrainer.take_up_window`, and the sums of the terms."""
        super().take_up_window(window, last_logged)
        self._sums.take_up_window(window)
        if self.on_policy is not None and "rollouts" in window:
            self.on_policy.take_up_window(window["rollouts"])
