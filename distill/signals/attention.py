"""Attention's queries and keys (values where asked for) let out of a forward pass, without touching the model's code.

`transformers` looks the attention function up by name in its `AttentionInterface` at every call. For the length of one
forward pass the model is pointed to a function that keeps what it is given and then calls the very function that was there
before, so the model's output does not change by a bit and no [T, T] map is ever formed by the tap.
"""

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from distill.models.evaluating import evaluating
from distill.signals.attention_masks import MaskRule, is_flash, mask_of_flash, mask_of_flex
from distill.signals.hidden import probe_tokens

# And the flash family, whatever its kernel is called. Other functions may be given masks of any other kind.
TAPPED_IMPLEMENTATIONS = ("sdpa", "eager", "flex_attention")
_PREFIX = "distill_tap_"
_slots: dict[str, Any] = {}  # registered name to the tap that is open under it
# Sparse attention: DeepSeek-V3.2 and its heirs (who also switch it on under the names above only), Doge.
_PICKS = ("index_topk", "index_topk_blocks", "keep_window_size")


@dataclass(frozen=True)
class AttentionTap:
    """What a layer's attention was computed from.

    Its map is softmax(transform(scaling * query . key) + mask) over the keys, where transform(z) = softcap * tanh(z / softcap), or
    z without a softcap. With `sinks`, one more column per head takes part in the softmax and in no output.

    Args:
        query: `[B, H, T, d]`, positions already applied.
        key: `[B, H_kv, T, d]`; H is a multiple of H_kv.
        value: `[B, H_kv, T, d_v]`, or None: no map needs them.
        mask: `[B or 1, H or 1, T, T]`, boolean (True: may be seen) or additive; or the rule that a flash or flex kernel follows; `None`:
            causal without padding.
        scaling: factor of the scores.
        softcap: bound of the scores (Gemma 2), or None.
        sinks: `[H]`, scores of the extra column (gpt-oss), or None.
    """

    query: Tensor
    key: Tensor
    value: Tensor | None
    mask: Tensor | MaskRule | None
    scaling: float
    softcap: float | None = None
    sinks: Tensor | None = None

    def to(self, device: torch.device) -> "AttentionTap":
        """On another device: the layers of a model that is spread over several leave their taps where they are."""
        if self.query.device == device:
            return self
        parts = {name: getattr(self, name) for name in ("query", "key", "value", "mask", "sinks")}
        moved: dict[str, Any] = {name: part.to(device) for name, part in parts.items() if isinstance(part, Tensor)}
        return replace(self, **moved)

    def of_rows(self, index: Tensor) -> "AttentionTap":
        """Of some rows of the batch."""
        parts: dict[str, Any] = {name: getattr(self, name) for name in ("query", "key", "value")}
        taken = {name: part.index_select(0, index) for name, part in parts.items() if part is not None}
        if isinstance(self.mask, MaskRule):
            taken["mask"] = self.mask.of_rows(index)
        elif self.mask is not None and len(self.mask) > 1:  # else one mask for all rows
            taken["mask"] = self.mask.index_select(0, index)
        return replace(self, **taken)


