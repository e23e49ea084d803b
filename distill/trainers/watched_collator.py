"""Watched collator: one of the user's own, whose batches are looked at for what it may drop of a pair."""

from collections.abc import Mapping, Sequence
from typing import Any


class WatchedCollator:
    """A collator of the user's own in a white box: a batch of rows that say what the teacher was shown has to bring the teacher's rows.

    Args:
        inner: the user's.

    Raises:
        ValueError: when it is called: it made a batch without `teacher_input_ids` of rows of which some have `teacher_prompt_ids`, so the teacher would score
            the student's prompt, and nothing would be taught.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        """Whatever else the user's has: its `max_length`, say."""
        if name == "inner":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __call__(self, rows: Sequence[Any]) -> Any:
        shown = next((pair for pair in _pairs(rows) if pair.get("teacher_prompt_ids") is not None), None)
        batch = self.inner(rows)
        if shown is not None and "teacher_input_ids" not in batch:
            raise ValueError(
                f"Some pairs say what the teacher was shown (teacher_prompt_ids: {shown.get('id', 'a row without an id')}), and {name_of(self)} made a batch without "
                "teacher_input_ids: the teacher would score the student's prompt. Leave data_collator out, or let it make the teacher's rows, too, as "
                "PairCollator(teacher_rows=True) does."
            )
        return batch


def name_of(collator: Any) -> str:
    """What a collator is called, for messages and for what a run is made of."""
    return type(collator.inner if isinstance(collator, WatchedCollator) else collator).__name__


def _pairs(rows: Sequence[Any]) -> list[Mapping[str, Any]]:
    """Rows, or bins of them."""
    flat = [pair for row in rows for pair in (row if isinstance(row, list | tuple) else [row])]
    return [pair for pair in flat if isinstance(pair, Mapping)]
