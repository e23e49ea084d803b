"""Which layers, heads and relations of attention maps are compared."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor
from transformers.utils import logging

from distill.basics import processes
from distill.objectives import divergences
from distill.objectives.attention_layers import Window, pair_by_kind, window_of
from distill.objectives.base import LayerMap, Objective, Term, resolve_layers
from distill.objectives.streamed_attention import attention_divergence, attention_scores
from distill.signals import AttentionTap, SignalRequest, Signals, facts_of
from distill.signals.facts import Side

logger = logging.get_logger(__name__)

RELATIONS = ("query", "key", "value")


@dataclass(frozen=True)
class AttentionMaps(Objective):
    """Divergence of the student's attention maps from the teacher's at every supervised position, mean over heads and layers.

    Queries and keys are captured through the attention interface of `transformers`; the models keep their fast attention (sdpa, flash or
    flex), their outputs do not change, and the maps are never formed (`distill.objectives`). Attention sinks (gpt-oss) are part of a map if
    both sides have them; if one has, the maps are compared over the tokens alone.

    Args:
        layers: which pairs; see `distill.objectives.base.resolve_layers`. `"auto"` pairs layers of one kind with each other
            (`distill.objectives.attention_layers.pair_by_kind`), and each layer of a cut student with the teacher layer its weights
            came from.
        heads: pairs (student head, teacher head) to compare, as a mapping or a list; None: all, each with its own number.
        relations: compare, in place of the maps, how positions relate within queries, keys or values (any of `"query"`,
            `"key"`, `"value"`): the map softmax(A A^T / sqrt(d)) of each, split into `relation_heads` anew. It works with
            any number of heads and any width. Queries and keys are taken as attention gets them, with rotary positions.
        relation_heads: into how many heads; must divide the widths of both models. None: the largest number that does, up to
            the student's own heads.
        divergence: one of `distill.objectives.divergences.NAMES`.
        weight, name: of this term; see `Objective`.

    Raises:
        ValueError: an unknown word; on construction of the trainer: a model whose attention cannot be tapped or is not
            understood (what the tap gives is checked against what the layer returns), head counts or windows that do not
            fit, and the way out.

    Source: MiniLM (Wang et al. 2020); relations: MiniLMv2 (Wang et al. 2021).

    Example:
        >>> AttentionMaps(layers="last", weight=0.1)
    """

    kind: ClassVar[str] = "attention"

    layers: LayerMap = "auto"
    _: KW_ONLY
    heads: Mapping[int, int] | Sequence[tuple[int, int]] | None = None
    relations: Sequence[str] | None = None
    relation_heads: int | None = None
    divergence: str = "forward_kl"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.relations is not None and (not self.relations or not set(self.relations) <= set(RELATIONS)):
            raise ValueError(f"relations is {self.relations!r}; it must list some of {', '.join(RELATIONS)}.")
        if self.relations is not None and self.heads is not None:
            raise ValueError("relations splits heads anew, so heads cannot be chosen; give one of the two.")
        if self.relation_heads is not None and (self.relations is None or self.relation_heads < 1):
            raise ValueError(f"relation_heads is {self.relation_heads}; it is a number of heads, and needs relations.")
        divergences.by_name(self.divergence)

    def head_pairs(self) -> list[tuple[int, int]] | None:
        """(student head, teacher head) to compare; None: all, each with its own number."""
        return (
            None if self.heads is None else list(self.heads.items() if isinstance(self.heads, Mapping) else self.heads)
        )

    def bind(
        self,
        student: Side,
        teacher: Side,
        *,
        vocabulary: int | None = None,
        whole_weights: bool = True,
        longest: int | None = None,
    ) -> "AttentionMapsTerm":
        """See `Objective.bind`."""
        if self.layers == "auto":
            pairs = pair_by_kind(student, teacher, longest)
        else:
            pairs = resolve_layers(self.layers, student, teacher, span_end=False)
        taps = []
        for side, layers in zip(
            map(facts_of, (student, teacher)), ({s for s, _ in pairs}, {t for _, t in pairs}), strict=True
        ):
            found, outputs = side.attention(frozenset(layers))
            for layer, tap in found.items():
                _check_tap(tap, outputs[layer], layer, side.name)
            taps.append(found)
        alike_up_to = min(self._check_windows(student, teacher, s, t, longest) for s, t in pairs)
        if self.relations is not None:
            heads = self._relation_heads([taps[0][s] for s, _ in pairs], [taps[1][t] for _, t in pairs])
            return AttentionMapsTerm(self, pairs, heads, alike_up_to)
        for s, t in pairs:
            self._check_heads(taps[0][s], taps[1][t], s, t)
        one_sided = [(s, t) for s, t in pairs if (taps[0][s].sinks is None) is not (taps[1][t].sinks is None)]
        if one_sided:
            logger.warning_once(
                f"Only one side has attention sinks in layers {dict(one_sided)} (student: teacher); their maps are compared over the tokens "
                "alone, as if the other side had none either."
            )
        return AttentionMapsTerm(self, pairs, 1, alike_up_to)

    def _check_windows(self, student: Side, teacher: Side, s: int, t: int, longest: int | None) -> float:
        """In rows of up to how many tokens this pair can be compared.

        A KL is infinite where one side may look and the other cannot; the mixed and skewed ones are not.
        """
        ours, theirs = window_of(student.config, s), window_of(teacher.config, t)
        narrow, wide = {"forward_kl": (ours, theirs), "reverse_kl": (theirs, ours)}.get(self.divergence, (ours, ours))
        if narrow.sees_all_of(wide):
            return math.inf
        if narrow.within(longest) == Window():
            return narrow.size
        raise ValueError(
            f"Student layer {s} {ours} and teacher layer {t} {theirs}, and {self.divergence} is infinite where only one of them sees"
            f"{'' if longest is None else f' (rows have up to {longest} tokens with their padding)'}. Pair layers of equal windows, "
            f"layers={{student: teacher}}, give max_length={narrow.size} or less and no larger pad_to_multiple_of, or divergence='generalized_jsd', which is bounded."
        )

    def _check_heads(self, ours: AttentionTap, theirs: AttentionTap, s: int, t: int) -> None:
        counts = ours.query.shape[1], theirs.query.shape[1]
        for pair in self.head_pairs() or []:
            if not (0 <= pair[0] < counts[0] and 0 <= pair[1] < counts[1]):
                raise ValueError(
                    f"heads pairs student head {pair[0]} with teacher head {pair[1]}, but student layer {s} has {counts[0]} "
                    f"heads and teacher layer {t} has {counts[1]}."
                )
        if self.heads is None and counts[0] != counts[1]:
            raise ValueError(
                f"Student layer {s} has {counts[0]} attention heads and teacher layer {t} has {counts[1]}, so their maps "
                "cannot be compared head by head; give heads=[(student head, teacher head), ...], or "
                "relations=('query', 'key', 'value'), which compares any two."
            )

    def _relation_heads(self, ours: list[AttentionTap], theirs: list[AttentionTap]) -> int:
        assert self.relations is not None
        states = [getattr(tap, name) for tap in (*ours, *theirs) for name in self.relations]
        widths = sorted({tensor.shape[1] * tensor.shape[3] for tensor in states})
        common, own = math.gcd(*widths), ours[0].query.shape[1]
        split_into = self.relation_heads or max(n for n in range(1, own + 1) if common % n == 0)
        if common % split_into:
            raise ValueError(
                f"relation_heads is {self.relation_heads}, but {', '.join(self.relations)} are {widths} wide in these layers; it "
                f"must divide all of them ({common} is their common divisor)."
            )
        if any(isinstance(tap.mask, Tensor) and tap.mask.shape[1] > 1 for tap in (*ours, *theirs)):
            raise ValueError("relations needs one mask for all heads; this model adds a bias to each (ALiBi).")
        return split_into


class AttentionMapsTerm(Term):
    """`AttentionMaps`, bound.

    Args:
        objective: its settings.
        pairs: (student layer, teacher layer).
        split_into: relation heads.
        alike_up_to: in longer rows one side would see what the other does not.
    """

    objective: AttentionMaps

    def __init__(
        self,
        objective: AttentionMaps,
        pairs: Sequence[tuple[int, int]],
        split_into: int = 1,
        alike_up_to: float = math.inf,
    ) -> None:
        super().__init__(objective)
        self.pairs, self.split_into, self.alike_up_to = list(pairs), split_into, alike_up_to
        self.divergence, self.heads = divergences.by_name(objective.divergence), objective.head_pairs()
        sides, with_values = (
            [frozenset(side) for side in zip(*pairs, strict=True)],
            "value" in (objective.relations or ()),
        )
        self.student_request, self.teacher_request = (
            SignalRequest(attention=layers, values=layers if with_values else frozenset()) for layers in sides
        )
        self.decided = {"pairs": self.pairs, "split_into": split_into}

    def forward(self, student: Signals, teacher: Signals) -> Tensor:
        taps = [(student.attention[s], teacher.attention[t]) for s, t in self.pairs]
        if torch.is_grad_enabled() and not any(ours.query.requires_grad for ours, _ in taps):
            raise ValueError(
                "No gradient reaches the student's attention: nothing before it is trained, or checkpointing is reentrant "
                "(give gradient_checkpointing_kwargs={'use_reentrant': False})."
            )
        if not self.routed:
            self.check_batch(student.rows)
        taps = [_without_lone_sinks(*pair) for pair in taps]
        sides = [[part for pair in taps for part in self._compared(pair[side], side)] for side in (0, 1)]
        return attention_divergence(sides[0], sides[1], student.where(), self.divergence)

    def check_batch(self, rows: Tensor) -> None:
        """All processes say it together: whoever went on would wait for the others for ever."""
        length = rows.shape[1]
        if self.alike_up_to < math.inf and processes.any_of_them(length > self.alike_up_to, rows.device):
            whose = f"A batch is {length}" if length > self.alike_up_to else "A batch of another process is more"
            raise ValueError(
                f"{whose} tokens long, and in rows of more than {self.alike_up_to} tokens student and teacher see different ones; give "
                "max_length=, or keep longer rows out of the evaluation."
            )

    def _compared(self, tap: AttentionTap, side: int) -> list[AttentionTap]:
        """What of a layer is compared; side 0 is the student's."""
        if self.objective.relations is not None:
            return [_relation(tap, name, self.split_into) for name in self.objective.relations]
        return [tap if self.heads is None else _choose(tap, [pair[side] for pair in self.heads])]


