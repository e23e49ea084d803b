"""Weights of two models averaged: a student and the model it started from."""

import copy
from typing import Any

import torch
from transformers import PreTrainedModel

from distill.models.adapters import merged


def average(student: PreTrainedModel | Any, start: PreTrainedModel | Any, alpha: float) -> PreTrainedModel:
    """A model whose every weight is `(1 - alpha) * start + alpha * student`.

    Costs no training: between the start (0) and the student (1) often lies one that has most of the new skill and most of the old. At 0 and 1 the
    weights are those of the two, to the bit. Buffers are the student's.

    Args:
        student, start: of one architecture; neither is changed. An adapter is merged, in a copy.
        alpha: share of the student, 0 to 1.

    Returns:
        A new model, in the student's precision, in evaluation mode.

    Raises:
        ValueError: alpha out of range; other weights, or weights of other shapes.

    Source: WiSE-FT, Wortsman et al. 2022 (Robust fine-tuning of zero-shot models).

    Example:
        >>> half = average(student, start, 0.5)
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it is the student's share of each weight, from 0 (the start) to 1.")
    made: Any = merged(copy.deepcopy(student))
    theirs = dict(merged(copy.deepcopy(start)).named_parameters())
    ours = dict(made.named_parameters())
    if wrong := [name for name in {**ours, **theirs} if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape]:  # fmt: skip
        raise ValueError(
            f"Student and start differ in {len(wrong)} weights, the first is {wrong[0]}; only a student that was trained from this start, and not cut "
            "from it, can be averaged with it."
        )
    with torch.no_grad():
        for name, weight in ours.items():
            begun = theirs[name].to(weight.device, weight.dtype)
            if alpha == 0:  # not left to arithmetic, which makes 0 of -0
                weight.copy_(begun)
            elif alpha < 1:
                wide = torch.promote_types(weight.dtype, torch.float32)
                weight.copy_(torch.lerp(begun.to(wide), weight.to(wide), alpha))
    found: PreTrainedModel = made.eval()
    return found
