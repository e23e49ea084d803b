"""Facts about a side, known before a batch comes: all that objectives ask when they are bound, of a model or of what stands for one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from distill.models.adapters import adapters_word, base_of
from distill.models.load import config_fingerprint, tokenizer_of, weights_fingerprint
from distill.models.probing import probed
from distill.signals.attention import AttentionTap, layers_with_attention, probe_attention
from distill.signals.head import LogitTransform, probe_head
from distill.signals.hidden import probe_hidden


class TeacherFacts:
    """What can be known of a side. One that is no model gives what it has; whatever else is asked for is refused.

    Attributes:
        name: for messages.
        config: of the model, or of the one whose signals these are.
        vocabulary: rows of its head.
        next_token: what it gives of its next-token distributions: `"head"` (what logits are made of), `"logits"`, `"atoms"` or
            `"top"` (`distill.signals.sparse`).
        temperature: at which its probabilities were taken; None: any may be asked for.
        model: the model itself, where one is there.
    """

    name: str
    config: PreTrainedConfig
    vocabulary: int
    next_token: str = "head"
    temperature: float | None = None
    model: PreTrainedModel | None = None

    def transform(self) -> LogitTransform | None:
        """How its logits are made from what its head is given; None: they cannot, and only the logits themselves are there."""
        return None

    def widths(self, layers: frozenset[int]) -> dict[int, int]:
        """The width of the hidden states of each of these layers."""
        raise ValueError(
            f"{self.name} gives next-token distributions and no hidden states; leave HiddenStates out, or give the teacher as a model."
        )

    def attention(self, layers: frozenset[int]) -> tuple[dict[int, AttentionTap], dict[int, Tensor]]:
        """Taps of these layers over a few tokens, and what their attention gave."""
        raise ValueError(
            f"{self.name} gives next-token distributions and no attention; leave AttentionMaps out, or give the teacher as a model."
        )

    def attention_layers(self) -> list[int]:
        """The layers whose attention can be seen."""
        return [*self.attention(frozenset())[0]]

    def find_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer, as far as it can be found."""
        return None


class ModelFacts(TeacherFacts):
    """Facts of a model that is there; each is asked of the model itself, by a forward pass over a few tokens.

    Args:
        model: without a wrapper.

    Raises:
        ValueError: its config is none of `transformers`.
    """

    model: PreTrainedModel

    def __init__(self, model: PreTrainedModel) -> None:
        config = getattr(model, "config", None)
        if not hasattr(config, "get_text_config"):
            raise ValueError(
                f"{type(model).__name__} has {'no config' if config is None else f'a config of class {type(config).__name__}'}, and what is inside a model "
                "is found by that of a transformers.PreTrainedModel. Make it one, with a PreTrainedConfig (num_hidden_layers, hidden_size, ...)."
            )
        self.model, self.name, self.config = model, type(model).__name__, model.config

    @property
    def vocabulary(self) -> int:  # type: ignore[override]
        """Rows of the head; under ZeRO 3 its shape stands beside an empty tensor."""
        weight: Any = self.model.get_output_embeddings().weight
        return int(getattr(weight, "ds_shape", weight.shape)[0])

    def transform(self) -> LogitTransform | None:
        return probed(self.model, lambda: probe_head(self.model))

    def widths(self, layers: frozenset[int]) -> dict[int, int]:
        return probed(self.model, lambda: probe_hidden(self.model, layers))

    def attention(self, layers: frozenset[int]) -> tuple[dict[int, AttentionTap], dict[int, Tensor]]:
        return probed(self.model, lambda: probe_attention(self.model, layers))

    def attention_layers(self) -> list[int]:
        return probed(self.model, lambda: layers_with_attention(self.model))

    def find_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """See `TeacherFacts`; looked for where the model says that it came from."""
        return tokenizer_of(self.model)


Side = TeacherFacts | PreTrainedModel  # what an objective is bound to


def facts_of(side: Side) -> TeacherFacts:
    """Facts of a model; facts as they are."""
    return ModelFacts(side) if isinstance(side, torch.nn.Module) else side


def describe_model(model: Any, student: Any = None) -> str:
    """Which model it is, by its architecture, its config, its weights and how its adapters compute, wherever it was loaded from.

    Args:
        model: the teacher.
        student: whose trained weights are left out, where both share a model.
    """
    config = model.config.get_text_config(decoder=True)
    trained = set() if student is None else {id(p) for p in student.parameters() if p.requires_grad}
    own = {name: p for name, p in model.named_parameters() if id(p) not in trained}
    layers = f"{config.num_hidden_layers} layers" if hasattr(config, "num_hidden_layers") else "no layers"
    # what shares the student's model has its adapters off
    adapters = "" if student is not None and base_of(student) is base_of(model) else adapters_word(model)
    return (
        f"{type(model).__name__} of {layers} in {str(model.dtype).removeprefix('torch.')} with "
        f"{getattr(config, '_attn_implementation', None)} attention, weights {weights_fingerprint(own.items())}, "
        f"config {config_fingerprint(model.config)}{f', adapters {adapters}' if adapters else ''}"
    )


def as_said_then(there: Any, now: Any) -> Any:
    """What `describe_model` says now, in the words that an earlier version had; inside whatever a source made of it.

    Args:
        there: what a checkpoint says, as plain values.
        now: what is said now, as plain values.
    """
    if isinstance(there, Mapping) and isinstance(now, Mapping):
        return {name: as_said_then(there.get(name), value) for name, value in now.items()}
    if isinstance(there, list) and isinstance(now, list) and len(there) == len(now):
        return [as_said_then(*both) for both in zip(there, now, strict=True)]
    if isinstance(there, str) and isinstance(now, str):
        # newest first, each of which came to the end: of a model that runs here, and of stored answers of a server
        for word in (", adapters ", ", config ", ", with fields ", ", which says "):
            now = now if word in there else now.partition(word)[0]
    return now
