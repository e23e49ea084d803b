"""Probing: a few tokens run through a model before a training, to ask the model itself what it does."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from transformers.utils.generic import is_flash_attention_requested

from distill.models.configs import text_config_of

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Place(NamedTuple):
    """What must be known to run a model on a few tokens.

    Args:
        vocabulary: how many tokens it knows.
        device: where it takes them.
    """

    vocabulary: int
    device: torch.device


def embeddings_of(model: Any) -> Any:
    """The module of a model's token embeddings; None: it has none, or is of a class that does not say where."""
    try:
        return model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None


def place_of(model: Any) -> Place | None:
    """By its token embeddings; else by its config and its first weights. None: its weights are not there now, or it says neither.

    Args:
        model: without an adapter around it.
    """
    weight = getattr(embeddings_of(model), "weight", None)
    if weight is not None:
        return None if weight.is_meta or weight.dim() != 2 else Place(int(weight.shape[0]), weight.device)
    size = getattr(text_config_of(model), "vocab_size", None)
    first = next(iter(model.parameters()), None)
    if not isinstance(size, int) or first is None or first.is_meta or not first.numel():
        return None
    return Place(size, first.device)


def logits_of(output: Any) -> torch.Tensor | None:
    """What a model's output calls logits, be it a mapping or an object; None: nothing that is a tensor."""
    found = output.get("logits") if isinstance(output, dict) else getattr(output, "logits", None)
    return found if isinstance(found, torch.Tensor) else None


def probed(model: Any, run: Callable[[], T]) -> T:
    """What `run` finds; where it fails on a CPU under a kernel of the flash family, which is for GPUs, once more with plain attention.

    Args:
        model: that is run, without an adapter around it.
        run: what is asked; it may be run twice.
    """
    try:
        return run()
    except Exception:
        place = place_of(model)
        if place is None or place.device.type != "cpu" or not _is_flash(model):
            raise
    with _plain_attention(model):
        return run()


def probed_before(model: Any, device: torch.device | None, question: str, run: Callable[[], T]) -> T | None:
    """As `probed`, before a training; None, and a warning, for a model that cannot be run where its weights lie now.

    Under FSDP and DeepSpeed a model lies on the host when a trainer is made, where not every kernel runs.

    Args:
        model: without an adapter around it.
        device: where training runs; what fails there fails here. None: where the model is.
        question: what is not known then, for the warning.
        run: what is asked.
    """
    place = place_of(model)
    if place is None:
        warn_unasked(model, question, "its weights are not there yet, or it does not say how many tokens it knows")
        return None
    if device is None or place.device.type == device.type:
        return run()
    try:
        return probed(model, run)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        why = (
            f"its weights lie on {place.device} now, and it cannot be run there ({type(error).__name__}: {first[:120]})"
        )
        warn_unasked(model, question, why)
        return None


def warn_unasked(model: Any, question: str, why: str) -> None:
    """Say what a model was not asked."""
    logger.warning("%s was not asked whether %s: %s.", type(model).__name__, question, why)


def _is_flash(model: Any) -> bool:
    name = getattr(getattr(model, "config", None), "_attn_implementation", None)
    return isinstance(name, str) and is_flash_attention_requested(requested_attention_implementation=name)


@contextmanager
def _plain_attention(model: Any) -> Iterator[None]:
    """Within it the model computes attention with torch alone."""
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    before = {
        key: name
        for key, config in configs.items()
        if (name := getattr(config, "_attn_implementation", None)) is not None
    }
    plain = "sdpa" if getattr(model, "_supports_sdpa", False) else "eager"
    try:
        for key in before:
            configs[key]._attn_implementation = plain
        yield
    finally:
        for key, name in before.items():
            configs[key]._attn_implementation = name
