"""Tokens of what a teacher was shown: a teacher's prompt in words alone is refused, for it would be shown the student's prompt."""

from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc

from distill.pairs.batches import batches
from distill.pairs.columns import TEACHER_PROMPT


def check_teachers_tokens(pairs: datasets.Dataset, name: str) -> None:
    """Refuse pairs that have a `teacher_prompt` and no `teacher_prompt_ids`; vectorised.

    Args:
        pairs: with or without these columns.
        name: for messages.

    Raises:
        ValueError: how many there are, and the first of them.
    """
    names = {*pairs.column_names}
    if "teacher_prompt" not in names:
        return
    lacking = np.zeros(len(pairs), bool)
    first = 0
    for table in batches(pairs, sorted(names & {*TEACHER_PROMPT})):
        rows = slice(first, first + len(table))
        first = rows.stop
        lacking[rows] = pc.is_valid(table["teacher_prompt"]).to_numpy()
        if "teacher_prompt_ids" in names:
            lacking[rows] &= pc.is_null(table["teacher_prompt_ids"]).to_numpy()
    if lacking.any():
        raise ValueError(
            f"{name}: {lacking.sum()} of {len(pairs)} pairs have a teacher_prompt without teacher_prompt_ids, its tokens, the first is "
            f"{called(pairs, np.argmax(lacking))}; load_pairs(path, tokenizer) makes them."
        )


def called(pairs: datasets.Dataset, row: Any) -> str:
    """A row of pairs in a message: its number, and its id where it has one."""
    return f"row {row}" + (f" (pair {pairs[int(row)]['id']})" if "id" in pairs.column_names else "")
