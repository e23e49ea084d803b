"""What both trainers share: they train on pairs. Everything else is `transformers.Trainer`."""

import copy
import os
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_utils import TrainOutput, enable_full_determinism, set_seed

from distill.models.adapters import add_adapter, base_of, is_adapted
from distill.models.configs import text_config_of
from distill.models.load import load_model, load_tokenizer
from distill.models.precision import exact_on
from distill.models.quantising import check_student_keeps_gradients
from distill.pairs.collate import PairCollator, document_tokens, in_arrays, supervised_rows
from distill.pairs.columns import READ, TEACHER_PROMPT
from distill.pairs.packing import PackedPairs
from distill.pairs.row_limits import RowLimits
from distill.text.rows import SAYS_A_ROW
from distill.trainers import fsdp
from distill.trainers.causality import check_causal
from distill.trainers.changed_settings import ChangedSettings
from distill.trainers.checks import (
    check_config,
    check_kind,
    check_one_device,
    check_parallelism,
    check_processes,
    check_rows,
    limits_of,
)
from distill.trainers.finite_loss import FiniteLoss
from distill.trainers.identity import describe_student
from distill.trainers.packing_check import check_packing, holds_bins, packed
from distill.trainers.resume import Resumption
from distill.trainers.row_sharing import arranged
from distill.trainers.saving_check import check_can_be_saved
from distill.trainers.searching import Judge, check_direction, check_search, loss_alone, say_without_a_trial
from distill.trainers.text_rows import TextRows
from distill.trainers.throughput import Rates


