"""A model in evaluation mode for a while, and then as it was."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel


@contextmanager
def evaluating(model: nn.Module, modules: Collection[nn.Module] | None = None) -> Iterator[None]:
    """Within it the model and all its parts are in evaluation mode; afterwards each part is in the mode it was in.

    `model.train(was_training)` would not do: a part that somebody keeps in evaluation mode while the rest trains (frozen batch
    norm, a dropout switched off) would be in training afterwards.

    Args:
        model: any.
        modules: all its modules, where the caller has them (`modules_of`); to look for them and to ask each takes 23 ms with 32 layers of LoRA.

    Example:
        >>> with evaluating(model):
        ...     logits = model(input_ids=ids).logits
    """
    if modules is not None:
        training = [module for module in modules if module.training]
        try:
            for module in training:
                vars(module)["training"] = False  # Module's own assignment looks for parameters and buffers first
            yield
        finally:
            for module in training:
                vars(module)["training"] = True
        return
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def modules_of(model: nn.Module) -> list[nn.Module] | None:
    """All modules, if going to evaluation mode is no more than a flag for each of them; else None."""
    found = list(model.modules())

    def is_flag(module: nn.Module) -> bool:
        # transformers' own also exchanges kernels, where a model uses any
        plain = isinstance(module, PreTrainedModel) and not module.use_kernels
        return type(module).train in ((nn.Module.train, PreTrainedModel.train) if plain else (nn.Module.train,))

    return found if all(map(is_flag, found)) else None
