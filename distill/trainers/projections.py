"""Weights that a trainer learns beside its student: projections of objectives, never a part of the student."""

import os
from typing import Any

import torch
from accelerate.utils import broadcast
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainingArguments

from distill.trainers.base import PairTrainer

OBJECTIVES_FILE = "objectives.safetensors"  # learned projections, beside a checkpoint's model and never inside it


class ProjectingTrainer(PairTrainer):
    """A trainer of pairs whose optimiser and checkpoints hold projections, too."""

    _learned: torch.nn.Module = torch.nn.Module()

    def learn_beside(self, modules: torch.nn.Module) -> None:
        """Train and save what is learned in these modules; to be called once, when they have their weights.

        Raises:
            ValueError: there are such weights, and the optimiser takes none but the student's (FSDP, DeepSpeed).
        """
        self._learned = modules
        self.add_callback(_Gradients(modules, self.accelerator))
        if not self._projections() or self.args.world_size == 1:
            return
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                "HiddenStates needs a learned projection between layers of different widths, and with FSDP or DeepSpeed the "
                "optimiser takes only the student's own parameters; use DDP (recipes/accelerate/ddp.yaml), "
                "HiddenStates(distance='cka'), or leave HiddenStates out."
            )
        for parameter in self._projections():
            broadcast(parameter.data)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As Trainer's, and the projections train too."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new and self._projections():
            optimizer.add_param_group({"params": self._projections(), "weight_decay": 0.0})
        return optimizer

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """As Trainer's, and the projections: before `trainer_state.json`, which marks a checkpoint as complete."""
        super()._save_optimizer_and_scheduler(output_dir)
        weights = {name: tensor.contiguous() for name, tensor in self._learned.state_dict().items()}
        if weights and self.args.should_save:
            save_file(weights, os.path.join(output_dir, OBJECTIVES_FILE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_projections(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_projections(str(self.state.best_model_checkpoint))

    def _load_projections(self, checkpoint: str) -> None:
        if self._projections():
            file = os.path.join(checkpoint, OBJECTIVES_FILE)
            if not os.path.isfile(file):
                raise ValueError(f"{checkpoint} has no {OBJECTIVES_FILE}: it was saved with other objectives.")
            self._learned.load_state_dict(load_file(file))

    def _projections(self) -> list[torch.nn.Parameter]:
        return list(self._learned.parameters())


class _Gradients(TrainerCallback):
    """Learned projections stand outside the wrapped model, so what is done there to gradients is done here to theirs."""

    def __init__(self, modules: torch.nn.Module, accelerator: Any) -> None:
        self.modules, self.accelerator = modules, accelerator

    def on_pre_optimizer_step(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Mean over processes, as DDP does it."""
        if self.accelerator.num_processes > 1:
            for parameter in self.modules.parameters():
                found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.accelerator.reduce(found, "mean")

    def on_optimizer_step(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Trainer clears the model's gradients after a step, not the optimiser's; these would add up for ever."""
        self.modules.zero_grad()
