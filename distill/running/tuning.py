"""Flags for how a student is trained: packing, an adapter, early stopping."""

from dataclasses import dataclass, field
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from distill.models.adapters import lora_config
from distill.running.parsing import refuse_given


@dataclass
class TuningArguments:
    """How the student is trained, beside transformers.TrainingArguments."""

    packing: bool = field(
        default=False,
        metadata={"help": "Several pairs in each row of max_length tokens: less padding, same gradients."},
    )
    lora_r: int | None = field(
        default=None, metadata={"help": "Train a LoRA adapter of this rank on a frozen student."}
    )
    lora_alpha: float | None = field(
        default=None, metadata={"help": "Scale of the adapter; by default twice the rank."}
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout of the adapter's input."})
    lora_targets: str = field(
        default="all-linear", metadata={"help": "Layers with an adapter: all-linear, or names such as q_proj,v_proj."}
    )
    load_in_4bit: bool = field(
        default=False,
        metadata={"help": "QLoRA: load --student in 4 bits (an NVIDIA GPU and bitsandbytes); needs --lora_r."},
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after this many evaluations without a better held-out loss, and keep the best student. "
            "Evaluates every epoch, or as --eval_strategy and --eval_steps say. Another figure: --metric_for_best_model."
        },
    )
    overfitting: bool = field(
        default=False,
        metadata={
            "help": "At each evaluation (of every epoch, or as --eval_strategy says) measure trained and held-out pairs alike: their gap, and the best step."
        },
    )


def tuning_of(args: TuningArguments, training: TrainingArguments) -> tuple[dict[str, Any], list[TrainerCallback]]:
    """What the flags mean to a trainer: keyword arguments and callbacks. Early stopping changes `training` as well.

    Raises:
        ValueError: values out of range; peft is not installed; 4 bits without an adapter or without a named student.
    """
    if args.load_in_4bit and not (args.lora_r and getattr(args, "student", None)):
        raise ValueError(
            "load_in_4bit loads a model whose weights cannot be trained; give --student and train an adapter on it with --lora_r."
        )
    if args.lora_r is None:
        why = "this is of an adapter, and there is none; give its rank with --lora_r, or leave it out."
        refuse_given(args, ("lora_alpha", "lora_dropout", "lora_targets"), why)
    if args.overfitting and training.eval_strategy == IntervalStrategy.NO:
        training.eval_strategy = IntervalStrategy.EPOCH
    adapter = None
    if args.lora_r is not None:
        adapter = lora_config(args.lora_r, alpha=args.lora_alpha, dropout=args.lora_dropout, targets=args.lora_targets)
    callbacks: list[TrainerCallback] = []
    if args.early_stopping_patience is not None:
        stop_early(training, args.early_stopping_patience)
        callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
    return {"packing": args.packing, "peft_config": adapter}, callbacks


def stop_early(training: TrainingArguments, patience: int) -> None:
    """Set Trainer's switches so that `EarlyStoppingCallback` works, the best student is kept, and both survive a resume.

    Evaluation is every epoch unless `training` says otherwise; a checkpoint is saved at each.

    Raises:
        ValueError: patience below 1.
    """
    if patience < 1:
        raise ValueError(f"early_stopping_patience is {patience}; it is a number of evaluations, 1 or more.")
    if training.eval_strategy == IntervalStrategy.NO:
        training.eval_strategy = IntervalStrategy.EPOCH
    training.save_strategy = SaveStrategy(IntervalStrategy(training.eval_strategy).value)
    if training.eval_strategy == IntervalStrategy.STEPS:
        assert training.eval_steps is not None, "TrainingArguments takes logging_steps where it is not given"
        training.save_steps = training.eval_steps
    if training.save_total_limit == 1:
        training.save_total_limit = (
            2  # with 1, Trainer ends by deleting the last checkpoint, which says that it has ended
        )
    training.load_best_model_at_end = True
    if training.metric_for_best_model is None:
        training.metric_for_best_model, training.greater_is_better = "eval_loss", False
    elif training.metric_for_best_model.endswith("_kl"):
        # Trainer takes every figure whose name does not end in "loss" for something that should grow
        training.greater_is_better = False
    training.restore_callback_states_from_checkpoint = True  # the count of evaluations without a better loss
