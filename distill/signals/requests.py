"""Ask for signals: one forward pass, and what was asked to be let out of it."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill.signals.attention import AttentionTap, record_attention
from distill.signals.head import HeadTap, LogitTransform, MixedHead, replaced_head, rows_of
from distill.signals.hidden import record_hidden
from distill.signals.rows import SupervisedRows, sent_to
from distill.signals.sparse import Sparse


@dataclass(frozen=True)
class SignalRequest:
    """What is to be let out of a forward pass.

    Args:
        logits: the next-token logits of the supervised rows, as the model gives them.
        head: what they are computed from; unless `logits` are wanted too, the model's own logits are not made at all. None:
            not wanted; else what `probe_head` found for this model.
        hidden: of which layers (0-based).
        attention: of which layers, the queries and keys.
        values: of which of these, the values, too; no map needs them.
        parts: of several teachers, what is wanted of each.
    """

    logits: bool = False
    head: LogitTransform | None = None
    hidden: frozenset[int] = frozenset()
    attention: frozenset[int] = frozenset()
    values: frozenset[int] = frozenset()
    parts: Mapping[Any, "SignalRequest"] = field(default_factory=dict)

    @classmethod
    def union(cls, requests: Iterable["SignalRequest"]) -> "SignalRequest":
        """All that any of them asks for."""
        return reduce(or_, requests, cls())

    def has_attention(self) -> bool:
        """Whether attention is wanted, of one teacher or of several."""
        return bool(self.attention) or any(part.has_attention() for part in self.parts.values())

    def __or__(self, other: "SignalRequest") -> "SignalRequest":
        return SignalRequest(
            self.logits or other.logits,
            self.head or other.head,
            self.hidden | other.hidden,
            self.attention | other.attention,
            self.values | other.values,
            {
                name: self.parts.get(name, SignalRequest()) | other.parts.get(name, SignalRequest())
                for name in (*self.parts, *other.parts)
            },
        )


@dataclass(frozen=True)
class Signals:
    """What was let out. N counts the supervised rows of the batch, in the order of `rows.nonzero()`.

    Args:
        rows: `[B, T]` bool, the supervised positions.
        logits: `[N, V]`, or None.
        hidden: layer to its output `[N, D]`; the last layer's is after the final norm, as `transformers` gives it.
        attention: layer to its queries and keys, perhaps values, for the whole batch.
        head: what the logits are computed from, or None.
        labels: `[N]`, the tokens that follow the supervised positions, where the caller has them.
        zero_loss: a zero that hangs on the model's output. Added to the loss of a wrapped model, it lets the wrapper (DDP) see
            all its parameters used, whatever was tapped.
        supervised: the same positions as `rows`, already looked up; see `where`.
        router_loss: of a mixture of experts that was told to give it: as it comes, before its coefficient; else None.
        sparse: a few tokens of each next-token distribution, of a source that has no more; else None.
        parts: of several teachers, one for each that has rows here; whoever reads them puts them together again by `order`.
        order: `[N]`: where each supervised row is, in the parts behind each other.
        mixed: of several teachers whose distributions are mixed, what all their logits are computed from, in place of `head`.
        aligned: of a teacher with another tokenizer, whose N' rows are others than the student's N: `[N]`, the student's rows, first those
            that are compared, and `[A]`, the teacher's row for each of these.
    """

    rows: Tensor
    logits: Tensor | None = None
    hidden: dict[int, Tensor] = field(default_factory=dict)
    attention: dict[int, AttentionTap] = field(default_factory=dict)
    head: HeadTap | None = None
    labels: Tensor | None = None
    zero_loss: Tensor | None = None
    supervised: SupervisedRows | None = None
    router_loss: Tensor | None = None
    sparse: Sparse | None = None
    parts: tuple["Part", ...] = ()
    order: Tensor | None = None
    mixed: MixedHead | None = None
    aligned: tuple[Tensor, Tensor] | None = None

    def where(self) -> SupervisedRows:
        """The supervised positions as numbers."""
        return SupervisedRows.of(self.rows) if self.supervised is None else self.supervised

    def of_part(self, part: "Part", request: SignalRequest) -> "Signals":
        """Of these signals, those of the rows of one of several teachers, as far as they are asked for."""

        def taken(states: Tensor | None) -> Tensor | None:
            return None if states is None else states.index_select(0, part.index)

        batch = sent_to(part.index.device, torch.as_tensor(part.batch))
        return Signals(
            rows=part.rows.mask,
            logits=taken(self.logits) if request.logits else None,
            hidden={layer: self.hidden[layer].index_select(0, part.index) for layer in request.hidden},
            attention={layer: self.attention[layer].of_rows(batch) for layer in request.attention},
            head=None if self.head is None else replace(self.head, hidden=self.head.hidden.index_select(0, part.index)),
            labels=taken(self.labels),
            supervised=part.rows,
        )


@dataclass(frozen=True)
class Part:
    """What one of several teachers says.

    Args:
        name: the value that leads to it.
        index: `[n]`, which of the N supervised rows.
        rows: where they are, in a batch of its rows alone.
        batch: which rows of the batch those are.
        signals: its own, `[n, ...]`.
    """

    name: Any
    index: Tensor
    rows: SupervisedRows
    batch: Sequence[int]
    signals: Signals


def run_with_taps(
    forward: Any,
    model: PreTrainedModel,
    inputs: dict[str, Tensor],
    rows: Tensor | SupervisedRows,
    request: SignalRequest,
    labels: Tensor | None = None,
) -> Signals:
    """One forward pass.

    Args:
        forward: what is called; the model, or the wrapper around it (DDP, FSDP), which must not be bypassed.
        model: the model itself.
        inputs: `input_ids`, `attention_mask`, perhaps `position_ids`; no labels.
        rows: the supervised positions, `[B, T]` bool or already looked up. The head sees these rows only.
        request: what to let out.
        labels: `[N]`, handed on in the signals.
    """
    where = rows if isinstance(rows, SupervisedRows) else SupervisedRows.of(rows)
    streams = request.head is not None
    arguments: dict[str, Any] = {"use_cache": False, "return_dict": True}
    if request.logits or not streams:
        # a boolean mask makes transformers select the rows before the head, so [B, T, V] never exists
        arguments["logits_to_keep"] = where.mask if request.logits else 1
    with ExitStack() as stack:
        attention = stack.enter_context(record_attention(model, request.attention, values=request.values))
        hidden = stack.enter_context(record_hidden(model, request.hidden, where))
        heads = []
        if request.head is not None:
            heads = stack.enter_context(replaced_head(model, where, request.head, with_logits=request.logits))
        output = forward(**inputs, **arguments)
    missing = request.attention - attention.keys()
    assert not missing, f"no attention was recorded for layers {sorted(missing)}; probe_attention should have refused"
    missing = request.hidden - hidden.keys()
    assert not missing, f"no hidden states were recorded for layers {sorted(missing)}; probe_hidden should have refused"
    assert len(heads) == streams, f"the head was called {len(heads)} times; probe_head should have refused"
    return Signals(
        rows=where.mask,
        logits=rows_of(output.logits, where) if request.logits else None,
        hidden=hidden,
        attention={layer: tap.to(where.mask.device) for layer, tap in attention.items()},
        head=heads[0] if heads else None,
        labels=labels,
        zero_loss=_zero_loss(output.logits),
        supervised=where,
        router_loss=found if isinstance(found := output.get("aux_loss"), Tensor) else None,
    )


def _zero_loss(logits: Tensor) -> Tensor:
    first = logits.reshape(-1)[:1]
    return first.masked_fill(torch.ones_like(first, dtype=torch.bool), 0).sum()  # 0 times inf would be NaN
