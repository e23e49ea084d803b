"""Histories: what was asked and answered before a question, in a column of its own, as turns."""

from collections.abc import Sequence
from typing import Any

from distill.pairs.row_names import HISTORY
from distill.pairs.turns import Row, read_turns, turns_of

OWN_HISTORY = "If it is a column of your own, give it another name (--columns own_history=history)."
_ROLES = ("user", "assistant")


def has_turns_before(rows: Sequence[Row], asked: str) -> bool:
    """Whether rows have a history that is asked before their question: lists. A text, say, is the user's own.

    Args:
        rows: the first of a file.
        asked: the column of the question; before one that is messages itself, nothing is put.
    """
    values = [row[HISTORY] for row in rows if row.get(HISTORY) is not None and isinstance(row.get(asked), str)]
    filled = [value for value in values if not _is_empty(value)]
    return any(isinstance(_read(value), list) for value in filled) if filled else bool(values)


def turns_before(history: Any) -> list[Row]:
    """Pairs of question and answer (LLaMA-Factory, ms-swift), or turns of either form, as turns; none where there are none.

    Raises:
        ValueError: something else.
    """
    read = _read(history)
    if _is_empty(read):
        return []
    if isinstance(read, list) and all(isinstance(turn, dict) for turn in read):
        return read_turns(read)
    if not isinstance(read, list) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(one, str) for one in pair) for pair in read
    ):
        raise ValueError(
            f"{HISTORY} must be a list of question and answer, both text, or of turns, not {str(history)[:60]!r}. {OWN_HISTORY}"
        )
    return [{"role": role, "content": said} for pair in read for role, said in zip(_ROLES, pair, strict=True)]


def _read(history: Any) -> Any:
    return turns_of(history) if isinstance(history, str) else history


def _is_empty(history: Any) -> bool:
    return not history or (isinstance(history, str) and (not history.strip() or not turns_of(history)))
