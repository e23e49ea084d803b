"""Settings under which equality bit for bit cannot be expected of two programs; each is named, with the way out."""

import os

import torch
from torch import nn
from transformers import PreTrainedModel

_ATTENTION_RATES = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob", "attn_dropout")


def obstacles(*models: PreTrainedModel) -> list[str]:
    """Why trainings of these models, with everything else equal, need not give the same bits; empty: no reason known.

    The theorem is about functions; a computer adds in some order. Whatever changes the order, or draws random numbers at
    another time, changes the bits and says nothing about the theorem.

    Args:
        models: the starts of the trainings to compare; one, if they all start from it.
    """
    found = []
    kernels = {str(model.config._attn_implementation) for model in models}
    if len(kernels) > 1:
        found.append(
            f"the models use different attention kernels ({', '.join(sorted(kernels))}), which add in different orders; "
            "load both with one attn_implementation"
        )
    dtypes = {str(model.dtype).removeprefix("torch.") for model in models}
    if len(dtypes) > 1:
        found.append(f"the models' weights have different types ({', '.join(sorted(dtypes))}); load both in one dtype")
    for model in models:
        if where := _dropout(model):
            found.append(
                f"dropout is on ({where}), and every program draws its random numbers at other times; set it to 0 in the config"
            )
            break
    if any(model.device.type != "cpu" for model in models) and not torch.are_deterministic_algorithms_enabled():
        found.append(
            "a model is on an accelerator, where sums are not repeatable by default; call "
            "torch.use_deterministic_algorithms(True), or run on the CPU"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        found.append(
            f"there are {os.environ['WORLD_SIZE']} processes, whose gradients are added in an order of their own; run one"
        )
    return found


def _dropout(model: PreTrainedModel) -> str | None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            return f"{name}, p={module.p}"
    config = model.config.get_text_config(decoder=True)
    for name in _ATTENTION_RATES:  # attention reads its rate from the config and not from a module
        if value := getattr(config, name, 0.0):
            return f"config.{name}={value}"
    return None
