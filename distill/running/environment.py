"""Environment of a run: versions and machine, for its results."""

import platform

import torch
import transformers

from distill import __version__
from distill.models.load import fast_dtype


def versions() -> dict[str, str]:
    """Of what decides the figures of a run."""
    return {
        "distill": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "Python": platform.python_version(),
    }


def environment() -> dict[str, str]:
    """Versions, and what the run was computed on and in."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {**versions(), "on": f"{device}, {str(fast_dtype()).removeprefix('torch.')}"}
