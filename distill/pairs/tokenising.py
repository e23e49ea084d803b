"""Tokenising a data set: rows of text as pairs, in batches, once; what was made is kept for the next time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from distill.basics.fingerprint import fingerprint
from distill.basics.processes import say
from distill.pairs.arrows_nulls import filled_columns
from distill.pairs.data_set_forms import columns_of, formatted_as
from distill.pairs.kept_key import program
from distill.pairs.row_marks import without_marked
from distill.pairs.row_names import SYSTEM
from distill.pairs.schema import beside
from distill.pairs.shapes import Shape, shape_of_pairs, unasked, with_system
from distill.pairs.tokenizer_state import tokenizer_state
from distill.text.messages import without_nulls
from distill.text.rows import SAYS_A_ROW, encode_rows
from distill.text.teacher_prompts import with_shown_ids

ROWS_AT_ONCE = 1000
_LOOKED_AT = 100  # first rows, which decide the shape of them all
_IDS = ("prompt_ids", "completion_ids")
_SHOWN = "teacher_prompt_ids"
_TOLD = tuple(dict.fromkeys((*SAYS_A_ROW, *SYSTEM)))  # columns that a row of text is made of
_READ = (*_TOLD, *_IDS, _SHOWN, "loss_mask", "finish_reason")
_MADE = {
    "prompt_ids": datasets.List(datasets.Value("int32")),
    "completion_ids": datasets.List(datasets.Value("int32")),
    "loss_mask": datasets.List(datasets.Value("int8")),
}


def _says(columns: Any) -> bool:
    """Whether rows with these columns can have text, or messages, that can be tokenised."""
    return "messages" in columns or {"prompt", "completion"} <= set(columns)


def _is_text(row: Any) -> bool:
    """Whether a row has text, or messages, and no token ids."""
    if not isinstance(row, Mapping) or any(row.get(name) is not None for name in _IDS):
        return False
    return _says([column for column, value in row.items() if value is not None])


def _lacks_shown(row: Any) -> bool:
    """Whether a pair says in words alone what its teacher was shown."""
    return isinstance(row, Mapping) and row.get("teacher_prompt") is not None and row.get(_SHOWN) is None


def tokenised(
    rows: Any,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    turns: str = "last",
    name: str = "The data set",
    teacher_rows: bool = False,
) -> Any:
    """A data set of text rows with the token ids of pairs in place of the text; any other as it is.

    A `datasets.Dataset` is mapped in batches of 1,000, and what was made is found again by the next call (in `datasets`' cache, under
    a key of the rows, the tokenizer, its template and the day that it writes). An `IterableDataset` is tokenised as it is read, a
    list at once. Columns that say nothing to a chat template are kept, and so are `messages` beside `prompt` and `completion`, which are
    read in their place; where `messages` are read, a `prompt` beside them is left out. Either is said. A row that has token ids
    already is a pair, and keeps them and its `loss_mask`; a `loss_mask` beside text is refused. A row with `weight: 0` or `train: false` is left
    out, and said.

    Args:
        rows: with `messages` (and `tools`), or `prompt` and `completion`, see `distill.text.rows.encode_rows`; or in another shape that
            `load_pairs` recognises (ShareGPT, Alpaca, question/answer), by its first hundred rows, which is said.
        tokenizer: the student's.
        turns: of a conversation, which turns carry loss: `"last"`, `"all"`, or `"each"` as a row of its own.
        name: of the data set, for messages.
        teacher_rows: a `teacher_prompt` without ids is tokenised also where all else has them already. Without it, one beside several turns
            that carry loss is not read.

    Raises:
        ValueError: a bad row (its number is named); text and no tokenizer.

    Example:
        >>> tokenised(datasets.load_dataset("HuggingFaceTB/smoltalk", split="train"), tokenizer).column_names
        ['source', 'prompt_ids', 'completion_ids', 'loss_mask']
    """
    rows = without_marked(rows, name)
    has_text = any(map(_is_text, rows)) if isinstance(rows, list) else _has_text(rows)
    shape = None if has_text else _shape_of(rows, name)
    if not has_text and shape is None and not (teacher_rows and _lacks_shown_ids(rows)):
        return rows
    if tokenizer is None:
        raise ValueError(f"{name} has text and no token ids; give processing_class=, the student's tokenizer.")
    if shape is None:
        _say_beside(rows, name)
    else:
        left = f" Left out, because pairs have their own: {', '.join(shape.covered)}." if shape.covered else ""
        columns = rows[0] if isinstance(rows, list) else columns_of(rows)
        say(f"{name}: {shape.name}.{left}{unasked(set(columns) - set(shape.made_of))}")
    make: Any = _listed if isinstance(rows, list) else _mapped
    return make(rows, tokenizer, turns, name, teacher_rows or turns == "last", shape)


def _shape_of(rows: Any, name: str) -> Shape | None:
    """The shape of rows that have neither text in the names of pairs nor ids, as `load_pairs` recognises it; None where it does not."""
    first: list[Any]
    if isinstance(rows, list):
        first = rows[:_LOOKED_AT]
    elif isinstance(rows, datasets.Dataset):
        first = rows.with_format(None).select(range(min(_LOOKED_AT, len(rows)))).to_list()
    elif isinstance(rows, datasets.IterableDataset):
        first = list(islice(rows.with_format(None), _LOOKED_AT))
    else:
        return None
    if not first or not all(isinstance(row, Mapping) and set(_IDS).isdisjoint(row) for row in first):
        return None
    try:
        return shape_of_pairs(first, {}, name)
    except ValueError:  # whoever takes pairs says that these are none
        return None


def _say_beside(rows: Any, name: str) -> None:
    """Say what becomes of a second form of a row, as `load_pairs` does of a file."""
    columns: set[str] = set()
    if isinstance(rows, list):
        columns.update(c for row in rows if _is_text(row) for c in row if row[c] is not None)
    elif _is_of_text(rows):
        columns.update(columns_of(rows))
    if "messages" in columns and "completion" in columns:
        say(f"{name}: prompt/completion. Carried along: messages.")
    elif "messages" in columns and "prompt" in columns:
        say(f"{name}: messages. Left out, because pairs have their own: prompt.")
    elif {"prompt", "completion"} <= columns and (left := unasked(sorted(columns))):
        say(f"{name}: prompt/completion.{left}")


def _has_text(rows: Any) -> bool:
    return isinstance(rows, datasets.Dataset | datasets.IterableDataset) and _is_of_text(rows)


def _is_of_text(rows: Any) -> bool:
    """Whether rows of a data set have text, or messages, and no token ids."""
    if isinstance(rows, datasets.Dataset):
        # in a data set of pairs no row is without ids
        filled = [name for name in _IDS if name in rows.column_names and not rows.data.column(name).null_count]
        return _says(rows.column_names) and len(filled) < len(_IDS)
    columns = columns_of(rows)
    return _says(columns) and not set(_IDS) & set(columns)


def _lacks_shown_ids(rows: Any) -> bool:
    """Whether some rows have a `teacher_prompt` in words alone; of a stream without names the first are asked."""
    if isinstance(rows, list):
        return any(map(_lacks_shown, rows))
    if not isinstance(rows, datasets.Dataset | datasets.IterableDataset):
        return False
    columns = rows.column_names
    if columns is None:
        return any(map(_lacks_shown, islice(rows.with_format(None), _LOOKED_AT)))
    if "teacher_prompt" not in columns:
        return False
    if isinstance(rows, datasets.IterableDataset):
        return _SHOWN not in columns
    nulls = {name: rows.data.column(name).null_count for name in ("teacher_prompt", _SHOWN) if name in columns}
    return nulls["teacher_prompt"] < nulls.get(_SHOWN, len(rows.data))


def _listed(
    rows: list[Any], tokenizer: PreTrainedTokenizerBase, turns: str, name: str, shown: bool, shape: Shape | None
) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    rows = _translated(rows, shape, name, 0)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        for row, pairs in _encoded(rows[start : start + ROWS_AT_ONCE], tokenizer, turns, name, start, shown):
            made += [
                beside(row, pair, n, len(pairs)) if _is_text(row) else {**row, **pair} for n, pair in enumerate(pairs)
            ]
    return made


def _translated(rows: list[Any], shape: Shape | None, name: str, first: int) -> list[Any]:
    """The rows as those of pairs; a bad one is named by its number."""
    made: list[Any] = []
    for number, row in enumerate(rows, first):
        try:
            made.append(shape.translate(row) if shape else row)
        except ValueError as error:
            raise ValueError(f"{name}, row {number}: {error}") from None
    return made


def _mapped(
    rows: Any, tokenizer: PreTrainedTokenizerBase, turns: str, name: str, shown: bool, shape: Shape | None
) -> Any:
    given, of_dataset = rows, isinstance(rows, datasets.Dataset)
    rows = rows.with_format(None)  # arrays and tables are no messages
    features = rows.features
    # a stream may have forgotten its columns, and its first row need not have all of them
    columns = rows.column_names
    known = (*_TOLD, *(shape.made_of if shape else ()))
    read = [column for column in dict.fromkeys(known) if columns is None or column in columns]
    # what was read is gone, but not where there were ids already and only a teacher's prompt is tokenised
    told = list(read) if shape or _is_of_text(given) else []
    if {"messages", "completion"} <= {*columns_of(rows)} and "messages" in told:
        told.remove("messages")
    is_shown = columns is None or bool({"teacher_prompt", _SHOWN} & {*columns})
    made_of = _MADE | ({_SHOWN: _MADE["prompt_ids"]} if is_shown else {})
    others = None if columns is None else [column for column in columns if column not in told]
    # one row may give several pairs only if all columns are made anew
    settings: dict[str, Any] = {
        "batched": True, "batch_size": ROWS_AT_ONCE, "with_indices": True, "remove_columns": columns if turns == "each" and columns else told,
    }  # fmt: skip
    if features is not None:
        assert others is not None, "types have names"
        kept = {column: features[column] for column in others}
        if "finish_reason" in kept:
            kept["finish_reason"] = datasets.Value("string")
        settings["features"] = datasets.Features(kept | made_of)
    if of_dataset:
        settings |= {"desc": f"tokenising {name}", "new_fingerprint": _key(rows, tokenizer, turns, shown, shape)}
    encode = _Encode(
        tokenizer,
        turns,
        name,
        others if turns == "each" else [],
        filled_columns(rows, read),
        list(made_of),
        shown,
        shape,
    )
    made = rows.map(encode, **settings)
    return formatted_as(given, made, made_of)


@dataclass
class _Encode:
    """What is mapped over a data set: columns of a batch, and the numbers of its rows, to columns of pairs.

    Args:
        others: columns that are made anew, too, as they are; None: all that the batch has.
    """

    tokenizer: PreTrainedTokenizerBase
    turns: str
    name: str
    others: list[str] | None
    filled: list[str]
    made_of: list[str]
    shown: bool
    shape: Shape | None = None

    def __call__(self, batch: Mapping[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
        told = (*_TOLD, *(self.shape.made_of if self.shape else ()))
        others = [c for c in batch if c not in told] if self.others is None else self.others
        names = [column for column in batch if column in (*_READ, *told) or column in others]
        columns = [batch[column] for column in names]
        rows = [
            {
                c: without_nulls(v) if c in self.filled else v
                for c, v in zip(names, row, strict=True)
                if v is not None or c == "completion"
            }
            for row in zip(*columns, strict=True)
        ]
        rows = _translated(rows, self.shape, self.name, int(numbers[0]))
        ends = ["finish_reason"] if "finish_reason" in batch else []
        made: dict[str, list[Any]] = {column: [] for column in (*others, *ends, *self.made_of)}
        for row, pairs in _encoded(rows, self.tokenizer, self.turns, self.name, int(numbers[0]), self.shown):
            for n, pair in enumerate(pairs):
                whole = beside(row, pair, n, len(pairs))
                for column in made:
                    made[column].append(whole.get(column))
        return made


def _encoded(
    rows: list[Any], tokenizer: Any, turns: str, name: str, first: int, shown: bool
) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """Each row with its pairs; a row that has ids is one.

    Args:
        shown: what the teacher was shown is read, too; where nobody reads it, it may stand beside several turns.
    """
    texts = [_said(row) for row in rows if _is_text(row)]
    if not shown:
        texts = [
            {name: value for name, value in row.items() if name != "teacher_prompt"} if isinstance(row, dict) else row
            for row in texts
        ]
    good = iter(encode_rows([row for row in texts if isinstance(row, dict)], tokenizer, turns=turns))
    made = iter([next(good) if isinstance(row, dict) else row for row in texts])
    for number, row in enumerate(rows, first):
        pairs: Any
        if _is_text(row):
            pairs = next(made)
        elif isinstance(row, Mapping) and all(row.get(column) is not None for column in _IDS):
            pairs = _with_ids(row, tokenizer)
        else:
            has = (
                [column for column in row if row[column] is not None]
                if isinstance(row, Mapping)
                else type(row).__name__
            )
            pairs = ValueError(
                f"It has {', '.join(has) if isinstance(has, list) else has}; it must have messages, or prompt and completion, or both "
                "of prompt_ids and completion_ids."
            )
        if isinstance(pairs, ValueError):
            raise ValueError(f"{name}, row {number}: {pairs}")
        yield row, pairs


def _said(row: Mapping[str, Any]) -> dict[str, Any] | ValueError:
    """What a row of text says, without the columns that say nothing in it."""
    if row.get("completion", row) is None and row.get("messages") is not None and row.get("prompt") is not None:
        return ValueError(
            "completion is null beside a prompt and messages; leave prompt and completion out, or messages."
        )
    try:
        return with_system({name: value for name, value in row.items() if value is not None or name not in _TOLD})
    except ValueError as error:
        return error


def _with_ids(row: Mapping[str, Any], tokenizer: Any) -> list[dict[str, Any]] | ValueError:
    try:
        whole = with_shown_ids(row, tokenizer) if _lacks_shown(row) else row
    except ValueError as error:
        return error
    return [{column: whole[column] for column in (*_MADE, _SHOWN, "finish_reason") if whole.get(column) is not None}]


def _key(rows: datasets.Dataset, tokenizer: Any, turns: str, shown: bool, shape: Shape | None) -> str:
    """What decides the tokens, this package's code among it: columns that other code made are not found again."""
    read = shape and (shape.name, shape.made_of, shape.covered)
    return fingerprint(rows._fingerprint, *tokenizer_state(tokenizer), turns, shown, read, program())
