"""Precision of sums: the widest floats that a device has. Apple's GPUs (MPS) have no float64."""

import copy
from typing import Any

import torch
from torch import Tensor

WITHOUT_FLOAT64 = ("mps",)


def exact_on(device: torch.device) -> torch.dtype:
    """The widest floats that a device adds in."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def exact(tensor: Tensor) -> Tensor:
    """In these."""
    return tensor.to(exact_on(tensor.device))


def where_float64_is(tensor: Tensor) -> Tensor:
    """Where it lies, or on the host where its device has none: for what float32 is not enough."""
    return tensor.cpu() if tensor.device.type in WITHOUT_FLOAT64 else tensor


def weights_in(model: Any, dtype: torch.dtype) -> Any:
    """A copy of a model with its weights in another precision; buffers stay what they are.

    `model.to(dtype)` would round buffers, too: the frequencies of rotary positions, which a model that is loaded in bfloat16 has in float32.

    Args:
        model: any; not changed.
        dtype: of the weights.
    """
    made = copy.deepcopy(model)
    for parameter in made.parameters():
        if parameter.is_floating_point():  # packed weights of 4 bits are bytes
            parameter.data = parameter.data.to(dtype)
    return made
