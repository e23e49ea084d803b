"""FSDP2 where `accelerate` leaves it off: on CPUs.

`accelerate` 1.15 switches FSDP on for GPUs only and says nothing where there are none, so `--fsdp True` on a CPU would train
unsharded. torch's `fully_shard` works there, over gloo; with it a recipe, a test or a checkpoint can be tried on a laptop.
"""

import os
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from transformers import TrainingArguments


def is_asked_for(args: TrainingArguments) -> bool:
    """By flags of Trainer, or by the configuration of `accelerate launch`."""
    return bool(args.fsdp_plugin_args) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def switch_on_for_cpu(accelerator: Accelerator, args: TrainingArguments) -> bool:
    """Turn FSDP2 on if it was asked for and `accelerate` did not; whether that was so.

    Raises:
        ValueError: FSDP1, which is for GPUs.
    """
    if accelerator.distributed_type != DistributedType.MULTI_CPU or not is_asked_for(args):
        return False
    plugin = FullyShardedDataParallelPlugin(**(args.fsdp_plugin_args or {}))
    if plugin.fsdp_version != 2:
        raise ValueError("FSDP1 does not run on CPUs; give fsdp_version: 2 (--fsdp_config with version 2).")
    state: Any = accelerator.state
    if accelerator.mixed_precision != "no":
        plugin.set_mixed_precision(accelerator.mixed_precision)
    for shared in (PartialState._shared_state, AcceleratorState._shared_state):
        shared["distributed_type"] = DistributedType.FSDP
    state.fsdp_plugin = plugin
    return True
