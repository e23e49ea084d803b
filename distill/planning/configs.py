"""A model from its config alone: its class, its shapes, its number of parameters. No weight is fetched, made or read."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from distill.models.embedded import EMBEDDED, cache_folder
from distill.models.students import _cut_config, choose_layers

FIELDS = ("num_hidden_layers", "hidden_size", "vocab_size")


@dataclass(frozen=True)
class Shape:
    """A model on the meta device: shapes without storage.

    Args:
        name: what it was asked for by.
        model: its class and shapes.
    """

    name: str
    model: PreTrainedModel

    @property
    def config(self) -> Any:
        """Of the language model within."""
        return self.model.config.get_text_config(decoder=True)

    @property
    def parameters(self) -> int:
        """Every weight once, tied ones too."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def kept_whole(self) -> int:
        """Parameters that FSDP2 gathers once for forward and backward pass: head, last norm, tied embeddings."""
        head = self.model.get_output_embeddings()
        return 0 if head is None else sum(p.numel() for p in head.parameters()) + int(self.config.hidden_size)

    @property
    def largest_linear(self) -> int:
        """Parameters of the largest linear layer but the head."""
        return max((linear.weight.numel() for linear in linear_layers(self.model)), default=0)

    def weight_bytes(self, bits: int | None = None) -> int:
        """Bytes of the weights; with `bits` 4 or 8, those of linear layers but the head are quantised (bitsandbytes).

        8 bits add a float32 scale a row. 4 bits, quantised twice, add 8 bits for every 64 weights and 32 for every 16,384.
        Source: LLM.int8 (Dettmers et al. 2022), QLoRA (Dettmers et al. 2023).
        """
        total = sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())
        if bits is None:
            return total
        for linear in linear_layers(self.model):
            count = linear.weight.numel()
            total -= count * linear.weight.element_size()
            total += count + 4 * len(linear.weight) if bits == 8 else round(count * (4 + 8 / 64 + 32 / 16_384) / 8)
        return total


def linear_layers(model: PreTrainedModel) -> list[nn.Linear]:
    """All but the head, which quantisers leave as it is."""
    head: Any = model.get_output_embeddings()
    return [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]


def shape_of(name: str | os.PathLike[str] | PreTrainedConfig, dtype: torch.dtype) -> Shape:
    """The model of a config.

    Args:
        name: an embedded model that has been fetched, a folder with a config.json, a Hub id (only its config is fetched), or a
            config.
        dtype: of the weights.

    Raises:
        ValueError: no such model; a config that does not say how large the model is, or of no causal language model.
    """
    config = name if isinstance(name, PreTrainedConfig) else read_config(name)
    shown = type(config).__name__ if isinstance(name, PreTrainedConfig) else os.fspath(name)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"The config of {shown} makes no causal language model: {first[:200]}") from error
    model.tie_weights()
    return Shape(shown, model)


def cut(teacher: Shape, layers: int, dtype: torch.dtype) -> Shape:
    """The student of so many of the teacher's layers, spread evenly; which ones matters only where layers are unlike."""
    total = teacher.config.num_hidden_layers
    kept = choose_layers(teacher.model, layers, "even")
    student = shape_of(_cut_config(teacher.model.config, kept, total), dtype)
    return Shape(f"{layers} of {total} layers of {teacher.name}", student.model)


def read_config(name: str | os.PathLike[str]) -> PreTrainedConfig:
    """The config of a model by any name; errors as in `shape_of`."""
    text = os.fspath(name)
    source = text
    if text in EMBEDDED and not Path(text).is_dir():
        source = str(cache_folder() / text)
        if not (cache_folder() / text / "config.json").is_file():
            raise ValueError(
                f"{text} has not been fetched yet ({EMBEDDED[text].megabytes} MB), so its config is not here; any recipe "
                "fetches it on its first run."
            )
    elif (folder := Path(text).expanduser()).is_dir():
        source = str(folder)
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} has no config.json, so the size of its model is not known.")
    elif folder.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1 or not text.strip():
        raise ValueError(f"No folder {text!r}; give a folder with a config.json, a Hub id, or {', '.join(EMBEDDED)}.")
    try:
        raw, _ = PreTrainedConfig.get_config_dict(source)
        config: PreTrainedConfig = AutoConfig.from_pretrained(source)
    except OSError as error:  # transformers' word for: not on the Hub, no connection, no such file, no JSON
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"No config of {text!r} can be had: {first}") from error
    except (ValueError, KeyError, TypeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"The config of {text!r} cannot be read: {first}") from error
    _check_fields(text, raw, config)
    return config


def _check_fields(name: str, raw: dict[str, Any], config: PreTrainedConfig) -> None:
    """What a file leaves out, its class fills with the sizes of some published model: refused, or the plan would be of that."""
    inner = config.get_text_config(decoder=True)
    parts = [raw, *(part for part in raw.values() if isinstance(part, dict))]
    named = {key for part in parts for key in part}
    missing = [field for field in FIELDS if not {field, inner.attribute_map.get(field, field)} & named]
    if missing:
        raise ValueError(
            f"The config of {name} does not say {', '.join(missing)}, so the size of the model is not known; a complete "
            "config.json has them."
        )
    wrong = [f"{field} {getattr(inner, field, None)!r}" for field in FIELDS if not _is_positive(inner, field)]
    if wrong:
        raise ValueError(f"The config of {name} has {', '.join(wrong)}; each must be a whole number above 0.")


def _is_positive(config: Any, field: str) -> bool:
    value = getattr(config, field, None)
    return isinstance(value, int) and value > 0
