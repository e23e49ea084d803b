"""One forward pass, and what was asked to be let out of it."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from distill.taps.attention import AttentionTap, record_attention
from distill.taps.head import Finish, HeadTap, replaced_head
from distill.taps.hidden import place_of


@dataclass(frozen=True)
class Wants:
    """What is to be let out of a forward pass.

    Args:
        logits: the next-token logits of the supervised rows, as the model gives them.
        head: what they are computed from, in their place: the model's own logits are not made at all. None: not wanted;
            else what `probe_head` found for this model. Ignored if logits are wanted too.
        hidden, attention: of which layers (0-based).
    """

    logits: bool = False
    head: Finish | None = None
    hidden: frozenset[int] = frozenset()
    attention: frozenset[int] = frozenset()

    def __or__(self, other: "Wants") -> "Wants":
        return Wants(
            self.logits or other.logits,
            self.head or other.head,
            self.hidden | other.hidden,
            self.attention | other.attention,
        )


@dataclass(frozen=True)
class Signals:
    """What was let out. N counts the supervised rows of the batch, in the order of `rows.nonzero()`.

    Args:
        rows: `[B, T]` bool, the supervised positions.
        logits: `[N, V]`, or None.
        hidden: layer to its output `[N, D]`; the last layer's is after the final norm, as `transformers` gives it.
        attention: layer to its queries, keys and values, for the whole batch.
        head: what the logits are computed from, or None.
        labels: `[N]`, the tokens that follow the supervised positions, where the caller has them.
    """

    rows: Tensor
    logits: Tensor | None = None
    hidden: dict[int, Tensor] = field(default_factory=dict)
    attention: dict[int, AttentionTap] = field(default_factory=dict)
    head: HeadTap | None = None
    labels: Tensor | None = None


def run_with_taps(
    forward: Any,
    model: PreTrainedModel,
    inputs: dict[str, Tensor],
    rows: Tensor,
    wants: Wants,
    labels: Tensor | None = None,
) -> Signals:
    """One forward pass.

    Args:
        forward: what is called; the model, or the wrapper around it (DDP, FSDP), which must not be bypassed.
        model: the model itself.
        inputs: `input_ids`, `attention_mask`, perhaps `position_ids`; no labels.
        rows: `[B, T]` bool, the supervised positions. The head sees these rows only.
        wants: what to let out.
        labels: `[N]`, handed on in the signals.
    """
    streams = wants.head is not None and not wants.logits
    arguments: dict[str, Any] = {"use_cache": False, "return_dict": True}
    if wants.hidden:
        arguments["output_hidden_states"] = True
    if not streams:
        # a boolean mask makes transformers select the rows before the head, so [B, T, V] never exists
        arguments["logits_to_keep"] = rows if wants.logits else 1
    with ExitStack() as stack:
        attention = stack.enter_context(record_attention(model, wants.attention))
        heads = stack.enter_context(replaced_head(model, rows, wants.head)) if streams and wants.head else []
        output = forward(**inputs, **arguments)
    missing = wants.attention - attention.keys()
    assert not missing, f"no attention was recorded for layers {sorted(missing)}; probe_attention should have refused"
    assert len(heads) == streams, f"the head was called {len(heads)} times; probe_head should have refused"
    return Signals(
        rows=rows,
        logits=_rows_of(output.logits, rows) if wants.logits else None,
        hidden={layer: output.hidden_states[place_of(model, layer)][rows] for layer in wants.hidden},
        attention=attention,
        head=heads[0] if heads else None,
        labels=labels,
    )


def _rows_of(logits: Tensor, rows: Tensor) -> Tensor:
    """[N, V] of models that select rows before the head, and of those that do not."""
    return logits[rows] if logits.shape[:2] == rows.shape else logits.reshape(-1, logits.shape[-1])
