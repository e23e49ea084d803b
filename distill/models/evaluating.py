"""A model in evaluation mode for a while, and then as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within it the model and all its parts are in evaluation mode; afterwards each part is in the mode it was in.

    `model.train(was_training)` would not do: a part that somebody keeps in evaluation mode while the rest trains (frozen batch
    norm, a dropout switched off) would be in training afterwards.

    Example:
        >>> with evaluating(model):
        ...     logits = model(input_ids=ids).logits
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
