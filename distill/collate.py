"""Pairs to batch: the ONE place that pads and decides which positions carry loss.

A *supervised position* is a position t whose next token t+1 belongs to the completion. `labels` follow the convention of
`transformers`: aligned with `input_ids`, shifted inside the loss, -100 where there is no loss. `supervised_rows` is that
shift, written once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

IGNORE = -100


@dataclass
class PairCollator:
    """Make a batch of pairs: `input_ids`, `attention_mask`, `labels`, each `[B, T]` int64.

    Labels are the completion's ids. The first token of a row is never a label, because nothing precedes it; that matters
    only for a pair without a prompt. Padding is known by position and not by id, so a pad token equal to EOS is fine.

    Args:
        tokenizer: gives the pad id (EOS where there is no pad token).
        max_length: longest row in tokens; a longer one loses the end of its completion (and with it the EOS: no EOS is
            put in its place). `None` keeps all.
        padding_side: `"right"` or `"left"`. Left padding adds `position_ids`, which models with absolute positions need.
        pad_to_multiple_of: round T up to a multiple of this.
        with_ids: add `ids`, the list of the pairs' ids (for trainers that take it out again).

    Raises:
        ValueError: a row is left without any supervised token.

    Example:
        >>> batch = PairCollator(tokenizer)([pairs[0], pairs[1]])
        >>> batch["labels"].shape == batch["input_ids"].shape
        True
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int | None = None
    padding_side: str = "right"
    pad_to_multiple_of: int | None = None
    with_ids: bool = False

    def __post_init__(self) -> None:
        if self.padding_side not in ("right", "left"):
            raise ValueError(f"padding_side is {self.padding_side!r}, expected 'right' or 'left'.")
        pad, eos = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        # Any id does where the attention mask is 0; one inside the vocabulary keeps the embedding lookup legal.
        self._pad_id = next((i for i in (pad, eos) if i is not None), 0)

    def __call__(self, pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        rows = [self._row(pair) for pair in pairs]
        longest = max(len(ids) for ids, _ in rows)
        if self.pad_to_multiple_of:
            longest = -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of
        shape = (len(rows), longest)
        input_ids = torch.full(shape, self._pad_id, dtype=torch.long)
        attention_mask = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORE, dtype=torch.long)
        for i, (ids, prompt_length) in enumerate(rows):
            start = longest - len(ids) if self.padding_side == "left" else 0
            end = start + len(ids)
            input_ids[i, start:end] = torch.tensor(ids)
            attention_mask[i, start:end] = 1
            first = start + max(prompt_length, 1)
            labels[i, first:end] = input_ids[i, first:end]
        batch: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        if self.padding_side == "left":
            batch["position_ids"] = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        if self.with_ids:
            batch["ids"] = [str(pair.get("id", f"row {i} of the batch")) for i, pair in enumerate(pairs)]
        return batch

    def _row(self, pair: dict[str, Any]) -> tuple[list[int], int]:
        prompt, completion = list(pair["prompt_ids"]), list(pair["completion_ids"])
        ids = (prompt + completion)[: self.max_length]
        if len(ids) <= max(len(prompt), 1):
            raise ValueError(
                f"Pair {pair.get('id', '?')} has no token to learn from: {len(prompt)} prompt tokens, {len(completion)} "
                f"completion tokens, max_length {self.max_length}. Raise max_length, or remove the pair."
            )
        return ids, len(prompt)


def supervised_rows(labels: torch.Tensor) -> torch.Tensor:
    """Mask `[B, T]` of the supervised positions: True where the *next* token is a label.

    The only shift in this package; `transformers` applies the same one inside its cross-entropy.
    """
    rows = torch.zeros_like(labels, dtype=torch.bool)
    rows[:, :-1] = labels[:, 1:] != IGNORE
    return rows


def supervised_tokens(labels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """`[N]`: the token that follows each supervised position, in the order of `rows.nonzero()`."""
    return labels[:, 1:][rows[:, :-1]]
