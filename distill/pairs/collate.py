"""Pairs to batch: the ONE place that pads and shifts (which tokens carry loss: `labels`).

A *supervised position* is a position t whose next token t+1 belongs to the completion. `labels` follow the convention of
`transformers`: aligned with `input_ids`, shifted inside the loss, -100 where there is no loss. `supervised_rows` is that
shift, written once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from distill.pairs.aligned_rows import WORDS, AlignedRow, AlignedRows
from distill.pairs.columns import READ
from distill.pairs.labels import EMPTY, IGNORE, ids_and_labels, shown_to_teacher
from distill.pairs.row_limits import RowLimits
from distill.pairs.signal_keys import key_of_pair

__all__ = ["EMPTY", "IGNORE", "PairCollator", "document_tokens", "supervised_rows", "supervised_tokens"]


Row = tuple[NDArray[Any], NDArray[Any]]  # ids and labels, `[tokens]` each


class Document(NamedTuple):
    """A pair as it stands in a batch: its own row, and the one that its teacher is shown (the same, mostly); where that is in other tokens, how."""

    own: Row
    shown: Row
    aligned: AlignedRow | None = None


@dataclass
class PairCollator:
    """Make a batch of pairs: `input_ids`, `attention_mask`, `labels`, each `[B, T]` int64.

    Labels are the completion's ids; with a `loss_mask`, those of them where it is 1. The first token of a row is never a
    label, because nothing precedes it; that matters only for a pair without a prompt. Padding is known by position and not
    by id, so a pad token equal to EOS is fine.

    An item may also be a list of pairs, a bin of `distill.pairs.packing`: its pairs stand one behind the other in one row, and
    `position_ids`, which begin at 0 with each of them and at every pad token, take the place of `attention_mask`. That is
    the form in which `transformers` keeps documents of a row apart.

    With `teacher_rows`, a batch in which some pair has `teacher_prompt_ids` also holds what the teacher is shown: `teacher_input_ids`,
    `teacher_labels`, and `teacher_attention_mask` or `teacher_position_ids` where the student's are there, `[B, T']` and padded by
    themselves. Each document of it is the teacher's prompt (the pair's, where it has no other) and the very tokens of the completion
    that stand in the student's row, with the same labels; so both sides have the same supervised tokens in the same order.

    With `aligned`, the teacher has another tokenizer. A batch then has rows of the teacher's own whose supervised tokens are others than the
    student's, and says which are the same: `aligned_rows`, `[N]`, the student's supervised positions by number, first those that are
    compared; and `aligned_places`, `[A]`, the number of the teacher's for each of these.

    Args:
        tokenizer: gives the pad id (EOS where there is no pad token).
        max_length: longest row in tokens; a longer one loses the end of its completion (and with it the EOS: no EOS is
            put in its place). `None` keeps all.
        padding_side: `"right"` or `"left"`. Left padding adds `position_ids`, which models with absolute positions need.
        pad_to_multiple_of: round T up to a multiple of this.
        with_ids: add `ids`, the list of the pairs' ids, one string a row (for trainers that take it out again).
        flatten_bins: put all bins of a batch behind each other in one row, without padding; flash attention keeps documents
            apart only there.
        supervised_only: add `logits_to_keep`, `[B, T]` bool, and `shift_labels`, `[N]`: with these arguments of its own a model makes the
            logits of the N supervised positions alone, and its own loss of them (for `BlackBoxTrainer(supervised_only=True)`).
        teacher_rows: add the teacher's rows where they are others than the student's; a white box sets it.
        documents: add `documents`, for each row a list of its documents: `(key, positions)`, the name of what a teacher says about the
            whole pair (`distill.pairs.signal_keys.key_of_pair`) and how many supervised positions of it are in this batch; they are
            its first ones.
        with_pairs: add `pairs`, the rows themselves as they came, a list of mappings (for trainers that put others in the place of some).
        columns: further columns of pairs, as `columns[name]`: for each row a list of the values of its documents.
        words: read the words of prompts, too, of which rows in other tokens are made.
        aligned: makes the rows of a teacher with another tokenizer; a white box sets it.
        limits: what the models can take of a row, after `max_length`; trainers fill it in.
        teacher_limits: what the teacher can take of the row that it is shown.

    Raises:
        ValueError: a row that is no pair, that is left without any supervised token, or that is beyond the limits (its id is named);
            a teacher's prompt without a token; a column that is not there; bins and pairs in one batch, or bins to be padded left.

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
    supervised_only: bool = False
    teacher_rows: bool = False
    documents: bool = False
    with_pairs: bool = False
    columns: tuple[str, ...] = ()
    words: bool = False
    aligned: AlignedRows | None = None
    limits: RowLimits = field(default_factory=RowLimits)
    teacher_limits: RowLimits = field(default_factory=RowLimits)

    def __post_init__(self) -> None:
        if self.padding_side not in ("right", "left"):
            raise ValueError(f"padding_side is {self.padding_side!r}, expected 'right' or 'left'.")
        pad, eos = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        # Any id does where the attention mask is 0; one inside the vocabulary keeps the embedding lookup legal.
        self._pad_id = next((i for i in (pad, eos) if i is not None), 0)

    def __call__(self, items: Sequence[Any]) -> dict[str, Any]:
        packed = isinstance(items[0], list)
        if any(isinstance(item, list) is not packed for item in items):
            raise ValueError("A batch has both pairs and bins of pairs; pack all rows of a dataset, or none.")
        if packed and self.padding_side == "left":
            raise ValueError("padding_side is 'left', but packed rows are padded at the right; leave it out.")
        bins = list(items) if packed else [[pair] for pair in items]
        if packed and self.flatten_bins:
            bins = [[pair for pairs in bins for pair in pairs]]
        rows = [[self.document(pair, f"row {i} of the batch") for pair in pairs] for i, pairs in enumerate(bins)]
        batch: dict[str, Any] = self._laid_out([[one.own for one in documents] for documents in rows], packed)
        if any(one.shown is not one.own for documents in rows for one in documents):
            shown = self._laid_out([[one.shown for one in documents] for documents in rows], packed)
            batch |= {f"teacher_{name}": tensor for name, tensor in shown.items()}
        if self.aligned is not None:
            batch |= _same_positions([one for documents in rows for one in documents])
        if self.supervised_only:
            keep = supervised_rows(batch["labels"])
            batch |= {"logits_to_keep": keep, "shift_labels": supervised_tokens(batch["labels"], keep)}
        if self.with_ids:
            batch["ids"] = [
                ", ".join(str(pair.get("id", f"row {i} of the batch")) for pair in pairs)
                for i, pairs in enumerate(bins)
            ]
        if self.with_pairs:
            batch["pairs"] = list(items)
        if self.documents:
            batch["documents"] = [
                [
                    (
                        key_of_pair(pair, f"row {i} of the batch") if one.aligned is None else one.aligned.key,
                        int(((one.own if one.aligned is None else one.shown)[1] != IGNORE).sum()),
                    )
                    for pair, one in zip(pairs, documents, strict=True)
                    if pair.get("id") != EMPTY["id"]
                ]
                for i, (pairs, documents) in enumerate(zip(bins, rows, strict=True))
            ]
        if self.columns:
            batch["columns"] = {
                name: [_values(name, pairs, i) for i, pairs in enumerate(bins)] for name in self.columns
            }
        return batch

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns of a pair that decide a batch, and its id."""
        shown = self.teacher_rows or self.documents
        words = WORDS if self.words else ()
        return (*(name for name in READ if shown or name != "teacher_prompt_ids"), *words, *self.columns)

    def _laid_out(self, rows: Sequence[Sequence[Row]], packed: bool) -> dict[str, torch.Tensor]:
        """Tensors `[B, T]` of rows of documents."""
        lengths = [sum(len(ids) for ids, _ in documents) for documents in rows]
        longest = max(lengths)
        if self.pad_to_multiple_of:
            longest = -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of
        shape = (len(rows), longest)
        input_ids, labels = np.full(shape, self._pad_id, np.int64), np.full(shape, IGNORE, np.int64)
        attention_mask, position_ids = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for i, documents in enumerate(rows):
            start = longest - lengths[i] if self.padding_side == "left" else 0
            attention_mask[i, start : start + lengths[i]] = 1
            for ids, label_ids in documents:
                place = slice(start, start + len(ids))
                input_ids[i, place], labels[i, place], position_ids[i, place] = ids, label_ids, np.arange(len(ids))
                start = place.stop
        arrays = {"input_ids": input_ids, "labels": labels}
        if not packed:
            arrays["attention_mask"] = attention_mask
        if packed or self.padding_side == "left":
            arrays["position_ids"] = position_ids
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def document(self, pair: Mapping[str, Any], place: str) -> Document:
        """Ids and labels of a pair, and of it as its teacher is shown it, checked.

        Args:
            pair: see `distill.pairs.schema`.
            place: what it is called in messages if it has no id.

        Raises:
            ValueError: see the class.
        """
        ids, labels = own = ids_and_labels(pair, self.max_length, place)
        where, supervised = f"Pair {pair.get('id', place)}", labels[labels != IGNORE]
        self.limits.check(where, ids, supervised)
        if self.aligned is not None:
            row = self.aligned.row(pair, ids, labels, place)
            return Document(own, (row.ids, row.labels), row)
        shown = shown_to_teacher(pair, ids, labels, place) if self.teacher_rows else own
        if shown[0] is ids:
            self.teacher_limits.check(where, ids, supervised)
            return Document(own, own)
        self.teacher_limits.check(where, shown[0], supervised, shown=len(pair["teacher_prompt_ids"]))
        return Document(own, shown)


def _same_positions(documents: Sequence[Document]) -> dict[str, torch.Tensor]:
    """Which supervised positions of a batch are the teacher's, too, by their numbers among those of each side."""
    ours, theirs = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    own = other = 0
    for one in documents:
        assert one.aligned is not None
        ours.append(one.aligned.ours + own)
        theirs.append(one.aligned.theirs + other)
        own += int((one.own[1] != IGNORE).sum())
        other += int((one.shown[1] != IGNORE).sum())
    first = np.concatenate(ours)
    order = np.concatenate([first, np.setdiff1d(np.arange(own), first)])
    return {"aligned_rows": torch.from_numpy(order), "aligned_places": torch.from_numpy(np.concatenate(theirs))}


def _values(name: str, pairs: Sequence[Mapping[str, Any]], row: int) -> list[Any]:
    """Of a column, those of the pairs of a row; one that fills up a batch has none."""
    pairs = [pair for pair in pairs if pair.get("id") != EMPTY["id"]]
    if lacking := [pair for pair in pairs if name not in pair]:
        raise ValueError(
            f"Pair {lacking[0].get('id', f'row {row} of the batch')} has no column {name}, which its teacher reads (it has "
            f"{', '.join(map(str, lacking[0]))})."
        )
    return [pair[name] for pair in pairs]


def in_arrays(rows: Any) -> Any:
    """The same rows, whose ids are read as arrays: lists of 16 rows of 4,096 tokens take a collator three times as long.

    What is no `datasets.Dataset`, or is read in a form of the caller's choice, stays as it is.
    """
    needed = ["prompt_ids", "completion_ids"]
    if (
        not isinstance(rows, datasets.Dataset)
        or rows.format["type"] is not None
        or not {*needed} <= {*rows.column_names}
    ):
        return rows
    # a batch that begins with null cannot be read so
    shown = ["teacher_prompt_ids"] if "teacher_prompt_ids" in rows.column_names else []
    columns = needed + [name for name in shown if not rows.data.column(name).null_count]
    return rows.with_format("numpy", columns=columns, output_all_columns=True)


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
