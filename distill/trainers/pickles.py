"""What of a checkpoint is a pickle, and how far it is looked at before anybody loads it.

Weights are safetensors. Trainer and torch keep the rest of a training's state in pickles, of two kinds: archives of tensors and
plain values, which are only ever read with `weights_only=True`; and, of sharded checkpoints, the index `.metadata`, which
torch reads with plain `pickle.load`. Both are read here first, by readers that know a handful of classes and run nothing else.
"""

import importlib
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.trainer_pt_utils import safe_globals

# weights as a pickle, which Trainer and peft would take where there is no safetensors file
_WEIGHTS = re.compile(r"(pytorch_model(-\d+-of-\d+)?|adapter_model)\.bin(\.index\.json)?")
_STATES = re.compile(r"(optimizer|scheduler|scaler)\.(pt|bin)|rng_state(_\d+)?\.pth|pytorch_model_fsdp(_\d+)?\.bin")
_INDEX_MODULES = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
_INDEX_NAMES = (("torch", "Size"), ("torch.serialization", "_get_layout"), ("collections", "OrderedDict"))


def refuse_pickled_weights(folder: Path) -> None:
    """Raises ValueError if weights in or below the folder are pickles, whatever lies beside them."""
    for path in sorted(folder.rglob("*.bin*")):
        if _WEIGHTS.fullmatch(path.name):
            raise ValueError(
                f"{path} is a pickle, which may run any code when it is loaded; weights are taken from safetensors files "
                "only. Remove it, or take another checkpoint."
            )


def check_file(path: Path) -> None:
    """Read the header of a safetensors file, the values of a state without its tensors' data, or an index.

    Raises:
        ValueError: it is damaged, or it holds something else; names the file.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                file.keys()
        elif _STATES.fullmatch(path.name):
            with safe_globals():  # as Trainer: the random state of numpy
                torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        elif path.name == ".metadata":
            with path.open("rb") as file:
                _Index(file).load()
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, AttributeError) as error:
        kind = "a safetensors file" if path.suffix == ".safetensors" else "tensors and plain values"
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} is damaged or does not hold {kind} ({first}). Take another checkpoint, or copy it anew."
        ) from None


class _Index(pickle.Unpickler):
    """Knows the classes of torch's own index and no others."""

    def find_class(self, module: str, name: str) -> Any:
        found = (
            getattr(importlib.import_module(module), name) if module in ("torch", "pathlib", *_INDEX_MODULES) else None
        )
        own = isinstance(found, type) and (
            (module in _INDEX_MODULES and found.__module__ == module)
            or (module == "pathlib" and issubclass(found, Path))
        )
        if own or isinstance(found, torch.dtype) or (module, name) in _INDEX_NAMES:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")