@contextmanager
def record_attention(
    model: PreTrainedModel,
    layers: frozenset[int] | set[int],
    outputs: dict[int, Tensor] | None = None,
    values: frozenset[int] | set[int] = frozenset(),
) -> Iterator[dict[int, AttentionTap]]:
    """Within it, forward passes of `model` leave an `AttentionTap` for each of `layers` in the dictionary that is yielded.

    Args:
        model: whose passes.
        layers: which, 0-based.
        outputs: if given, it is filled with what the attention of these layers returned, `[B, T, H, d_v]`.
        values: of which layers the values are kept, too; all of them with `outputs`.

    Raises:
        ValueError: the model's attention implementation cannot be tapped.
    """
    taps: dict[int, AttentionTap] = {}
    if not layers:
        yield taps
        return
    config = model.config.get_text_config(decoder=True)
    original, name = config._attn_implementation, type(model).__name__
    if original not in TAPPED_IMPLEMENTATIONS and not is_flash(original):
        raise ValueError(
            f"{name} uses attn_implementation={original!r}, which cannot be tapped; load it with "
            f"attn_implementation={TAPPED_IMPLEMENTATIONS[0]!r}, or leave AttentionMaps out."
        )
    rules: dict[Any, Any] = {}  # layers that are given the same mask have the same rule, and are computed side by side

    def tap(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> Any:
        function = ALL_ATTENTION_FUNCTIONS[original] if original != "eager" else _eager_function(module)
        with _called(module, original):
            output = function(module, query, key, value, attention_mask, **kwargs)
        layer = getattr(module, "layer_idx", None)
        if layer is not None and layer in layers:
            # DiffLlama asks twice for the same map, with other values
            if outputs is not None and layer in taps and not torch.equal(taps[layer].query, query):
                raise ValueError(
                    f"{name} computes several attention maps in layer {layer}, so there is no one map to compare; choose "
                    "other layers, or leave AttentionMaps out."
                )
            scaling = kwargs.get("scaling")
            taps[layer] = AttentionTap(
                query,
                key,
                value if layer in values or outputs is not None else None,
                _mask_of(original, module, query, attention_mask, kwargs, rules),
                query.shape[-1] ** -0.5 if scaling is None else float(scaling),
                kwargs.get("softcap"),
                kwargs.get("s_aux"),
            )
            if outputs is not None:
                outputs[layer] = output[0]
        return output

    name_of_tap = _free_slot(original)
    _slots[name_of_tap] = tap
    config._attn_implementation = name_of_tap
    try:
        yield taps
    finally:
        config._attn_implementation = original
        _slots[name_of_tap] = None  # or the registry would keep the tensors of the last batch alive


def _mask_of(
    original: str, module: Any, query: Tensor, mask: Any, given: dict[str, Any], rules: dict[Any, Any]
) -> Tensor | MaskRule | None:
    """The mask of a call of attention, in a form that can be read."""
    (batch, _, time, _), device = query.shape, query.device
    if original in ("sdpa", "eager"):
        return mask
    said = (mask, *(given.get(name) for name in ("sliding_window", "position_ids", "cu_seq_lens_q", "is_causal")))
    key = tuple(one if one is None or isinstance(one, int) else id(one) for one in said)
    if key not in rules:
        if original == "flex_attention":
            rule = mask_of_flex(mask, device)
        else:
            causal = given.get("is_causal")
            causal = getattr(module, "is_causal", True) if causal is None else causal
            rule = mask_of_flash((batch, time), device, mask, given, bool(causal))
        rules[key] = rule, said  # which stay alive, or another object could get the id of one
    return rules[key][0]


@contextmanager
def _called(module: Any, original: str) -> Iterator[None]:
    """Within it the layer's config names the kernel itself: those of the flash family look there for what to load."""
    config = getattr(module, "config", None)
    if config is None or not is_flash(original):
        yield
        return
    before, config._attn_implementation = config._attn_implementation, original
    try:
        yield
    finally:
        config._attn_implementation = before


def _free_slot(original: str) -> str:
    """The name of a registered function that calls `_slots[name]`; several contexts may be open at once.

    It ends as the original does: "flash" and a version are looked for in it.
    """
    for number in itertools.count():
        name = f"{_PREFIX}{number}_{original}"
        if name not in _slots:
            AttentionInterface.register(name, partial(_call_slot, name))
            AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[original])
            return name
        if _slots[name] is None:
            return name
    raise AssertionError


def _call_slot(name: str, *args: Any, **kwargs: Any) -> Any:
    tap = _slots[name]
    assert tap is not None, "a model went on calling a tap after its context"
    return tap(*args, **kwargs)


@torch.no_grad()
def probe_attention(
    model: PreTrainedModel, layers: frozenset[int]
) -> tuple[dict[int, AttentionTap], dict[int, Tensor]]:
    """Taps of a forward pass over a few tokens and what the attention returned; what would fail at step 1 fails here.

    Raises:
        ValueError: attention of some of the layers does not pass through the interface, or sees only keys that the model
            picks.
    """
    config = model.config.get_text_config(decoder=True)
    if picked := [name for name in _PICKS if getattr(config, name, None)]:
        raise ValueError(
            f"{type(model).__name__} attends only to keys that it picks ({picked[0]}={getattr(config, picked[0])}), and two "
            "models pick differently, so their maps cannot be compared; leave AttentionMaps out."
        )
    outputs = dict[int, Tensor]()
    with evaluating(model), record_attention(model, layers, outputs) as taps:
        model(input_ids=probe_tokens(model), use_cache=False)
    if missing := sorted(layers - taps.keys()):
        raise ValueError(
            f"{type(model).__name__} does not show the attention of layers {missing}: they have no softmax attention of "
            "their own, or it does not go through transformers' AttentionInterface. Choose other layers, or leave "
            "AttentionMaps out."
        )
    return taps, outputs


@torch.no_grad()
def layers_with_attention(model: PreTrainedModel) -> list[int]:
    """The layers whose attention can be tapped: not those of other kinds (Mamba, linear attention).

    Raises:
        ValueError: see `record_attention`.
    """
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    with evaluating(model), record_attention(model, set(range(count))) as taps:
        model(input_ids=probe_tokens(model), use_cache=False)
    return sorted(taps)


def _eager_function(module: Any) -> Any:
    """What `transformers` calls for "eager": a function of the file in which the layer's class is written."""
    for kind in type(module).__mro__:
        if function := getattr(sys.modules[kind.__module__], "eager_attention_forward", None):
            return function
    raise ValueError(f"{type(module).__name__} has no eager_attention_forward to call; leave AttentionMaps out.")
