"""Shown to the teacher: whether it can take the rows that it is shown, asked before any step."""

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distill.pairs.batches import batches, counted
from distill.pairs.collate import supervised_rows
from distill.pairs.row_limits import RowLimits
from distill.pairs.teachers_tokens import called, check_teachers_tokens
from distill.signals.base import ALIGNED
from distill.signals.rows import SupervisedRows
from distill.trainers.pair_checks import PairFacts, facts_of_pairs


def check_shown(
    pairs: datasets.Dataset, name: str, max_length: int | None, limits: RowLimits, own_rows: bool = True
) -> None:
    """Refuse pairs that the teacher cannot be shown; vectorised, for pairs that `check_pairs` found good.

    Args:
        pairs: with or without `teacher_prompt_ids`.
        name: for messages.
        max_length: of the student's row; what it cuts of a completion is not shown to the teacher either.
        limits: what the teacher can take of a row.
        own_rows: it is shown its own prompt where a pair has one; else the student's row.

    Raises:
        ValueError: a teacher's prompt without a token, or of another type; a row beyond the limits. The pair's id is named.
    """
    names = {*pairs.column_names} if own_rows else set()
    if own_rows:
        check_teachers_tokens(pairs, name)
    own_rows = "teacher_prompt_ids" in names
    if not own_rows and _is_within(facts_of_pairs(pairs, name, max_length), limits):
        return
    columns = ["prompt_ids", "completion_ids"]
    if own_rows:
        kind = pairs.features.arrow_schema.field("teacher_prompt_ids").type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            kind = None if pa.types.is_integer(kind.value_type) else kind
        if kind is None:
            columns.append("teacher_prompt_ids")
        elif _is_there(pairs, "teacher_prompt_ids").any():
            raise ValueError(f"{name}: teacher_prompt_ids is a column of {kind}; it must be one of lists of token ids.")
    found = counted(pairs, columns)
    shown = found["teacher_prompt_ids"].sizes if "teacher_prompt_ids" in found else np.full(len(pairs), -1)
    if len(empty := np.flatnonzero(shown == 0)):
        raise ValueError(
            f"{name}: {len(empty)} of {len(pairs)} pairs have teacher_prompt_ids without a token, the first is {called(pairs, empty[0])}; "
            "give at least one, or null where the teacher was shown the prompt."
        )
    prompt, completion = (found[column].sizes for column in columns[:2])
    rest = np.minimum(prompt + completion, np.inf if max_length is None else max_length) - prompt
    length = np.where(shown < 0, prompt, shown) + rest
    most = int(np.argmax(length))
    if limits.positions is not None and length[most] > limits.positions:
        where = f"{name}, {called(pairs, most)}"
        if shown[most] < 0:
            raise ValueError(f"{where} has a row of {int(length[most])} tokens, but {limits.too_long()}")
        raise ValueError(f"{where} {limits.too_much_shown(int(shown[most]), int(rest[most]))}")
    highest = max(one.highest for one in found.values())
    if limits.vocabulary is not None and highest >= limits.vocabulary:
        raise ValueError(f"{name} has token id {highest}, but {limits.unknown_token()}")


def _is_within(facts: PairFacts, limits: RowLimits) -> bool:
    """Whether a teacher can take all of the student's rows; these were read when they were held against the student's limits."""
    positions, vocabulary = (np.inf if one is None else one for one in (limits.positions, limits.vocabulary))
    return facts.kept <= positions and max(facts.highest) < vocabulary


def teacher_prompts_in(rows: Any) -> int:
    """How many pairs of a dataset, of bins or of a list say what the teacher was shown; 0 of a stream, whose rows are not known."""
    pairs = getattr(rows, "pairs", rows)
    if isinstance(pairs, list | tuple):
        flat = (pair for row in pairs for pair in (row if isinstance(row, list) else [row]))
        return sum(isinstance(pair, Mapping) and pair.get("teacher_prompt_ids") is not None for pair in flat)
    if not isinstance(pairs, datasets.Dataset) or "teacher_prompt_ids" not in pairs.column_names:
        return 0
    return int(_is_there(pairs, "teacher_prompt_ids").sum())


def check_same_tokens(batch: Mapping[str, Any], where: SupervisedRows) -> None:
    """Refuse a batch of an own collator whose sides are not supervised on the same tokens in the same order.

    Args:
        batch: with `labels` and `teacher_labels`; one that was aligned with another tokenizer has other tokens, and is left alone.
        where: the student's supervised positions.

    Raises:
        ValueError: names the batch's pairs where it says them, and the first difference.
    """
    theirs = SupervisedRows.of(supervised_rows(batch["teacher_labels"]))
    if len(theirs) != len(where) or ALIGNED[0] in batch:
        return  # the source tells another number
    ours, others = where.next_tokens(batch["labels"]), theirs.next_tokens(batch["teacher_labels"])
    if len(first := (ours != others.to(ours.device)).nonzero()):
        place = int(first[0])
        pairs = f" (pairs {'; '.join(map(str, batch['ids']))})" if "ids" in batch else ""
        raise ValueError(
            f"A batch{pairs} has the token {int(ours[place])} as number {place} of the student's supervised ones and {int(others[place])} as the teacher's; both "
            "must be the same tokens in the same order, as PairCollator(teacher_rows=True) makes them."
        )


def check_same_positions(rows: Any, name: str) -> None:
    """Refuse pairs whose teacher was shown another prompt, where positions are compared with each other: for attention maps.

    Args:
        rows: a dataset, or pairs in bins; those of other kinds are refused when they come.
        name: for messages.

    Raises:
        ValueError: names the column and how many.
    """
    count = teacher_prompts_in(rows)
    if count:
        raise ValueError(
            f"{name}: {count} of {len(getattr(rows, 'pairs', rows))} pairs say what the teacher was shown (teacher_prompt_ids), so its rows have other positions "
            "than the student's, and AttentionMaps compares maps over the same positions; leave AttentionMaps out, or that column."
        )


def _is_there(pairs: datasets.Dataset, column: str) -> NDArray[np.bool_]:
    """`[rows]` bool: where a column has a value."""
    return np.concatenate([np.asarray(pc.is_valid(table[column])) for table in batches(pairs, [column])])