def _without_lone_sinks(ours: AttentionTap, theirs: AttentionTap) -> tuple[AttentionTap, AttentionTap]:
    """Maps over the tokens alone where one side only has a sink: what it takes has no counterpart, and a KL would be infinite.

    Over the tokens both are distributions again: where a head looks, given that it looks at all.
    """
    if (ours.sinks is None) is (theirs.sinks is None):
        return ours, theirs
    return dataclasses.replace(ours, sinks=None), dataclasses.replace(theirs, sinks=None)


def _relation(tap: AttentionTap, name: str, heads: int) -> AttentionTap:
    """Queries (keys, values) of all heads side by side, split into `heads` parts, each compared with itself."""
    states: Tensor = getattr(tap, name).transpose(1, 2).flatten(2)
    states = states.unflatten(-1, (heads, -1)).transpose(1, 2)
    return AttentionTap(states, states, None, tap.mask, states.shape[-1] ** -0.5)


def _choose(tap: AttentionTap, heads: list[int]) -> AttentionTap:
    group = tap.query.shape[1] // tap.key.shape[1]
    shared = [head // group for head in heads]
    mask = tap.mask[:, heads] if isinstance(tap.mask, Tensor) and tap.mask.shape[1] > 1 else tap.mask
    sinks = None if tap.sinks is None else tap.sinks[heads]
    return dataclasses.replace(
        tap, query=tap.query[:, heads], key=tap.key[:, shared], value=None, mask=mask, sinks=sinks
    )


def _check_tap(tap: AttentionTap, output: Tensor, layer: int, name: str) -> None:
    """The map we compute, times the values, must be what the layer's attention returned: whatever it is, it is understood."""
    assert tap.value is not None
    scores = attention_scores(tap, 0, torch.arange(tap.query.shape[2], device=tap.query.device))
    maps = scores.softmax(-1)[..., : tap.key.shape[2]]
    values = tap.value[0].to(maps.dtype).repeat_interleave(len(maps) // tap.value.shape[1], dim=0)
    expected, seen = (maps @ values).transpose(0, 1), output[0].to(maps.dtype)
    tolerance = 1e-4 if output.dtype in (torch.float32, torch.float64) else 5e-2
    if expected.shape != seen.shape or (expected - seen).abs().max() > tolerance * expected.abs().max():
        raise ValueError(
            f"The attention of {name}, layer {layer}, is not softmax(query . key + mask) as far as it can be "
            "seen, so its map is not known; choose other layers, or leave AttentionMaps out."
        )
