"""What the tests of this folder share: they need a CUDA device, and some of them deterministic kernels."""

import os

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first matrix product runs

import pytest
import torch
from conftest import build_arguments

GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no CUDA device is there; `make gpu` on a machine with one"
    ),
]


def on_gpu(folder):
    """`conftest.arguments` for the GPU."""
    return lambda **changes: build_arguments(folder, **{"use_cpu": False, **changes})


def relative(one, other):
    """||one - other|| / ||other||, in float64."""
    return float((one.double() - other.double()).norm() / other.double().norm().clamp(min=1e-300))


@pytest.fixture
def cuda_arguments(tmp_path):
    return on_gpu(tmp_path / "out")


@pytest.fixture
def deterministic():
    """The same program gives the same bits."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)
