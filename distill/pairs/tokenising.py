"""Tokenising a data set: rows of text as pairs, in batches, once; what was made is kept for the next time."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from distill.basics.fingerprint import fingerprint
from distill.text.dates import day_settings
from distill.text.messages import without_nulls
from distill.text.rows import SAYS_A_ROW, encode_rows

ROWS_AT_ONCE = 1000
_VERSION = 1  # of what is made of a row: part of the key under which it is kept
_MADE = {
    "prompt_ids": datasets.List(datasets.Value("int32")),
    "completion_ids": datasets.List(datasets.Value("int32")),
    "loss_mask": datasets.List(datasets.Value("int8")),
}


def is_text(columns: Any) -> bool:
    """Whether rows with these columns have text, or messages, that can be tokenised, and no token ids."""
    names = set(columns or ())
    return not names & {"prompt_ids", "completion_ids"} and ("messages" in names or names >= {"prompt", "completion"})


def tokenised(
    rows: Any, tokenizer: PreTrainedTokenizerBase | None, *, turns: str = "last", name: str = "The data set"
) -> Any:
    """A data set of text rows with the token ids of pairs in place of the text; any other as it is.

    A `datasets.Dataset` is mapped in batches of 1,000, and what was made is found again by the next call (in `datasets`' cache, under
    a key of the rows, the tokenizer, its template and the day that it writes). An `IterableDataset` is tokenised as it is read, a
    list at once. Columns that say nothing to a chat template are kept. Rows that already have `prompt_ids` are pairs.

    Args:
        rows: with `messages` (and `tools`), or `prompt` and `completion`; see `distill.text.rows.encode_rows`.
        tokenizer: the student's.
        turns: of a conversation, which turns carry loss: `"last"`, `"all"`, or `"each"` as a row of its own.
        name: of the data set, for messages.

    Raises:
        ValueError: a bad row (its number is named); text and no tokenizer.

    Example:
        >>> tokenised(datasets.load_dataset("HuggingFaceTB/smoltalk", split="train"), tokenizer).column_names
        ['source', 'prompt_ids', 'completion_ids', 'loss_mask']
    """
    if isinstance(rows, datasets.IterableDataset):
        columns = rows.column_names or list(next(iter(rows), {}))
    elif isinstance(rows, datasets.Dataset):
        columns = rows.column_names
    else:
        columns = list(rows[0]) if isinstance(rows, list) and len(rows) and isinstance(rows[0], Mapping) else []
    if not is_text(columns):
        return rows
    if tokenizer is None:
        raise ValueError(f"{name} has text and no token ids; give processing_class=, the student's tokenizer.")
    if isinstance(rows, list):
        return _listed(rows, tokenizer, turns, name)
    return _mapped(rows, columns, tokenizer, turns, name)


def _listed(rows: list[Any], tokenizer: PreTrainedTokenizerBase, turns: str, name: str) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        for row, pairs in _encoded(rows[start : start + ROWS_AT_ONCE], tokenizer, turns, name, start):
            others = {column: value for column, value in row.items() if column not in SAYS_A_ROW}
            made += [others | _numbered(others, n, len(pairs)) | pair for n, pair in enumerate(pairs)]
    return made


def _mapped(rows: Any, columns: list[str], tokenizer: PreTrainedTokenizerBase, turns: str, name: str) -> Any:
    features = rows.features
    told = [column for column in columns if column in SAYS_A_ROW]
    others = [column for column in columns if column not in told]
    # one row may give several pairs only if all columns are made anew
    given = columns if turns == "each" else [*told, *(column for column in others if column == "finish_reason")]
    # what Arrow keeps as structs has in every row every key that any row has; what it keeps as JSON is as it was written
    filled = [column for column in told if features is not None and "Json" not in repr(features[column])]
    settings: dict[str, Any] = {
        "batched": True, "batch_size": ROWS_AT_ONCE, "input_columns": given, "with_indices": True,
        "remove_columns": columns if turns == "each" else told,
    }  # fmt: skip
    if features is not None:
        settings["features"] = datasets.Features({column: features[column] for column in others} | _MADE)
    if isinstance(rows, datasets.Dataset):
        settings |= {"desc": f"tokenising {name}", "new_fingerprint": _key(rows, tokenizer, turns)}
    return rows.map(_Encode(tokenizer, turns, name, given, others if turns == "each" else [], filled), **settings)


@dataclass
class _Encode:
    """What is mapped over a data set: columns of a batch, and the numbers of its rows, to columns of pairs."""

    tokenizer: PreTrainedTokenizerBase
    turns: str
    name: str
    given: list[str]
    others: list[str]
    filled: list[str]

    def __call__(self, *columns: Any) -> dict[str, list[Any]]:
        *values, numbers = columns
        rows = [
            {
                c: without_nulls(v) if c in self.filled else v
                for c, v in zip(self.given, row, strict=True)
                if v is not None
            }
            for row in zip(*values, strict=True)
        ]
        made: dict[str, list[Any]] = {column: [] for column in (*self.others, *_MADE)}
        for row, pairs in _encoded(rows, self.tokenizer, self.turns, self.name, int(numbers[0])):
            for n, pair in enumerate(pairs):
                for column in _MADE:
                    made[column].append(pair.get(column))
                beside = row | _numbered(row, n, len(pairs))
                for column in self.others:
                    made[column].append(beside.get(column))
        return made


def _encoded(
    rows: list[Any], tokenizer: Any, turns: str, name: str, first: int
) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    for number, (row, pairs) in enumerate(zip(rows, encode_rows(rows, tokenizer, turns=turns), strict=True), first):
        if isinstance(pairs, ValueError):
            raise ValueError(f"{name}, row {number}: {pairs}")
        yield row, pairs


def _numbered(row: Mapping[str, Any], number: int, count: int) -> dict[str, Any]:
    """An id of its own for each of several pairs of one row."""
    return {"id": f"{row['id']}#{number}"} if count > 1 and row.get("id") not in (None, "") else {}


def _key(rows: datasets.Dataset, tokenizer: Any, turns: str) -> str:
    """What decides the tokens: the rows, the tokenizer without its settings of padding and cutting, the template and its day."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # settings of padding and cutting, which earlier calls leave there, are written before the tokens
    whole = repr(sorted(tokenizer.get_vocab().items())) if backend is None else backend.to_str()
    tokens = hashlib.sha256((whole.partition('"added_tokens":[')[2] or whole).encode()).hexdigest()
    chat = (
        repr(tokenizer.chat_template),
        repr(sorted(tokenizer.special_tokens_map.items(), key=str)),
        day_settings(tokenizer),
    )
    return fingerprint(rows._fingerprint, tokens, *chat, turns, _VERSION)
