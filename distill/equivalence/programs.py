"""The same training as several programs: each gets one start, one list of pairs, one setting, and leaves a trail."""

import copy
import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import datasets
import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from distill.equivalence.hand_loop import hand_loop
from distill.objectives import Objective
from distill.pairs.collate import PairCollator
from distill.teachers import LocalTeacher
from distill.trainers.black_box import BlackBoxTrainer
from distill.trainers.white_box import WhiteBoxTrainer


@dataclass(frozen=True)
class Settings:
    """How to train. The defaults have all that could hide a difference: accumulation, decay, warm-up, clipping, epochs."""

    batch_size: int = 2
    accumulation: int = 3
    epochs: int = 2
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    warmup_steps: int = 2
    max_grad_norm: float = 1.0
    seed: int = 0
    gradient_checkpointing: bool = False

    def arguments(self, folder: str, kind: type[TrainingArguments] = TrainingArguments, **changes: Any) -> Any:
        """The same as `TrainingArguments` (or a subclass)."""
        return kind(
            **{
                "output_dir": folder,
                "per_device_train_batch_size": self.batch_size,
                "gradient_accumulation_steps": self.accumulation,
                "num_train_epochs": self.epochs,
                "learning_rate": self.learning_rate,
                "weight_decay": self.weight_decay,
                "warmup_steps": self.warmup_steps,
                "lr_scheduler_type": "linear",
                "max_grad_norm": self.max_grad_norm,
                "seed": self.seed,
                "gradient_checkpointing": self.gradient_checkpointing,
                "bf16": False,
                "use_cpu": True,
                "report_to": "none",
                "save_strategy": "no",
                "logging_strategy": "no",
                "disable_tqdm": True,
                **changes,
            }
        )


@dataclass
class Trail:
    """What a training left: a hash of all parameters after every optimiser step, and the parameters at the end."""

    hashes: list[str] = field(default_factory=list)
    final: dict[str, Tensor] = field(default_factory=dict)

    def record(self, model: torch.nn.Module) -> None:
        """After a step."""
        self.hashes.append(parameters_hash(model))

    def finish(self, model: torch.nn.Module) -> "Trail":
        """After the last step."""
        self.final = {name: p.detach().float() for name, p in model.named_parameters()}
        return self

    def equal_steps(self, other: "Trail") -> int:
        """How many steps, counted from the first, have the same bits in every parameter."""
        same = [a == b for a, b in zip(self.hashes, other.hashes, strict=True)]
        return next((i for i, equal in enumerate(same) if not equal), len(same))

    def is_equal(self, other: "Trail") -> bool:
        """The same bits after every step."""
        return self.hashes == other.hashes

    def distance(self, other: "Trail") -> float:
        """Largest absolute difference of any parameter at the end."""
        assert self.final.keys() == other.final.keys()
        return max(float((self.final[name] - other.final[name]).abs().max()) for name in self.final)


def parameters_hash(model: torch.nn.Module) -> str:
    """sha256 over names and bytes of all parameters: two models have one hash only if every bit is the same."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class _Recorder(TrainerCallback):
    def __init__(self) -> None:
        self.trail = Trail()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trail.record(kwargs["model"])


@dataclass(frozen=True)
class Job:
    """What every program is given."""

    start: PreTrainedModel
    pairs: datasets.Dataset
    tokenizer: PreTrainedTokenizerBase
    settings: Settings

    def but(self, **changes: Any) -> "Job":
        """The same with other settings."""
        return replace(self, settings=replace(self.settings, **changes))


def by_hand(job: Job) -> Trail:
    """The loop of `hand_loop.py`."""
    model, trail = copy.deepcopy(job.start), Trail()
    if job.settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    for _ in hand_loop(model, job.pairs.to_list(), job.settings):
        trail.record(model)
    return trail.finish(model)


def black_box(job: Job, *, max_length: int | None = None, supervised_only: bool = False, **changes: Any) -> Trail:
    """`distill.BlackBoxTrainer`; `changes` are of its `TrainingArguments`."""

    def build(folder: str, **common: Any) -> Trainer:
        return BlackBoxTrainer(
            args=job.settings.arguments(folder, **changes), processing_class=job.tokenizer, max_length=max_length,
            train_dataset=job.pairs, supervised_only=supervised_only, **common,
        )  # fmt: skip

    return _trained(build, job)


def plain_trainer(job: Job, collate: PairCollator | None = None, **changes: Any) -> Trail:
    """`transformers.Trainer`; the pairs are padded by `PairCollator`, or by another collator."""

    def build(folder: str, **common: Any) -> Trainer:
        return Trainer(
            args=job.settings.arguments(folder, remove_unused_columns=False, **changes),
            data_collator=collate or PairCollator(job.tokenizer), train_dataset=job.pairs, **common,
        )  # fmt: skip

    return _trained(build, job)


def white_box(job: Job, teacher: LocalTeacher | PreTrainedModel, objectives: list[Objective], **changes: Any) -> Trail:
    """`distill.WhiteBoxTrainer` on the same pairs."""

    def build(folder: str, **common: Any) -> Trainer:
        return WhiteBoxTrainer(
            args=job.settings.arguments(folder, **changes), processing_class=job.tokenizer, train_dataset=job.pairs,
            teacher=teacher, objectives=objectives, **common,
        )  # fmt: skip

    return _trained(build, job)


def trl(job: Job, *, plain: bool) -> Trail:
    """TRL's `SFTTrainer`, with its own mask and padding; `plain`: with the cross-entropy of `transformers`.

    As it comes, its fused head sums in another order.
    """
    from trl import SFTConfig, SFTTrainer

    class PlainSFTTrainer(SFTTrainer):
        compute_loss = Trainer.compute_loss

    rows = [
        {
            "input_ids": row["prompt_ids"] + row["completion_ids"],
            "completion_mask": [0] * len(row["prompt_ids"]) + [1] * len(row["completion_ids"]),
        }
        for row in job.pairs
    ]

    def build(folder: str, **common: Any) -> Trainer:
        return (PlainSFTTrainer if plain else SFTTrainer)(
            # without completion_only_loss, SFTTrainer ignores the mask of rows that come as token ids, and says nothing
            args=job.settings.arguments(folder, SFTConfig, max_length=None, completion_only_loss=True),
            processing_class=job.tokenizer, train_dataset=datasets.Dataset.from_list(rows), **common,
        )  # fmt: skip

    return _trained(build, job)


def train_silently(trainer: Trainer) -> None:
    """Without the line that Trainer prints at its end."""
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def has_trl() -> bool:
    """Whether the `peers` extra is installed and works with the other packages."""
    try:
        from trl import SFTTrainer  # noqa: F401
    except (ImportError, RuntimeError):  # its lazy imports raise either
        return False
    return True


def _trained(build: Callable[..., Trainer], job: Job) -> Trail:
    recorder = _Recorder()
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(folder, model=copy.deepcopy(job.start), callbacks=[recorder])
        train_silently(trainer)
    return recorder.trail.finish(trainer.accelerator.unwrap_model(trainer.model))
