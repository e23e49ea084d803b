"""Weights that a white box learns beside its student: projections of terms, never a part of the student.

They stand outside the wrapped model on purpose. A module around student and projections would show them to optimiser, clipping
and DDP by itself, but `transformers.Trainer` asks `self.model` to *be* a `PreTrainedModel` where it saves, resumes, checkpoints
gradients, shards, looks for adapters and builds the FSDP plan, and users go on with `trainer.model`. What stands here is less
than what would have to be told about such a wrapper.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import LayerWiseDummyOptimizer
from transformers.training_args import OptimizerNames

OBJECTIVES_FILE = "objectives.safetensors"  # learned projections, beside a checkpoint's model and never inside it


_LAYERWISE = (
    "{} takes its steps layer by layer within the backward pass, for the student's own parameters alone; the projections that HiddenStates "
    "learns between layers of different widths would never train. Take another optimiser, HiddenStates(distance='cka'), or leave "
    "HiddenStates out."
)


def steps_in_backward(name: Any) -> bool:
    """Whether an optimiser of `TrainingArguments.optim` steps within the backward pass, so that it has no groups to add to.

    Args:
        name: an `OptimizerNames`, or its value.
    """
    return name in (OptimizerNames.LOMO, OptimizerNames.ADALOMO) or str(getattr(name, "value", name)).endswith(
        "_layerwise"
    )


class Projections(TrainerCallback):
    """What the terms of a trainer learn: given to its optimiser, to clipping, and to its checkpoints.

    In several processes they begin with the weights of the first, and their gradients are the mean over processes, as DDP
    gives the student's.

    Args:
        terms: the modules that hold them; a term without a projection adds nothing.
        trainer: whose callback this becomes.

    Raises:
        ValueError: there are some, and the optimiser takes none but the student's own parameters (FSDP, DeepSpeed, layer-wise ones).
    """

    def __init__(self, terms: torch.nn.Module, trainer: Any) -> None:
        self.terms, self.accelerator = terms, trainer.accelerator
        if self:
            self._check_and_spread(trainer)
        trainer.add_callback(self)

    def _check_and_spread(self, trainer: Any) -> None:
        several = trainer.args.world_size > 1
        if trainer.is_deepspeed_enabled or (trainer.is_fsdp_enabled and several):
            raise ValueError(
                "HiddenStates needs a learned projection between layers of different widths, and with FSDP or DeepSpeed the "
                "optimiser takes only the student's own parameters; use DDP (recipes/accelerate/ddp.yaml), "
                "HiddenStates(distance='cka'), or leave HiddenStates out."
            )
        if steps_in_backward(trainer.args.optim):
            raise ValueError(_LAYERWISE.format(f"optim={str(trainer.args.optim.value)!r}"))
        if several:
            for parameter in self.parameters():
                broadcast(parameter.data)

    def parameters(self) -> list[torch.nn.Parameter]:
        """All of them, in the order of the terms."""
        return list(self.terms.parameters())

    def __bool__(self) -> bool:
        return any(True for _ in self.terms.parameters())

    def join(self, optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
        """Make the optimiser train them, without weight decay; also one that the caller made from the student's parameters.

        Raises:
            ValueError: the caller also made a scheduler, which knows the rates of the caller's groups only; the optimiser takes no others.
        """
        there = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        missing = [parameter for parameter in self.parameters() if id(parameter) not in there]
        if not missing:
            return
        if scheduler is not None:
            raise ValueError(
                f"optimizers=(optimizer, scheduler) has no group for the {len(missing)} projections that HiddenStates learns, and a "
                "scheduler that is made already cannot take one. Give optimizers=(optimizer, None); or make both when the trainer is there, "
                "with the parameters of trainer.terms in the optimiser, and set trainer.optimizer and trainer.lr_scheduler."
            )
        if isinstance(optimizer, LayerWiseDummyOptimizer) or hasattr(optimizer, "fused_backward"):  # as LOMO's
            raise ValueError(_LAYERWISE.format(f"An optimiser of {type(optimizer).__name__}"))
        optimizer.add_param_group({"params": missing, "weight_decay": 0.0})

    def beside(self, model: Any) -> Any:
        """For the norm of all gradients: something with the parameters of the model and these."""
        return _Together(model, self.terms) if self else model

    def average(self) -> None:
        """At the end of a step: mean over processes, before anything looks at the gradients."""
        if self.accelerator.num_processes > 1:
            for parameter in self.parameters():
                if parameter.grad is not None:  # none anywhere while the weight of its term is 0
                    parameter.grad = self.accelerator.reduce(parameter.grad, "mean")

    def save(self, checkpoint: Path) -> None:
        """Write them into a checkpoint."""
        if self:
            save_file(
                {name: tensor.contiguous() for name, tensor in self.terms.state_dict().items()},
                checkpoint / OBJECTIVES_FILE,
            )

    def load(self, checkpoint: Path) -> None:
        """Read them back.

        Raises:
            ValueError: the checkpoint has none, or those of other objectives.
        """
        if not self:
            return
        file = checkpoint / OBJECTIVES_FILE
        if not file.is_file():
            raise ValueError(f"{checkpoint} has no {OBJECTIVES_FILE}: it was saved with other objectives.")
        found, own = load_file(file), self.terms.state_dict()
        shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in (found, own)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{file} holds projections {shapes[0]}, and these objectives have {shapes[1]}.")
        self.terms.load_state_dict(found)

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Nothing is left of a call that failed between backward pass and step."""
        self.terms.zero_grad()

    def on_optimizer_step(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Trainer clears the model's gradients after a step, not the optimiser's; these would add up for ever."""
        self.terms.zero_grad()


class _Together:
    """As much of a module as clipping asks for."""

    def __init__(self, *modules: torch.nn.Module) -> None:
        self.modules = modules

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        return chain.from_iterable(module.parameters() for module in self.modules)
