"""A teacher whose weights are divided over all processes: torch's `fully_shard`, for a model that is never trained."""

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import PreTrainedModel

from distill.basics import processes


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
