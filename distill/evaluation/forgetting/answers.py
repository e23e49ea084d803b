"""What a model answers, as far as lengths and ends tell it."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.models.adapters import is_adapted, merged
from distill.models.load import fast_dtype
from distill.models.precision import weights_in
from distill.teachers.base import Sampling
from distill.teachers.local import LocalTeacher

BATCH = 32  # answers at once


@dataclass(frozen=True)
class Answers:
    """Answers to prompts, in their order.

    Args:
        texts: as they were said.
        tokens: length of each in tokens, its end included.
        ended: whether each ended by itself.
    """

    texts: list[str]
    tokens: list[int]
    ended: list[bool]


def answers_of(
    model: PreTrainedModel | Any, tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[list[int]],
    *, max_new_tokens: int = 64, temperature: float = 0.0, seed: int = 0,
) -> Answers:  # fmt: skip
    """Let a model answer; by default by its most likely tokens, so that two models differ by their weights alone.

    Args:
        model: who answers; float32 weights are copied to what the machine is fast at, an adapter merged in that copy.
        tokenizer: its own.
        prompt_ids: prompts in its tokens.
        max_new_tokens, temperature, seed: of the answers.

    Raises:
        ValueError: a prompt that, with its answer, exceeds the model's positions.
    """
    teacher = LocalTeacher(quick_copy(model), tokenizer)
    sampling, found = Sampling(max_new_tokens, temperature), []
    order = sorted(range(len(prompt_ids)), key=lambda number: len(prompt_ids[number]))  # little padding
    for start in range(0, len(order), BATCH):
        some = order[start : start + BATCH]
        found += teacher.complete([list(prompt_ids[number]) for number in some], sampling, seed=seed + start)
    back = sorted(range(len(order)), key=order.__getitem__)
    said = [found[number] for number in back]
    return Answers([one.text for one in said], [len(one.ids) for one in said], [one.finish_reason == "stop" for one in said])  # fmt: skip


def quick_copy(model: PreTrainedModel | Any) -> Any:
    """The model in the precision that this machine is fast at: a copy of float32 weights, its adapter merged; any other model itself."""
    dtype = fast_dtype()
    if model.dtype in (dtype, torch.float16, torch.bfloat16):
        return model
    # an adapter is merged in float32, and rounded once
    return weights_in(merged(copy.deepcopy(model)) if is_adapted(model) else model, dtype)
