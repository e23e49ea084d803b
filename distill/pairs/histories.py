"""Histories: what was asked and answered before a question, in a column of its own, as turns."""

from collections.abc import Sequence
from typing import Any

from distill.pairs.row_names import HISTORY
from distill.pairs.turns import Row, read_turns, turns_of

OWN_HISTORY = (
    "If it is a column of your own, give it another name (--columns own_history=history; of a data set, rename_column)."
)
_ROLES = ("user", "assistant")


def has_turns_before(rows: Sequence[Row], asked: str) -> bool:
    """Whether a history is asked before a question: where it is lists, or nothing so far. A text, say, is the user's own.

    Args:
        rows: the first of a file; a later one may well be the first that has a history.
        asked: the column of the question; before one that is messages itself, nothing is put.
    """
    filled = [row for row in rows if not _is_empty(row.get(HISTORY))]
    return not filled or any(_is_list(row[HISTORY]) and isinstance(row.get(asked), str) for row in filled)


def check_no_turns(history: Any) -> None:
    """Of rows whose history is a column of the user's own, one with turns would be asked without them.

    Raises:
        ValueError: it has some.
    """
    if not _is_empty(history) and _is_list(history):
        raise ValueError(
            f"{HISTORY} is {str(history)[:60]!r}, which would not be asked, because in the first rows it is no list before a text. "
            f"{OWN_HISTORY}"
        )


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


def _is_list(history: Any) -> bool:
    return isinstance(_read(history), list)


def _is_empty(history: Any) -> bool:
    if isinstance(history, str):
        return not history.strip() or not turns_of(history)
    return history is None or (isinstance(history, list | tuple | dict) and not history)
