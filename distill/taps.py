"""Let logits, hidden states and attention queries/keys out of a model's forward pass, without touching its code.

Attention: `transformers` looks the attention function up by name in its `AttentionInterface` at every call. For the length
of one forward pass the model is pointed to a function that keeps query and key and then calls the very function that was
there before, so the model's output does not change by a bit and no [T, T] map is ever formed by the model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# Other kernels get masks of other shapes, which maps.py does not read yet.
TAPPED_IMPLEMENTATIONS = ("sdpa",)
_PREFIX = "distill_tap_"


@dataclass(frozen=True)
class AttentionTap:
    """What a layer's attention was computed from: its map is softmax(scaling * query . key + mask) over the keys.

    Args:
        query: `[B, H, T, d]`, positions already applied.
        key: `[B, H_kv, T, d]`; H is a multiple of H_kv.
        mask: `[B or 1, H or 1, T, T]`, boolean (True: may be seen) or additive; `None`: causal without padding.
        scaling: factor of the scores.
    """

    query: Tensor
    key: Tensor
    mask: Tensor | None
    scaling: float


@dataclass(frozen=True)
class Wants:
    """What is to be let out of a forward pass: logits or not, and which layers (0-based)."""

    logits: bool = False
    hidden: frozenset[int] = frozenset()
    attention: frozenset[int] = frozenset()

    def __or__(self, other: "Wants") -> "Wants":
        return Wants(self.logits or other.logits, self.hidden | other.hidden, self.attention | other.attention)


@dataclass(frozen=True)
class Signals:
    """What was let out. N counts the supervised rows of the batch, in the order of `rows.nonzero()`.

    Args:
        rows: `[B, T]` bool, the supervised positions.
        logits: `[N, V]`, or None.
        hidden: layer to its output `[N, D]`; the last layer's is after the final norm, as `transformers` gives it.
        attention: layer to its queries and keys, for the whole batch.
    """

    rows: Tensor
    logits: Tensor | None = None
    hidden: dict[int, Tensor] = field(default_factory=dict)
    attention: dict[int, AttentionTap] = field(default_factory=dict)


def run_with_taps(
    forward: Any, model: PreTrainedModel, inputs: dict[str, Tensor], rows: Tensor, wants: Wants
) -> Signals:
    """One forward pass.

    Args:
        forward: what is called; the model, or the wrapper around it (DDP, FSDP), which must not be bypassed.
        model: the model itself.
        inputs: `input_ids`, `attention_mask`, perhaps `position_ids`; no labels.
        rows: `[B, T]` bool, the supervised positions. The head sees these rows only.
        wants: what to let out.
    """
    # a boolean mask makes transformers select the rows before the head, so [B, T, V] never exists
    keep = rows if wants.logits else 1
    with record_attention(model, wants.attention) as attention:
        output = forward(
            **inputs, logits_to_keep=keep, use_cache=False, output_hidden_states=bool(wants.hidden), return_dict=True
        )
    logits = None
    if wants.logits:
        logits = output.logits if output.logits.dim() == 2 else _rows_of(output.logits, rows)
    missing = wants.attention - attention.keys()
    assert not missing, f"no attention was recorded for layers {sorted(missing)}; probe_attention should have refused"
    return Signals(
        rows=rows,
        logits=logits,
        hidden={layer: output.hidden_states[layer + 1][rows] for layer in wants.hidden},
        attention=attention,
    )


@contextmanager
def record_attention(model: PreTrainedModel, layers: frozenset[int] | set[int]) -> Iterator[dict[int, AttentionTap]]:
    """Within it, forward passes of `model` leave the queries and keys of `layers` in the dictionary that is yielded.

    Raises:
        ValueError: the model's attention implementation cannot be tapped.
    """
    taps: dict[int, AttentionTap] = {}
    if not layers:
        yield taps
        return
    config = model.config.get_text_config(decoder=True)
    original = config._attn_implementation
    if original not in TAPPED_IMPLEMENTATIONS:
        raise ValueError(
            f"{type(model).__name__} uses attn_implementation={original!r}, which cannot be tapped; load it with "
            f"attn_implementation={TAPPED_IMPLEMENTATIONS[0]!r}, or leave AttentionMaps out."
        )
    function = ALL_ATTENTION_FUNCTIONS[original]

    def tap(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> Any:
        if module.layer_idx in layers:
            _refuse_unknown_scores(type(model).__name__, kwargs)
            taps[module.layer_idx] = AttentionTap(
                query, key, attention_mask, kwargs.get("scaling") or query.shape[-1] ** -0.5
            )
        return function(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register(_PREFIX + original, tap)
    AttentionMaskInterface.register(_PREFIX + original, ALL_MASK_ATTENTION_FUNCTIONS[original])
    config._attn_implementation = _PREFIX + original
    try:
        yield taps
    finally:
        config._attn_implementation = original


@torch.no_grad()
def probe_attention(model: PreTrainedModel, layers: frozenset[int]) -> dict[int, AttentionTap]:
    """Queries and keys of a forward pass over two tokens; asks at construction what would else fail at step 1.

    Raises:
        ValueError: attention of some of the layers does not pass through the interface, or is not a plain softmax.
    """
    was_training = model.training
    model.eval()
    try:
        with record_attention(model, layers) as taps:
            model(input_ids=torch.zeros((1, 2), dtype=torch.long, device=model.device), use_cache=False)
    finally:
        model.train(was_training)
    if missing := sorted(layers - taps.keys()):
        raise ValueError(
            f"{type(model).__name__} does not show the attention of layers {missing}: they have no softmax attention, or "
            "it does not go through transformers' AttentionInterface. Choose other layers, or leave AttentionMaps out."
        )
    return taps


def _refuse_unknown_scores(model: str, kwargs: dict[str, Any]) -> None:
    """Anything that changes the scores and that we would ignore must be refused, or the maps would silently be others."""
    for name in ("softcap", "s_aux", "position_bias", "head_mask"):
        if kwargs.get(name) is not None:
            raise ValueError(
                f"{model} gives its attention {name!r}, which AttentionMaps does not support; leave it out."
            )


def _rows_of(logits: Tensor, rows: Tensor) -> Tensor:
    """[N, V] of models that do not select rows before the head."""
    return logits[rows] if logits.shape[:2] == rows.shape else logits.reshape(-1, logits.shape[-1])
