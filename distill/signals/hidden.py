"""Hidden states: where `transformers` puts the output of a layer, and whether it does."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.models.evaluating import evaluating

# Their tuple starts with the output of layer 0, where all others start with the embeddings.
_WITHOUT_EMBEDDINGS = frozenset({"mamba", "mamba2", "falcon_mamba"})


def place_of(model: PreTrainedModel, layer: int) -> int:
    """Index of a layer's output in the model's `hidden_states`; the last layer's is the one after the final norm."""
    config = model.config.get_text_config(decoder=True)
    is_last = layer == config.num_hidden_layers - 1
    return layer if config.model_type in _WITHOUT_EMBEDDINGS and not is_last else layer + 1


@torch.no_grad()
def probe_hidden(model: PreTrainedModel, layers: frozenset[int]) -> dict[int, int]:
    """The width of each layer's hidden states, from a forward pass over a few tokens.

    Raises:
        ValueError: what would be taken for the output of a layer is something else.
    """
    total = model.config.get_text_config(decoder=True).num_hidden_layers
    names, outputs = {str(layer) for layer in layers}, dict[str, list[Tensor]]()

    def keep_as(name: str) -> Any:
        def keep(module: Any, args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple | list) and output else output
            outputs.setdefault(name, []).extend([first] if isinstance(first, Tensor) else [])

        return keep

    # wherever a model keeps its layers, layer 7 is called "....7"
    modules = [(name.rpartition(".")[2], module) for name, module in model.named_modules()]
    handles = [module.register_forward_hook(keep_as(name)) for name, module in modules if name in names]
    tokens = probe_tokens(model)
    try:
        with evaluating(model):
            states = model(input_ids=tokens, use_cache=False, output_hidden_states=True).hidden_states or ()
    finally:
        for handle in handles:
            handle.remove()

    def is_shown(layer: int) -> bool:
        if len(states) != total + 1:
            return False
        state = states[place_of(model, layer)]
        like = [o for o in outputs.get(str(layer), []) if (o.dtype, o.device) == (state.dtype, state.device)]
        is_output = layer == total - 1 or any(torch.equal(state, output) for output in like)
        return state.shape[:-1] == tokens.shape and is_output

    if missing := sorted(layer for layer in layers if not is_shown(layer)):
        raise ValueError(
            f"{type(model).__name__} does not show the output of layers {missing} as a hidden state [B, T, D] of its own; "
            "choose other layers, or leave HiddenStates out."
        )
    return {layer: states[place_of(model, layer)].shape[-1] for layer in layers}


def probe_tokens(model: PreTrainedModel) -> Tensor:
    """`[1, 6]`, of any vocabulary."""
    return torch.arange(6, device=model.device)[None] % model.config.get_text_config(decoder=True).vocab_size
