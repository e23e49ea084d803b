"""Pairs to batch: the ONE place that pads and decides which positions carry loss.

A *supervised position* is a position t whose next token t+1 belongs to the completion. `labels` follow the convention of
`transformers`: aligned with `input_ids`, shifted inside the loss, -100 where there is no loss. `supervised_rows` is that
shift, written once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

IGNORE = -100

# A row that fills up the batch of a process when there are no rows left for it; the only one that may have no loss.
EMPTY: dict[str, Any] = {"id": "(no row)", "prompt_ids": [0], "completion_ids": [0], "loss_mask": [0]}


@dataclass
class PairCollator:
    """Make a batch of pairs: `input_ids`, `attention_mask`, `labels`, each `[B, T]` int64.

    Labels are the completion's ids; with a `loss_mask`, those of them where it is 1. The first token of a row is never a
    label, because nothing precedes it; that matters only for a pair without a prompt. Padding is known by position and not
    by id, so a pad token equal to EOS is fine.

    An item may also be a list of pairs, a bin of `distill.pairs.packing`: its pairs stand one behind the other in one row, and
    `position_ids`, which begin at 0 with each of them and at every pad token, take the place of `attention_mask`. That is
    the form in which `transformers` keeps documents of a row apart.

    Args:
        tokenizer: gives the pad id (EOS where there is no pad token).
        max_length: longest row in tokens; a longer one loses the end of its completion (and with it the EOS: no EOS is
            put in its place). `None` keeps all.
        padding_side: `"right"` or `"left"`. Left padding adds `position_ids`, which models with absolute positions need.
        pad_to_multiple_of: round T up to a multiple of this.
        with_ids: add `ids`, the list of the pairs' ids, one string a row (for trainers that take it out again).
        flatten_bins: put all bins of a batch behind each other in one row, without padding; flash attention keeps documents
            apart only there.

    Raises:
        ValueError: a row is left without any supervised token; bins and pairs in one batch, or bins to be padded left.

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
    flatten_bins: bool = False

    def __post_init__(self) -> None:
        if self.padding_side not in ("right", "left"):
            raise ValueError(f"padding_side is {self.padding_side!r}, expected 'right' or 'left'.")
        pad, eos = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        # Any id does where the attention mask is 0; one inside the vocabulary keeps the embedding lookup legal.
        self._pad_id = next((i for i in (pad, eos) if i is not None), 0)

    def __call__(self, items: Sequence[Any]) -> dict[str, Any]:
        packed = not isinstance(items[0], Mapping)
        if any(isinstance(item, Mapping) is packed for item in items):
            raise ValueError("A batch has both pairs and bins of pairs; pack all rows of a dataset, or none.")
        if packed and self.padding_side == "left":
            raise ValueError("padding_side is 'left', but packed rows are padded at the right; leave it out.")
        bins = list(items) if packed else [[pair] for pair in items]
        if packed and self.flatten_bins:
            bins = [[pair for pairs in bins for pair in pairs]]
        rows = [_joined([self._document(pair) for pair in pairs]) for pairs in bins]
        longest = max(len(ids) for ids, _, _ in rows)
        if self.pad_to_multiple_of:
            longest = -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of
        shape = (len(rows), longest)
        input_ids = torch.full(shape, self._pad_id, dtype=torch.long)
        attention_mask, position_ids = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORE, dtype=torch.long)
        for i, (ids, label_ids, positions) in enumerate(rows):
            start = longest - len(ids) if self.padding_side == "left" else 0
            place = slice(start, start + len(ids))
            input_ids[i, place] = torch.tensor(ids)
            labels[i, place] = torch.tensor(label_ids)
            position_ids[i, place] = torch.tensor(positions)
            attention_mask[i, place] = 1
        batch: dict[str, Any] = {"input_ids": input_ids, "labels": labels}
        if not packed:
            batch["attention_mask"] = attention_mask
        if packed or self.padding_side == "left":
            batch["position_ids"] = position_ids
        if self.with_ids:
            batch["ids"] = [
                ", ".join(str(pair.get("id", f"row {i} of the batch")) for pair in pairs)
                for i, pairs in enumerate(bins)
            ]
        return batch

    def _document(self, pair: Mapping[str, Any]) -> tuple[list[int], list[int]]:
        prompt, completion = list(pair["prompt_ids"]), list(pair["completion_ids"])
        mask = pair.get("loss_mask")
        ids = (prompt + completion)[: self.max_length]
        carries = [0] * len(prompt) + ([1] * len(completion) if mask is None else list(mask))
        labels = [i if m else IGNORE for i, m in zip(ids, carries, strict=False)]
        labels[:1] = [IGNORE] * len(labels[:1])
        if all(label == IGNORE for label in labels) and pair.get("id") != EMPTY["id"]:
            masked = "" if mask is None else f", {sum(mask)} of them with loss"
            raise ValueError(
                f"Pair {pair.get('id', '?')} has no token to learn from: {len(prompt)} prompt tokens, {len(completion)} "
                f"completion tokens{masked}, max_length {self.max_length}. Raise max_length, or remove the pair."
            )
        return ids, labels


def _joined(documents: list[tuple[list[int], list[int]]]) -> tuple[list[int], list[int], list[int]]:
    """Ids, labels and positions of documents that stand one behind the other."""
    return (
        [i for ids, _ in documents for i in ids],
        [label for _, labels in documents for label in labels],
        [position for ids, _ in documents for position in range(len(ids))],
    )


def document_tokens(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Mask `[B, T]` of the tokens of a batch that are no padding.

    In packed rows every pad token stands at position 0 and every document has two tokens or more, so a token at position 0 is
    one of a document if position 1 follows.
    """
    if "attention_mask" in batch:
        return batch["attention_mask"].bool()
    positions = batch["position_ids"]
    real = positions > 0
    real[:, :-1] |= positions[:, 1:] == 1
    return real


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
