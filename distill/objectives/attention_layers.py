"""Layers of attention that are alike: how far they see, and which are paired where two models have several kinds."""

import math
from dataclasses import dataclass

from transformers import PreTrainedConfig
from transformers.utils import logging

from distill.objectives.base import cut_from, evenly, resolve_layers
from distill.signals.facts import Side, facts_of

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Window:
    """How many tokens a position sees, itself among them.

    Args:
        size: `inf`: all that stand before it.
        chunked: it sees those of its own chunk of the row, so many at most; else the last so many.
    """

    size: float = math.inf
    chunked: bool = False

    @property
    def kind(self) -> str:
        """In a word."""
        return "full" if self.size == math.inf else "chunked" if self.chunked else "sliding"

    def within(self, longest: int | None) -> "Window":
        """The same in rows of at most so many tokens: a window as wide as the row hides nothing."""
        return Window() if longest is not None and longest <= self.size else self

    def sees_all_of(self, other: "Window") -> bool:
        """Whether every position sees whatever it would see with the other window."""
        if self.chunked and self.size != math.inf:
            return other.chunked and self.size % other.size == 0
        return self.size >= other.size

    def __str__(self) -> str:
        if self.size == math.inf:
            return "sees all tokens before it"
        return f"sees its own chunk of {self.size}" if self.chunked else f"sees the last {self.size} tokens"


def window_of(config: PreTrainedConfig, layer: int) -> Window:
    """The window of a layer, as far as its config says."""
    config = config.get_text_config(decoder=True)
    kind = (getattr(config, "layer_types", None) or [None] * (layer + 1))[layer]
    if kind is not None and "chunked" in kind:
        return Window(getattr(config, "attention_chunk_size", None) or math.inf, chunked=True)
    slides = "sliding" in kind if kind is not None else getattr(config, "use_sliding_window", True)
    window = getattr(config, "sliding_window", None) or getattr(config, "attention_window_size", None)
    return Window(window if window and slides else math.inf)


def pair_by_kind(student: Side, teacher: Side, longest: int | None) -> list[tuple[int, int]]:
    """What `layers="auto"` means for attention: pairs (student layer, teacher layer) that can be compared.

    A cut student's layers go with those that their weights came from. Else layers of one kind (full, sliding, chunked) are spread
    over the other model's layers of that kind, last to last; layers without maps (Mamba, linear attention) and of a kind that the
    other side lacks stay out. Where the sides have no kind in common, all layers are spread over all.

    Args:
        student, teacher: facts of both sides.
        longest: tokens of the longest row, if that is known: a window as wide is none.

    Raises:
        ValueError: see `distill.objectives.base.resolve_layers`.
    """
    shown = [facts_of(side).attention_layers() for side in (student, teacher)]
    if cut_from(student, teacher) or not all(shown):
        every = resolve_layers("auto", student, teacher, span_end=False)
        return [(s, t) for s, t in every if s in shown[0] and t in shown[1]] or every
    kinds = [
        {layer: window_of(side.config, layer).within(longest).kind for layer in layers}
        for side, layers in zip((student, teacher), shown, strict=True)
    ]
    common = sorted(set(kinds[0].values()) & set(kinds[1].values()))
    if not common:
        kinds, common = [dict.fromkeys(layers, "any") for layers in shown], ["any"]
    if len({*kinds[0].values(), *kinds[1].values()}) == 1 and len(shown[0]) > len(shown[1]):
        return resolve_layers("auto", student, teacher, span_end=False)  # which says why not
    pairs: list[tuple[int, int]] = []
    for kind in common:
        ours, theirs = ([layer for layer, own in side.items() if own == kind] for side in kinds)
        fewer = min(len(ours), len(theirs))
        pairs += zip(
            (ours[i] for i in evenly(fewer, len(ours))), (theirs[i] for i in evenly(fewer, len(theirs))), strict=True
        )
    pairs.sort()
    if len(pairs) < student.config.get_text_config(decoder=True).num_hidden_layers:
        logger.warning_once(
            f"AttentionMaps pairs layers of one kind with each other: {dict(pairs)} (student: teacher). The student's other layers have "
            "no maps, or the teacher has fewer of their kind; give layers={student: teacher} for another choice."
        )
    return pairs
