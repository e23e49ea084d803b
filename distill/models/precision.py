"""Precision of sums: the widest floats that a device has. Apple's GPUs (MPS) have no float64."""

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
