"""Encoder: texts as vectors, by any model of `transformers`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

POOLING = ("mean", "cls", "last")


class Encoder:
    """A model that gives a text a vector of length 1.

    Args:
        model: a name (a folder, a Hub id, an embedded model), or a loaded model with `last_hidden_state`.
        tokenizer: needed with a loaded model.
        name: of a loaded model; the index that it makes is opened with one of the same name only.
        pooling: what of the last hidden states counts: their mean, that of the first token (BGE), of the last one (Qwen3-Embedding).
        query, passage: written before a query and before a passage, as the model was trained (E5: `"query: "`, `"passage: "`).
        max_length: tokens at most; what is longer is cut.
        batch_size: texts at once.

    Raises:
        ValueError: a loaded model without tokenizer or name; another pooling.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        name: str | None = None,
        pooling: str = "mean",
        query: str = "",
        passage: str = "",
        max_length: int = 512,
        batch_size: int = 32,
    ) -> None:
        if pooling not in POOLING:
            raise ValueError(f"pooling is {pooling!r}; it must be one of {', '.join(POOLING)}.")
        by_name = isinstance(model, str | os.PathLike)
        if not by_name and (tokenizer is None or not name):
            raise ValueError("A loaded encoder needs its tokenizer and a name: Encoder(model, tokenizer, name=...).")
        self.name = name or os.fspath(model)
        if by_name:
            from transformers import AutoModel

            from distill.models.tokenizer import from_pretrained, load_tokenizer, resolve_model

            tokenizer = tokenizer or load_tokenizer(model)
            model = from_pretrained(AutoModel, model, resolve_model(model), use_safetensors=True).float()
        self.model, self.tokenizer = model.eval(), tokenizer
        self.width = int(model.config.hidden_size)
        self.pooling, self.prefixes = pooling, {True: query, False: passage}
        positions = getattr(model.config, "max_position_embeddings", None) or max_length
        self.max_length, self.batch_size = min(max_length, positions), batch_size

    @property
    def settings(self) -> dict[str, Any]:
        """What its vectors depend on beside its weights: an index is opened with the same alone."""
        return {
            "pooling": self.pooling, "query": self.prefixes[True], "passage": self.prefixes[False], "max_length": self.max_length,
        }  # fmt: skip

    def encode(self, texts: Sequence[str], *, is_query: bool) -> NDArray[np.float32]:
        """One row a text; control tokens in a text are the characters they are written with."""
        import torch

        from distill.text.chat import chat_of

        chat = chat_of(self.tokenizer)
        before = self.tokenizer("")["input_ids"]
        head = chat.before_text
        tail = before[len(head) :] if before[: len(head)] == head else []
        room = self.max_length - len(head) - len(tail)
        prefix = self.prefixes[is_query]
        ids = [
            [*head, *found[:room], *tail] or [0]
            for found in chat.encode([chat.marked(prefix + text) for text in texts])
        ]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # little padding
        made = np.zeros((len(ids), self.width), np.float32)
        device = next(self.model.parameters()).device
        for start in range(0, len(order), self.batch_size):
            some = order[start : start + self.batch_size]
            longest = max(len(ids[i]) for i in some)
            batch = torch.zeros((len(some), longest), dtype=torch.long, device=device)
            mask = torch.zeros_like(batch)
            for row, i in enumerate(some):
                batch[row, : len(ids[i])] = torch.tensor(ids[i])
                mask[row, : len(ids[i])] = 1
            with torch.inference_mode():
                states = self.model(input_ids=batch, attention_mask=mask).last_hidden_state.float()
            if self.pooling == "mean":
                pooled = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
            else:
                places = torch.zeros(len(some), dtype=torch.long) if self.pooling == "cls" else mask.sum(1).cpu() - 1
                pooled = states[torch.arange(len(some)), places]
            made[some] = torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()
        return made


SETTINGS = ("pooling", "query", "passage", "max_length")


def as_encoder(given: Any, there: Mapping[str, Any], folder: Path) -> Encoder | None:
    """The encoder of an index: the one that is given, or by the name and the settings with which it was made.

    A bare name says nothing of pooling and prefixes; they are those of the index, too.

    Args:
        given: an `Encoder`, a name, or None.
        there: what the index was made with; empty of a new one.
        folder: of the index.

    Raises:
        ValueError: neither a name nor an encoder; a name that cannot be loaded.
    """
    made_with = there.get("encoder")
    if given is None and made_with is None:
        return None
    if isinstance(given, Encoder):
        return given
    if given is None or isinstance(given, str | os.PathLike):
        known = {name: there[name] for name in SETTINGS if there.get(name) is not None} if made_with else {}
        try:
            return Encoder(made_with if given is None else given, **known)
        except ValueError as error:
            raise ValueError(
                f"The encoder of the index in {folder} cannot be loaded; give it with encoder=. {error}"
            ) from None
    raise ValueError(
        f"encoder is a {type(given).__name__}; it must be a name, or an Encoder(model, tokenizer, name=...)."
    )
