"""How a row becomes a pair (its columns: `columns`): texts are encoded once, ids are taken as they are."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import datasets

from distill.pairs.checking import checked_row
from distill.pairs.columns import COLUMNS, FINISH_REASONS, OPTIONAL, TOKEN_SOURCES, features
from distill.pairs.storing import Store
from distill.pairs.tables import MixedPrompts, table_of
from distill.text.messages import check_messages
from distill.text.rows import SAYS_A_ROW, encode_rows
from distill.text.teacher_prompts import with_shown_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "COLUMNS", "FINISH_REASONS", "OPTIONAL", "TOKEN_SOURCES", "beside", "complete_row", "complete_rows", "encoded", "features",
    "pairs_from_rows",
]  # fmt: skip
_TOGETHER = 1000


def pairs_from_rows(rows: Iterable[dict[str, Any]], where: str) -> datasets.Dataset:
    """A dataset of complete rows; many of them stand in a file, and few at a time in memory.

    Raises:
        ValueError: there are none, or some prompts are messages and others plain text.
    """
    store, left = Store(), iter(rows)
    try:
        while some := list(islice(left, _TOGETHER)):
            store.add(table_of(some))
    except MixedPrompts as error:
        raise ValueError(f"{where}: {error}") from None
    if not store.rows:
        raise ValueError(f"{where} has no pairs.")
    return store.dataset()


def complete_row(
    row: dict[str, Any],
    where: str,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    chat: bool | None = None,
    turns: str = "last",
) -> dict[str, Any]:
    """As `complete_rows`, for a row that gives one pair.

    Raises:
        ValueError: see `distill.pairs.load_pairs`.
    """
    pair, *others = complete_rows(row, where, tokenizer, chat, turns)
    if others:
        raise ValueError(f"{where}: the row gives {len(others) + 1} pairs with turns='each', where one is expected.")
    return pair


def complete_rows(
    row: dict[str, Any],
    where: str,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    chat: bool | None = None,
    turns: str = "last",
) -> list[dict[str, Any]]:
    """The pairs of one row with all columns, checked; token ids are made only where there are none.

    Raises:
        ValueError: see `distill.pairs.load_pairs`.
    """
    empty = {name for name, value in row.items() if value is None and name in (*COLUMNS, *OPTIONAL)}
    row = {name: value for name, value in row.items() if name not in empty - {"prompt", "completion"}}
    has_ids = [name in row for name in ("prompt_ids", "completion_ids")]
    missing = [name for name in ("prompt", "completion") if name not in row]
    if missing and "messages" not in row:
        raise ValueError(
            f"{where}: no {' and no '.join(missing)}; a pair has at least prompt and completion, or messages."
        )
    _at(where, _check_said, row, any(has_ids))
    if all(has_ids) and not missing:
        return [checked_row(_at(where, with_shown_ids, row, tokenizer, chat), where)]
    if any(has_ids):
        raise ValueError(f"{where}: only one of prompt_ids and completion_ids; give both, or neither and a tokenizer.")
    if tokenizer is None:
        if "messages" in row:
            raise ValueError(f"{where}: A row of messages needs the student's tokenizer; pass it to load_pairs.")
        raise ValueError(
            f"{where}: no token ids; pass the student's tokenizer to load_pairs to make them from the text."
        )
    (made,) = encoded([row], tokenizer, chat, turns)
    if isinstance(made, ValueError):
        raise ValueError(f"{where}: {made}") from None
    return [checked_row(pair, where) for pair in made]


def encoded(
    rows: Sequence[dict[str, Any]],
    tokenizer: "PreTrainedTokenizerBase",
    chat: bool | None = None,
    turns: str = "last",
) -> list[list[dict[str, Any]] | ValueError]:
    """The pairs of rows of text with all else that the rows say, or why there are none; see `encode_rows`."""
    refused = [_refusal(row) for row in rows]
    good = [row for row, error in zip(rows, refused, strict=True) if error is None]
    made = iter(encode_rows(good, tokenizer, chat=chat, turns=turns) if good else ())
    found = [next(made) if error is None else error for error in refused]
    return [
        pairs if isinstance(pairs, ValueError) else [beside(row, pair, i, len(pairs)) for i, pair in enumerate(pairs)]
        for row, pairs in zip(rows, found, strict=True)
    ]


def beside(row: Mapping[str, Any], pair: dict[str, Any], number: int, count: int) -> dict[str, Any]:
    """A pair with what else its row says; of several pairs of one row, each has an id of its own."""
    others = {name: value for name, value in row.items() if name not in SAYS_A_ROW}
    if row.get("messages") is not None and row.get("completion") is not None:
        others["messages"] = row["messages"]  # the prompt and the completion were read, and these are the user's own
    if count > 1 and others.get("id") not in (None, ""):
        others["id"] = f"{others['id']}#{number}"
    return {**others, **pair}


def _check_said(row: dict[str, Any], has_ids: bool) -> None:
    """Raise `ValueError` where a prompt, a completion or a finish reason is of another kind, or there is nothing to learn."""
    if not has_ids and row.get("messages") is None and row.get("completion") is None:
        raise ValueError("no completion; a pair has at least prompt and completion, or messages.")
    if row.get("messages") is not None and row.get("completion", row) is None and row.get("prompt") is not None:
        raise ValueError(
            "completion is null beside a prompt and messages; leave prompt and completion out, or messages."
        )
    said = row.get("completion", "")
    if not isinstance(said, str) and not ("messages" in row and said is None) and (has_ids or not _is_talk(said)):
        raise ValueError(f"completion is a {type(said).__name__}, expected text.")
    if not isinstance(row.get("prompt", ""), str):
        check_messages(row["prompt"])


def _refusal(row: dict[str, Any]) -> ValueError | None:
    try:
        _check_said(row, has_ids=False)
    except ValueError as error:
        return error
    return None


def _is_talk(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _at(where: str, function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
