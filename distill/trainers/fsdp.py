"""FSDP2 (torch's `fully_shard`): on CPUs, where `accelerate` leaves it off, and for a teacher, which is never trained.

`accelerate` 1.15 switches FSDP on for GPUs only and says nothing where there are none, so `--fsdp True` on a CPU would train
unsharded. `fully_shard` works there, over gloo; with it a recipe, a test or a checkpoint can be tried on a laptop.
"""

import os
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainingArguments

from distill import processes
from distill.adapters import add_adapter, base_of, is_adapted


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


def shard(model: PreTrainedModel, device: torch.device) -> list[FSDPModule]:
    """Divide a frozen model's weights over all processes, in place; each layer is gathered for its own forward pass.

    What is left (the head, the last norm, tied embeddings) is gathered in a forward pass and stays until `reshard`, because a
    streamed divergence reads the head again and again. Every process must call it, and run the model at the same time.

    Args:
        model: whole in every process; one that is sharded already is left as it is.
        device: of this process.

    Returns:
        The modules that gather: call `reshard` of each when the signals of a forward pass have been used.

    Raises:
        ValueError: there is one process, or the model does not say which of its modules are its layers.

    Source: ZeRO stage 3 (Rajbhandari et al. 2020), as torch's FSDP2.
    """
    if isinstance(model, FSDPModule):
        return _parts(model)
    if processes.count() == 1:
        raise ValueError(
            "shard_teacher divides the teacher's weights over processes, but there is one; start several with accelerate launch, "
            "or leave it out."
        )
    names = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} does not say which of its modules are its layers (_no_split_modules), so it cannot be "
            "sharded; leave shard_teacher out."
        )
    model.requires_grad_(False)  # gathered weights are kept for a backward pass otherwise
    mesh = init_device_mesh(device.type, (processes.count(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or head.weight is not embeddings.weight:
        fully_shard(embeddings, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    model.to(device)  # type: ignore[arg-type]
    return _parts(model)


def _parts(model: PreTrainedModel) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


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
