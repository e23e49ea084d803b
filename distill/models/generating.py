"""Generating with a model as it is told, and not as its own generation config says: what a teacher and a student share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig


def left_padded(prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """`input_ids` and `attention_mask`, `[B, T]`, of prompts of unequal lengths: all end at the same place, where generation begins."""
    longest = max(map(len, prompts))
    input_ids = torch.full((len(prompts), longest), pad_id, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    for i, ids in enumerate(prompts):
        input_ids[i, longest - len(ids) :] = torch.as_tensor(ids, dtype=torch.long)
        mask[i, longest - len(ids) :] = 1
    return input_ids.to(device), mask.to(device)


@contextmanager
def own_generation_config(models: Sequence[Any], config: GenerationConfig) -> Iterator[None]:
    """generate() fills every unset value from the model's own generation config; hide that one meanwhile.

    Args:
        models: the model, and the one below its adapter: peft copies the config of the one to the other.
        config: what is put in its place.
    """
    before = [model.generation_config for model in models]
    for model in models:
        model.generation_config = config
    try:
        yield
    finally:
        for model, own in zip(models, before, strict=True):
            model.generation_config = own


def up_to_end(ids: Sequence[int], stops: set[int]) -> tuple[list[int], bool]:
    """What was emitted up to the first token that ends it, that one included, and whether there is one; behind it stands padding."""
    end = next((i for i, token in enumerate(ids) if token in stops), None)
    return (list(ids), False) if end is None else (list(ids[: end + 1]), True)
