"""The LM head as a map over the vocabulary: its queries (the last hidden states) and its keys (its rows), not its logits.

For the length of one forward pass the head's `forward` is replaced by one that keeps what it was given, so no [B, T, V] is
ever made and the wrapper around the model (DDP, FSDP) is not bypassed. What the model does to its logits afterwards (final
softcap, logit scale) is found out by showing it known logits and is then computed by `distill.objectives`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from distill.models.evaluating import evaluating
from distill.signals.rows import SupervisedRows


@dataclass(frozen=True)
class LogitTransform:
    """What a model does to the logits its head gives: cap * tanh(scale * logits / cap), or scale * logits without a cap."""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """Out of place; any shape."""
        logits = logits if self.scale == 1 else logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


@dataclass(frozen=True)
class HeadTap:
    """What a model's next-token logits are computed from: transform(hidden . weight + bias).

    Args:
        hidden: `[N, D]`, what the head was given at the supervised rows.
        weight: `[V, D]`.
        bias: `[V]` or None.
        transform: what the model does to the result.
        dtype: the precision the head would have computed in (autocast's, or that of `hidden`).
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    transform: LogitTransform
    dtype: torch.dtype


@dataclass(frozen=True)
class MixedHead:
    """Several heads whose distributions are mixed: log p = log sum of exp(log_weights[i]) p_i.

    Args:
        heads: of the parts; their `hidden` are of the same N rows.
        log_weights: of each; the weights sum to 1.
    """

    heads: tuple[HeadTap, ...]
    log_weights: tuple[float, ...]


def head_of(model: PreTrainedModel) -> nn.Linear | None:
    """The head, if it is a plain matrix product whose rows can be read; None for all others (LoRA on it, quantised, ...)."""
    head = _in_use(model.get_output_embeddings())
    # exactly Linear: a subclass or a patched forward (LoRA, 8 bit, offloading) computes something else
    is_plain = type(head) is nn.Linear and not head._forward_hooks
    # fully_shard makes a class of these two and hooks that gather the weight before the forward pass
    is_plain = (is_plain or type(head).__bases__ == (FSDPModule, nn.Linear)) and "forward" not in vars(head)
    return head if is_plain and head.weight.device.type != "meta" else None


def _in_use(head: Any) -> Any:
    """peft's `modules_to_save` keeps a trained copy beside the original: the one of the two that is called now."""
    copies = getattr(head, "modules_to_save", None)
    if copies is None:
        return head
    active = next(iter(head.active_adapters), None)
    return head.original_module if head.disable_adapters or active not in copies else copies[active]


def rows_of(states: Tensor, rows: SupervisedRows) -> Tensor:
    """`[N, ...]` of models that select rows before the head, and of those that do not."""
    return rows.take(states) if states.shape[:2] == rows.mask.shape else states.reshape(-1, states.shape[-1])


class _InGraph(torch.autograd.Function):
    """The states, with the head in their graph, where DDP looks for the parameters in use. It gets no gradient from here: a gradient of
    zeros would be as large as the head, beside the one that the loss gives it."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, *head: Tensor | None) -> Tensor:
        return states.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return upstream, None, None


@contextmanager
def replaced_head(
    model: PreTrainedModel, rows: SupervisedRows, transform: LogitTransform, with_logits: bool = False
) -> Iterator[list[HeadTap]]:
    """Within it, forward passes return `[.., 1]` in place of logits; when it ends, their `HeadTap`s are in the list that is yielded.

    `with_logits`: the logits are made as well.
    """
    head, taps, seen = head_of(model), list[HeadTap](), list[Any]()
    assert head is not None, "probe_head was asked before, and the head has been changed since"

    def forward(hidden: Tensor) -> Tensor:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        seen.append((hidden, head.weight, head.bias, dtype))
        if with_logits:
            return nn.functional.linear(hidden, head.weight, head.bias)
        return _InGraph.apply(hidden[..., :1], head.weight, head.bias)

    head.forward = forward  # type: ignore[assignment, method-assign]
    try:
        yield taps
    finally:
        del head.forward
    # behind the pass: within it, torch.compile would compile anew for every number of rows
    taps += [HeadTap(rows_of(hidden, rows), weight, bias, transform, dtype) for hidden, weight, bias, dtype in seen]


@torch.no_grad()
def probe_head(model: PreTrainedModel) -> LogitTransform | None:
    """How to compute this model's logits from what its head is given; None if it cannot be done exactly.

    The model is run on two tokens with its head replaced by one that returns known values from -60 to 60; what comes out
    shows what the model does to its logits. Whether it is one of the forms of `LogitTransform` is checked, not believed.
    """
    head = head_of(model)
    if head is None:
        return None
    config = model.config.get_text_config(decoder=True)
    known = torch.linspace(-60, 60, head.out_features, device=head.weight.device, dtype=torch.float32)
    called = []

    def forward(hidden: Tensor) -> Tensor:
        called.append(True)
        return known.to(hidden.dtype).expand(*hidden.shape[:-1], -1)

    head.forward = forward  # type: ignore[assignment, method-assign]
    try:
        with evaluating(model):
            tokens = torch.zeros((1, 2), dtype=torch.long, device=model.device)
            logits = model(input_ids=tokens, use_cache=False).logits
    finally:
        del head.forward
    if not called or logits.shape[-1] != len(known):
        return None
    seen, shown = logits[0, -1].float(), known.to(logits.dtype)
    tolerance = 1e-5 if logits.dtype in (torch.float32, torch.float64) else 1e-2
    for transform in _candidates(config):
        if torch.allclose(transform(shown).float(), seen, rtol=tolerance, atol=tolerance):
            return transform
    return None


def _candidates(config: object) -> Iterator[LogitTransform]:
    """The forms found in `transformers`: multiplied (Cohere, Falcon-H1), divided (Granite), capped (Gemma, xLSTM)."""
    scales = [1.0]
    for name in ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier"):
        value = getattr(config, name, None)
        scales += [value, 1 / value] if isinstance(value, int | float) and value else []
    names = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
    caps = [None, *(getattr(config, name, None) for name in names)]
    for cap in dict.fromkeys(caps):
        for scale in dict.fromkeys(scales):
            yield LogitTransform(float(scale), cap)
