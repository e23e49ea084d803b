"""What a plan is asked for, and what it refuses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from distill.objectives import Objective

# bytes a trained parameter, in states beside the weight, of an optimiser that keeps them in float32; of weights in float32
OPTIMISERS = ("adamw", "adamw_8bit", "sgd", "sgd_momentum", "adafactor")
SHARDINGS = ("none", "fsdp")


@dataclass(frozen=True)
class Setting:
    """Everything of a training that decides its memory beside the two models.

    Args:
        batch: rows of a step, of all processes together (of one micro-batch, with accumulation).
        length: tokens of the longest row.
        share: of the tokens that is supervised.
        processes: GPUs, or processes on CPUs.
        objectives: of the white box; empty: the black box.
        bf16: products in bfloat16 (autocast), whatever the weights are.
        optimiser: one of `OPTIMISERS`.
        checkpointing: activations of a layer are computed again in the backward pass.
        lora_r: rank of an adapter on all linear layers; None: all weights train.
        sharding: "fsdp": weights, gradients and states of student and teacher divided over the processes; "none": a copy each.
        teacher_bits: 4 or 8 for a quantised teacher.
        accumulation: micro-batches a step; above 1, gradients are there already while the next one runs forward.
        device: "cpu" or "cuda".

    Raises:
        ValueError: a value out of its range.
    """

    batch: int
    length: int
    share: float = 0.5
    processes: int = 1
    objectives: Sequence[Objective] = ()
    bf16: bool = True
    optimiser: str = "adamw"
    checkpointing: bool = False
    lora_r: int | None = None
    sharding: str = "none"
    teacher_bits: int | None = None
    accumulation: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("batch", "length", "processes", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        if self.length < 2:
            raise ValueError("length is 1; a row needs a token to go on from and one to learn, so 2 or more.")
        if self.processes > self.batch:
            raise ValueError(
                f"processes is {self.processes} but batch is {self.batch} rows, of all processes together, so some would have "
                "nothing to do; give at most as many processes as rows."
            )
        if not 0 < self.share <= 1:
            raise ValueError(f"supervised is {self.share}; it is a share of the tokens, above 0 and at most 1.")
        if self.lora_r is not None and self.lora_r < 1:
            raise ValueError(f"lora_r is {self.lora_r}; it is a rank, 1 or more.")
        choices: dict[str, tuple[Any, ...]] = {
            "optimiser": OPTIMISERS, "sharding": SHARDINGS, "teacher_bits": (None, 4, 8), "device": ("cpu", "cuda"),
        }  # fmt: skip
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                shown = ", ".join(str(value) for value in allowed if value is not None)
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {shown}.")
        if self.sharding != "none" and self.processes == 1:
            raise ValueError(
                f"sharding is {self.sharding!r}, which divides weights over processes; give --processes 2 or more."
            )

    @property
    def rows(self) -> int:
        """Of the process that has most."""
        return -(-self.batch // self.processes)

    @property
    def supervised(self) -> int:
        """Supervised positions of that process: a row's last token has no next one."""
        return self.rows * max(1, min(round(self.share * self.length), self.length - 1))

    @property
    def compute_dtype(self) -> torch.dtype | None:
        """Of autocast; None: as the weights are."""
        return torch.bfloat16 if self.bf16 else None