class PairTrainer(Trainer):
    """A `transformers.Trainer` whose datasets are pairs; its collator is `PairCollator`.

    It does what it adds with a few collaborators: `resumption` (which checkpoint, and is it whole), `rates` (tokens a second), `finite`
    (a loss that is no number stops the run), and `distill.trainers.row_sharing` (every row once in several processes).

    `eval_loss` is the mean over supervised tokens. (Trainer's own is a mean of batch means, which depends on the batch size.)

    Args:
        model: the student; it may be a `peft.PeftModel`. A name, a folder or a Hub id is loaded in float32, with its tokenizer if
            none is given. In its place `model_init`, a function that makes one, as for `transformers.Trainer`.
        args: `TrainingArguments`.
        train_dataset, eval_dataset: pairs (see `distill.pairs`); or any `datasets.Dataset`, stream or list of rows with `messages` (and
            `tools`), or `prompt` and `completion`: they are tokenised once, in batches, and kept (`distill.pairs.tokenising`).
        processing_class: the student's tokenizer.
        max_length: longest row in tokens; what it cuts is logged. Ignored with an own `data_collator`.
        packing: put several pairs into each row of `max_length` tokens (`distill.pairs.packing`): the same loss and gradients with
            less padding. A batch then has `per_device_train_batch_size` rows, so more pairs. Evaluation is not packed.
        turns: of rows with messages, which of the assistant's turns carry loss: `"last"`, `"all"`, or `"each"` in a row of its own.
        peft_config: e.g. `peft.LoraConfig(...)`: train this adapter, drawn from the seed, on a frozen student. Checkpoints then
            hold the adapter only.
        kwargs: as for `transformers.Trainer`.

    Raises:
        ValueError: no tokenizer and no collator; a student that sees the tokens it is to predict; pairs that it cannot learn from; packing without a length, or with a
            model that does not keep the pairs of a row apart.
    """

    collated: Mapping[str, Any] = {}  # settings of a `PairCollator` that this kind of trainer needs, whoever made it
    use_cache: bool | None = (
        None  # what this kind of trainer calls its student with; None: with nothing, so that its config decides
    )

    def __init__(
        self,
        model: PreTrainedModel | Any = None,
        args: TrainingArguments | None = None,
        *,
        train_dataset: datasets.Dataset | Any = None,
        eval_dataset: datasets.Dataset | Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        max_length: int | None = None,
        packing: bool = False,
        turns: str = "last",
        peft_config: Any = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(model, str | os.PathLike):
            processing_class = processing_class or load_tokenizer(model)
            model = load_model(model, dtype=torch.float32)  # its optimiser's precision; args.bf16 computes in less
        if kwargs.get("data_collator") is None:
            if processing_class is None:
                raise ValueError(f"{type(self).__name__} needs processing_class=, the student's tokenizer.")
            kwargs["data_collator"] = PairCollator(processing_class, max_length=max_length)
        if isinstance(kwargs["data_collator"], PairCollator):
            kwargs["data_collator"] = copy.copy(kwargs["data_collator"])  # it will know the limits of these models
            for name, value in self.collated.items():
                setattr(kwargs["data_collator"], name, value)
        check_kind(train_dataset, "train_dataset")
        check_parallelism(args, model)
        self.processing_class = processing_class
        if model is not None:
            check_config(model, processing_class, args)
        self._text: TextRows | None = None
        if isinstance(kwargs["data_collator"], PairCollator):  # another one reads the rows as they are
            shown = kwargs["data_collator"].teacher_rows
            self._text = TextRows(train_dataset, eval_dataset, processing_class, turns, args, shown)
            train_dataset, eval_dataset = self._text.train, self._text.evaluation
        self._peft_config = peft_config
        if peft_config is not None and model is not None:
            model = add_adapter(model, peft_config, 42 if args is None else args.seed)  # 42 is TrainingArguments' own
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        self._given_limits = {
            name: getattr(self.data_collator, name, RowLimits()) for name in ("limits", "teacher_limits")
        }
        self.resumption = Resumption(self)
        self.finite = FiniteLoss(self)
        self._check_settings()
        self.rates = Rates(self.accelerator, self.args.device)
        self._eval_sum = self._eval_items = 0.0
        self._packing = self._trial_is_set_up = False
        self._changed = ChangedSettings(self)
        self._check_student(self.model)
        if packing:
            self._packing, self.train_dataset = packing, packed(self, self.train_dataset)
            self._check_packing(self.model)
        self._made = self.train_dataset, self.eval_dataset

    def _check_settings(self) -> None:
        """Whatever is asked of `args`; asked anew of those of each trial of a search."""
        check_one_device(self.args)
        check_processes(self.train_dataset, self.args)

    def _check_student(self, model: Any) -> None:
        """Whatever is asked of a student; asked anew of each that `model_init` makes."""
        # those of another student are not its own
        self.row_limits: RowLimits | None = None
        self.teacher_limits: RowLimits | None = None
        if isinstance(self.data_collator, PairCollator):
            for name, given in self._given_limits.items():
                setattr(self.data_collator, name, given)
        self.limit_rows(limits_of(base_of(model)))
        check_student_keeps_gradients(model, self.args.device)
        check_causal(model, self.args.device)
        if self.has_bins():
            self._check_packing(model)
        check_can_be_saved(model)
        self._check_loss(model)
        if is_adapted(model) and self.args.activation_checkpointing:
            # the frozen embeddings' output has no gradient, so a checkpointed layer would have none either
            model.enable_input_require_grads()

    def _check_loss(self, model: Any) -> None:
        """Whatever is asked of a student's loss under these settings; asked anew of each student, and when settings were changed."""

    def _check_packing(self, model: Any) -> None:
        if self._packing and isinstance(self.data_collator, PairCollator):
            # only in a single row do flash kernels see where documents begin
            self.data_collator.flatten_bins = "flash" in str(
                getattr(text_config_of(base_of(model)), "_attn_implementation", None)
            )
        check_packing(self, model, use_cache=self.use_cache)

    def call_model_init(self, trial: Any = None) -> Any:
        """As Trainer's, with all that is done to a model that is given; it is called again by every `train`, and for each trial of a search."""
        with say_without_a_trial(self.model_init, trial):
            model: Any = super().call_model_init(trial)
        if isinstance(model, str | os.PathLike):
            model = load_model(model, dtype=torch.float32)
        check_parallelism(self.args, model)
        check_config(model, self.processing_class, self.args)
        if self._peft_config is not None:
            model = add_adapter(model, self._peft_config, self.args.seed)
        if hasattr(self, "finite"):  # not the first one, which is looked at when the trainer is made
            if self.place_model_on_device:
                model.to(self.args.device)
            self.model, self.optimizer, self.lr_scheduler = model, None, None  # as Trainer does once it has the model
            self._take_student()
            self.resumption.identity = None
            self.resumption.settle()
        return model

    def _take_student(self) -> None:
        """`self.model` is a new one of `model_init`: asked what the first one was."""
        self._check_student(self.model)

    def limit_rows(self, limits: RowLimits, *, of_teacher: bool = False) -> None:
        """Refuse rows beyond what a model can take: those of the datasets now, those of streams when they come.

        Args:
            limits: of the model.
            of_teacher: they are for the rows that the teacher is shown (`PairCollator.teacher_rows`), not for the student's.

        Raises:
            ValueError: see `distill.trainers.checks.check_rows`.
        """
        own, collators = ("teacher_limits", "teacher_limits") if of_teacher else ("row_limits", "limits")
        known: RowLimits | None = getattr(self, own)
        tightened = limits if known is None else known.tightened(limits)
        if tightened == known:
            return
        setattr(self, own, tightened)
        if isinstance(self.data_collator, PairCollator):
            setattr(self.data_collator, collators, getattr(self.data_collator, collators).tightened(limits))
        self._check_rows(say_what_is_cut=known is None and not of_teacher)

    def _check_rows(self, say_what_is_cut: bool) -> None:
        assert self.row_limits is not None
        for name, rows in self._rows().items():
            check_rows(
                rows, name, self.data_collator, self.row_limits, self.teacher_limits, say_what_is_cut=say_what_is_cut
            )

    def _rows(self) -> dict[str, Any]:
        evaluations = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"eval_dataset": self.eval_dataset}
        return {"train_dataset": self.train_dataset, **evaluations}

    def has_bins(self) -> bool:
        """Whether pairs share a row, in training or in evaluation."""
        return isinstance(self.data_collator, PairCollator) and any(map(holds_bins, self._rows().values()))

    def _begin_text(self, resume_from_checkpoint: str | bool | None) -> None:
        """Text rows on the day of the run that is continued, or of today; rows that were put in their place since are let be."""
        text = self._text
        if text is None or not text.begin(resume_from_checkpoint):
            return
        if self.resumption.identity is not None:
            self.resumption.identity |= text.day
        if self.eval_dataset is self._made[1]:
            self.eval_dataset = text.evaluation
        if self.train_dataset is self._made[0]:
            self.train_dataset = text.train
            self._check_rows(say_what_is_cut=False)
            if self._packing:
                self.train_dataset = packed(self, self.train_dataset)
        self._made = self.train_dataset, self.eval_dataset

    def hyperparameter_search(
        self,
        hp_space: Any = None,
        compute_objective: Judge | None = None,
        n_trials: int = 20,
        direction: str | list[str] = "minimize",
        backend: Any = None,
        hp_name: Any = None,
        **kwargs: Any,
    ) -> Any:
        """As Trainer's, one trial behind the other; a trial is judged by its evaluation loss alone where nothing else is said.

        Each trial is checked, and recorded in its checkpoints, with its own settings and its own student.

        Args:
            kwargs: of the backend; all others: see `transformers.Trainer.hyperparameter_search`.

        Raises:
            ValueError: Ray, or several trials at once; a loss that is to be as large as can be; and what a trial's settings or student raise.
        """
        backend = check_search(backend, kwargs)
        if compute_objective is None:
            check_direction(direction)
        judge = compute_objective or loss_alone(self.eval_dataset)
        return super().hyperparameter_search(hp_space, judge, n_trials, direction, backend, hp_name, **kwargs)

    def _hp_search_setup(self, trial: Any) -> None:
        """As Trainer's; it comes to it when the student is made. Here a trial's settings, or those that were changed by hand, are there before."""
        if self._trial_is_set_up:
            self._trial_is_set_up = False
            return
        super()._hp_search_setup(trial)
        self._trial_is_set_up = True
        self.rates.accelerator = self.accelerator  # a trial has one of its own
        changed = self._changed.look()
        self._check_settings()
        if changed and self.model_init is None:
            self._check_loss(self.model)
        rows: Any = self.train_dataset
        packs = self._packing and isinstance(rows, PackedPairs) and rows is self._made[0]
        if packs and changed & {"order", "sampling"}:
            self.train_dataset = packed(self, rows.pairs)
            self._made = self.train_dataset, self.eval_dataset
        self._changed.take()  # nothing is refused any more

    def create_accelerator_and_postprocess(self) -> None:
        """As Trainer's, and FSDP2 also on CPUs."""
        super().create_accelerator_and_postprocess()
        if fsdp.switch_on_for_cpu(self.accelerator, self.args):
            self.is_fsdp_enabled = True
        if self.is_fsdp_enabled:  # nothing here or in Trainer works in place on a model's output
            warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
        *,
        or_start: bool = False,
        allow_changes: Collection[str] = (),
    ) -> TrainOutput:
        """As Trainer's; a checkpoint is resumed only if it is whole and of this very run.

        Args:
            resume_from_checkpoint: True: the last complete one in the output folder; or a path; else training starts anew.
            trial, ignore_keys_for_eval: see `transformers.Trainer.train`.
            or_start: with True and no complete checkpoint, start anew in place of an error.
            allow_changes: names of settings that may differ from the checkpoint's, as the refusal writes them, e.g.
                `["training.max_steps"]`. The result is then no longer that of an unbroken run.

        Raises:
            ValueError: another process trains into the output folder; a checkpoint that is half-written, damaged, pickled or
                of other settings (each named with both values).
        """
        self._trial_is_set_up = False  # by a call that failed
        self._hp_search_setup(trial)
        self._begin_text(resume_from_checkpoint)
        folder = Path(self._get_output_dir(trial))
        with (
            self.resumption.checkpoint(folder, resume_from_checkpoint, or_start, allow_changes) as checkpoint,
            self.finite.unfiltered(),
        ):
            if checkpoint is not None and self.resumption.is_over(checkpoint):
                return self._take_up_finished(checkpoint, trial)
            return super().train(checkpoint, trial, ignore_keys_for_eval)

    def _take_up_finished(self, checkpoint: str, trial: Any) -> TrainOutput:
        """A finished run is not trained on (Trainer would take one more step): only what it left is loaded."""
        if self.model_init is not None:
            (enable_full_determinism if self.args.full_determinism else set_seed)(self.args.seed)  # as Trainer does
            self.model_wrapped = self.call_model_init(trial)
        self.state, output = self.resumption.finished_state(checkpoint)
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            batches = self.get_train_dataloader()
            self._prepare_for_training(self.set_initial_training_values(self.args, batches)[-1], batches, checkpoint)
            if best:
                self._load_best_model()
        else:
            self._load_from_checkpoint(best or checkpoint)
        return output

    def _get_dataloader(  # type: ignore[override]
        self, dataset: Any, description: str, batch_size: int, sampler_fn: Any = None, **kwargs: Any
    ) -> torch.utils.data.DataLoader:
        """As Trainer's; in several processes every row comes once, where accelerate would repeat some; by length, if that is asked for."""
        if isinstance(self.data_collator, PairCollator):
            dataset = in_arrays(dataset)
        rows, order = arranged(self, dataset, description, batch_size, sampler_fn, kwargs.get("is_training", False))
        loader: Any = super()._get_dataloader(rows, description, batch_size, order, **kwargs)
        if rows is not dataset and hasattr(rows, "order"):
            # accelerate looks for it here, to tell it the epoch that is resumed in its middle
            loader.set_sampler(rows.order)
        return loader

    def _set_signature_columns_if_needed(self) -> None:
        # The collator, not the model, reads the columns; without this, Trainer would remove all of them as unused.
        if self._signature_columns is None:
            collator, columns = self.data_collator, [*READ, *SAYS_A_ROW]
            if isinstance(collator, PairCollator):
                # of a teacher's prompt the words, too: they are refused where their tokens are missing
                columns = [*collator.reads, *(TEACHER_PROMPT if collator.teacher_rows else ())]
            self._signature_columns: Any = columns

    def identity(self) -> dict[str, Any]:
        """What a run is made of beside its settings: models, by what tells them apart. Plain values."""
        return {
            "student": describe_student(self.model, (self.optimizer, self.lr_scheduler)),
            **({} if self._text is None else self._text.day),
        }

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        """As Trainer's; in packed rows, where it would take every EOS for padding, by position."""
        if "attention_mask" not in inputs and "position_ids" in inputs:
            inputs = {**inputs, "attention_mask": document_tokens(inputs)}
        super()._track_num_input_tokens(inputs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's, and counted."""
        self.rates.begin()
        batches, items = super().get_batch_samples(*args, **kwargs)
        for batch in batches:
            self.rates.count(batch)
        return batches, items

    def begin_window(self) -> None:
        """A training begins: sums of an earlier call that failed in its middle are forgotten."""
        self.rates.begin_window()

    def open_window(self) -> dict[str, Any]:
        """Sums of this process since the last log, as plain values: so that logs go on after a kill as if nothing had happened."""
        return {"loss": float(self._tr_loss), "tokens": self.rates.open_window()}

    def take_up_window(self, window: dict[str, Any], last_logged: int) -> None:
        """Put back what `open_window` gave at step `last_logged`."""
        self._globalstep_last_logged = last_logged
        self._tr_loss += window["loss"]
        self._total_loss_scalar -= window["loss"]  # train_loss, at the end, is of the steps of this call, as Trainer's
        self.rates.take_up_window(window.get("tokens", [0, 0]))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As Trainer's; training logs also say how fast it goes, by `distill.trainers.throughput`."""
        if "loss" in logs:
            logs.update(self.rates.close())
        super().log(logs, start_time)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """As Trainer's, and seen: a gradient that is not finite is not to be stepped with."""
        self.finite.norm = super()._get_grad_norm(model, grad_norm)
        return self.finite.norm

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As Trainer's, and marked as begun, sealed, and flushed to the disk before older ones are removed."""
        with self.rates.pause(), self.resumption.saving(Path(self._get_output_dir(trial=trial))) as checkpoint:
            if self.args.should_save:
                self.save_beside(checkpoint)
            super()._save_checkpoint(model, trial)

    def save_beside(self, checkpoint: Path) -> None:
        """What a trainer has to save beside its model, written before Trainer writes anything."""

    def _save_rng_state(self, output_dir: str) -> None:
        """As Trainer's; it is the last that is written before Trainer's state, so here a checkpoint is sealed."""
        super()._save_rng_state(output_dir)
        self.resumption.seal(Path(output_dir), self._globalstep_last_logged)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """As Trainer's; but a checkpoint of an epoch's last step waits for the epoch's end."""
        self.resumption.hold_back_save()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As Trainer's, and it keeps the sum of the loss over tokens."""
        items = supervised_rows(inputs["labels"]).sum().item() if "labels" in inputs else 0
        counted = self._get_num_items_in_batch([inputs], self.args.device)
        if counted is not None and self.args.average_tokens_across_devices:
            items = float(counted) / self.accelerator.num_processes  # what this process's loss was divided by
        output: Any = super().prediction_step(model, inputs, *args, **kwargs)
        if output[0] is not None:
            self._eval_sum += float(output[0]) * items
            self._eval_items += items
        return output

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's, but the loss is a mean over tokens."""
        self._eval_sum = self._eval_items = 0.0
        with self.rates.pause():
            output: Any = super().evaluation_loop(*args, **kwargs)
        sums = torch.tensor([self._eval_sum, self._eval_items], dtype=exact_on(self.args.device))
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums.to(self.args.device), "sum")
        name = f"{kwargs.get('metric_key_prefix', 'eval')}_loss"
        if name in output.metrics and sums[1] > 0:
            output.metrics[name] = (sums[0] / sums[1]).item()
        return output
