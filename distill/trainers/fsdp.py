"""FSDP2 (torch's `fully_shard`): on CPUs, where `accelerate` leaves it off, and for a teacher, which is never trained.

`accelerate` 1.15 switches FSDP on for GPUs only and says nothing where there are none, so `--fsdp True` on a CPU would train
unsharded. `fully_shard` works there, over gloo; with it a recipe, a test or a checkpoint can be tried on a laptop.
"""

import os
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from transformers import AutoModelForCausalLM, TrainingArguments

from distill.models.adapters import add_adapter, base_of, is_adapted


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


def check_teacher_is_everywhere(args: TrainingArguments) -> None:
    """Refuse the setting under which `from_pretrained` gives weights to the first process alone.

    `accelerate` hands the student's on to the others; nobody would do so for the teacher.

    Raises:
        ValueError: it is on.
    """
    wanted = os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "false").lower() in ("1", "true", "yes")
    if args.world_size > 1 and is_asked_for(args) and wanted:
        raise ValueError(
            "fsdp_cpu_ram_efficient_loading is on, so only the first process would load the teacher, and the others would compare "
            "with nothing. Set it to false in the configuration of accelerate (recipes/accelerate/fsdp2.yaml does), or in "
            "--fsdp_config."
        )


def whole_student(trainer: Any) -> Any:
    """The trained student with whole weights, to be saved by the first process; every process must call it.

    Replicated, it is the student itself. Sharded (FSDP, DeepSpeed) the first process gets a copy on the CPU, and the others their own shards.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        return model
    state = trainer.accelerator.get_state_dict(trainer.model if trainer.is_fsdp_enabled else trainer.model_wrapped)
    if not trainer.accelerator.is_main_process:
        return model
    base = base_of(model)
    dtype = next(tensor.dtype for tensor in state.values() if tensor.is_floating_point())
    whole = AutoModelForCausalLM.from_config(base.config, dtype=dtype)
    whole.generation_config = base.generation_config
    if is_adapted(model):
        whole = add_adapter(whole, model.peft_config[model.active_adapter], seed=0)
    whole.load_state_dict(state, assign=True)
    base_of(whole).tie_weights()
    return whole.eval()
