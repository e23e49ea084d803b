"""Hidden states let out of a forward pass: the supervised rows of the wanted layers, taken the moment a layer has them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill.models.evaluating import evaluating
from distill.models.students import find_layers
from distill.signals.rows import SupervisedRows

# Their tuple starts with the output of layer 0, where all others start with the embeddings.
_WITHOUT_EMBEDDINGS = frozenset({"mamba", "mamba2", "falcon_mamba"})
# Where a model keeps its layers, by name: a wrapper that comes later (FSDP) puts other modules there.
_found: WeakKeyDictionary[PreTrainedModel, str] = WeakKeyDictionary()


def place_of(model: PreTrainedModel, layer: int) -> int:
    """Index of a layer's output in the model's `hidden_states`; the last layer's is the one after the final norm."""
    config = model.config.get_text_config(decoder=True)
    is_last = layer == config.num_hidden_layers - 1
    return layer if config.model_type in _WITHOUT_EMBEDDINGS and not is_last else layer + 1


@contextmanager
def record_hidden(
    model: PreTrainedModel, layers: frozenset[int] | set[int], rows: SupervisedRows
) -> Iterator[dict[int, Tensor]]:
    """Within it a forward pass of `model` is run; behind it, the dictionary that is yielded has `[N, D]` of each of `layers`.

    They are the rows of `hidden_states[place_of(model, layer)]`, bit for bit. Without gradients (a teacher, an evaluation) they are taken
    the moment the layer is done, so that no `[B, T, D]` outlives it, where `output_hidden_states` keeps those of all layers. With
    gradients the graph keeps them anyway, and rows are taken last: the order of sums in the backward pass, so its bits, are as ever.
    The last layer's are what the decoder gives, after its final norm.

    Args:
        model: as it is called, inside whatever wrapper.
        layers: which, 0-based; `probe_hidden` says whether they can be had.
        rows: the supervised positions.
    """
    states, whole = dict[int, Tensor](), dict[int, Tensor]()
    if not layers:
        yield states
        return
    last = model.config.get_text_config(decoder=True).num_hidden_layers - 1
    decoder, stack = _decoder_and_layers(model)

    def keep(layer: int, module: nn.Module, args: Any, output: Any) -> None:
        state = _first(output)
        if state.dim() != 3 or state.shape[:2] != rows.mask.shape:
            return  # no [B, T, D], as the probe finds out
        if torch.is_grad_enabled():
            whole[layer] = state
        else:
            states[layer] = taken(state)

    def taken(state: Tensor) -> Tensor:
        return rows.take(state).to(rows.mask.device)  # a model may be spread over devices

    handles = [
        (decoder if layer == last else stack[layer]).register_forward_hook(partial(keep, layer)) for layer in layers
    ]
    try:
        yield states
        states.update({layer: taken(whole[layer]) for layer in layers if layer in whole})
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def probe_hidden(model: PreTrainedModel, layers: frozenset[int]) -> dict[int, int]:
    """The width of each layer's hidden states, from a forward pass over a few tokens.

    Raises:
        ValueError: what would be taken for the output of a layer is not what the model calls its hidden state.
    """
    total = model.config.get_text_config(decoder=True).num_hidden_layers
    tokens = probe_tokens(model)
    everywhere = SupervisedRows.of(torch.ones_like(tokens, dtype=torch.bool))
    try:
        with evaluating(model), record_hidden(model, layers, everywhere) as found:
            states = model(input_ids=tokens, use_cache=False, output_hidden_states=True).hidden_states or ()
    except ValueError:  # no one list of layers
        found, states = {}, ()

    def is_shown(layer: int) -> bool:
        if len(states) != total + 1 or layer not in found:
            return False
        state = states[place_of(model, layer)]
        same = state.shape[:-1] == tokens.shape and state[0].shape == found[layer].shape
        return same and torch.equal(state[0].to(found[layer]), found[layer])

    if missing := sorted(layer for layer in layers if not is_shown(layer)):
        raise ValueError(
            f"{type(model).__name__} does not show the output of layers {missing} as a hidden state [B, T, D] of its own; "
            "choose other layers, or leave HiddenStates out."
        )
    return {layer: found[layer].shape[-1] for layer in layers}


def _decoder_and_layers(model: PreTrainedModel) -> tuple[nn.Module, nn.ModuleList]:
    """The layers, and the module that holds them: what it returns is after the final norm."""
    if model not in _found:
        _found[model] = find_layers(model)[0]
    name = _found[model]
    layers: Any = model.get_submodule(name)
    return model.get_submodule(name.rpartition(".")[0]), layers


def _first(output: Any) -> Tensor:
    """The states in what a module returns; of an output with names, its first is `last_hidden_state`."""
    return output if isinstance(output, Tensor) else output[0]


def probe_tokens(model: PreTrainedModel) -> Tensor:
    """`[1, 6]`, of any vocabulary."""
    return torch.arange(6, device=model.device)[None] % model.config.get_text_config(decoder=True).vocab_size
