"""Read pairs from whatever people have: any file, folder or dataset of `sources`, in any of the `shapes`."""

import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import pyarrow as pa
from tqdm.auto import tqdm

from distill.basics.processes import say
from distill.pairs.aside import Aside
from distill.pairs.blocks import BLOCK_ROWS, Block
from distill.pairs.checking import checked_row, checked_table
from distill.pairs.columns import COLUMNS, OPTIONAL
from distill.pairs.fast_lines import read_lines, schema_of, with_types_of
from distill.pairs.kept_key import key_of
from distill.pairs.kinds import ARROW, LINES, PARQUET, TEXT
from distill.pairs.row_marks import LEFT_OUT, is_left_out, kept_of_table, marks_in
from distill.pairs.row_names import IDS, SPOKEN, SYSTEM, TOOLS
from distill.pairs.schema import complete_row, encoded
from distill.pairs.shapes import Shape, parse_columns, shape_of_pairs, unasked
from distill.pairs.sources import SAVED, Part, find_parts
from distill.pairs.storing import Store, stored
from distill.pairs.tables import PROMPTS, MixedPrompts, table_of
from distill.text.messages import Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOOKED_AT = 100  # first rows of a file, which decide its shape


def load_pairs(
    path: str | os.PathLike[str],
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    *,
    chat: bool | None = None,
    turns: str = "last",
    columns: str | Mapping[str, str] | None = None,
    split: str | None = None,
    limit: int | None = None,
    skip_bad: str | os.PathLike[str] | None = None,
) -> datasets.Dataset:
    """Read pairs: JSON Lines, JSON, CSV, YAML, Parquet or Arrow, packed or not, a folder of them, or a dataset of the Hub.

    Rows that carry token ids are taken as they are; only of a `teacher_prompt` in words alone the tokens are made. Others have texts: prompt/completion, `messages`, ShareGPT, Alpaca,
    question/answer and their like; these are tokenised once with the tokenizer given. Which it is, is decided once a file by its
    first rows, and said. Columns that are no pair's are carried through; rows that are marked with `weight: 0` (`train: false`) are left out and counted.

    A large file is read once: what came of it is kept where `datasets` keeps its own, and mapped into memory.

    Args:
        path: see `distill.pairs.sources.find_parts`.
        tokenizer: the student's; needed only for rows without token ids, and for a `teacher_prompt` without its own.
        chat: for what becomes tokens, as in `distill.text.encode.as_prompt`.
        turns: of a conversation, whether its `"last"` or `"all"` of the assistant's turns carry loss, or `"each"` is a row of its own.
        columns: which column is taken for what, as `"prompt=q,completion=a"`.
        split: of a dataset or a folder with several.
        limit: take only so many rows, from the first on.
        skip_bad: leave bad rows out, and write them to this file, with the reason and where each one stood.

    Returns:
        A dataset with the columns of `distill.pairs.columns`, and the file's own, in the order of the file.

    Raises:
        ValueError: no such file, no rows, no known shape, `turns` of rows with token ids, or a bad row; the message names the file and the line.

    Example:
        >>> pairs = load_pairs("runs/demo/pairs.jsonl")
        >>> pairs[0]["finish_reason"]
        'stop'
    """
    named = parse_columns(columns)
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1.")
    parts = find_parts(path, split, most=limit, columns=tuple(named.values()))
    if (
        not named
        and turns == "last"
        and len(parts) == 1
        and parts[0].kind == SAVED
        and (saved := _as_saved(parts[0].name, limit))
    ):
        return saved
    settings = [chat, turns, sorted(named.items()), limit]
    key = None if skip_bad is not None else key_of([part.path for part in parts], tokenizer, settings)
    if key and (found := stored(key)):
        if found[1]:
            say(found[1])
        return found[0]
    with Aside(skip_bad) as aside:
        reader = _Reader(tokenizer, chat, turns, named, limit, aside, Store(key))
        for i, part in enumerate(parts):
            reader.read(part, others=len(parts) - 1 if i == 0 else 0)
        reader.say_left_out(path)
        if not reader.store.rows:
            raise ValueError(f"{path} has no pairs{aside.so_far()}.")
    return reader.store.dataset("\n".join(reader.said))


def _as_saved(folder: str, limit: int | None) -> datasets.Dataset | None:
    """What `save_to_disk` wrote, mapped as it lies there, if it is pairs and every row is as `checked_table` leaves it."""
    pairs = datasets.load_from_disk(folder)
    if not set(COLUMNS) <= set(pairs.column_names) or not len(pairs) or marks_in(pairs.column_names):
        return None
    pairs = pairs.select(range(min(limit or len(pairs), len(pairs))))
    for table in pairs.with_format("arrow").iter(BLOCK_ROWS * 10):
        found = checked_table(table)
        if found is None or set(found.column_names) != set(table.column_names):
            return None
        if not found.equals(table.select(found.column_names)):
            return None
    return pairs


class _Reader:
    """Reads parts, one after another, into one store."""

    def __init__(
        self, tokenizer: Any, chat: bool | None, turns: str, columns: dict[str, str], limit: int | None, aside: Aside,
        store: Store,
    ) -> None:  # fmt: skip
        self.tokenizer, self.chat, self.turns, self.columns, self.limit = tokenizer, chat, turns, columns, limit
        self.aside, self.store, self.said = aside, store, list[str]()
        self._spoken = frozenset((*SPOKEN, *columns.values()))
        self.left_out = 0
        self._are_messages: dict[str, bool] = {}  # of all prompts, of all teacher's prompts
        self._shape: Shape | None = None
        self._schema: pa.Schema | None = None

    def read(self, part: Part, others: int) -> None:
        """All rows of a part, as far as the limit.

        Args:
            part: a file, say.
            others: files that follow.
        """
        self._shape = self._schema = None
        with tqdm(desc=f"reading {Path(part.name).name}", unit="row", delay=5, initial=self.store.rows) as bar:
            for block in part.read():
                if self._shape is None:
                    self._recognise(part, block, others)
                if self._shape is not None and self._full():
                    return
                if self._shape is not None:
                    self._add(part, block)
                bar.update(self.store.rows - bar.n)

    def say_left_out(self, path: str | os.PathLike[str]) -> None:
        """How many rows were left out, if any were."""
        if self.left_out:
            self.said.append(f"{path}: {self.left_out} rows {LEFT_OUT}.")
            say(self.said[-1])

    def _full(self) -> bool:
        return self.limit is not None and self.store.rows >= self.limit

    def _recognise(self, part: Part, block: Block, others: int) -> None:
        # good ones: a file may well begin with a hundred bad ones
        first = list(
            islice(
                ((w, row) for w, row in block.rows(self._spoken) if not isinstance(row, ValueError)),
                LOOKED_AT,
            )
        )
        rows = [row for _, row in first]
        if not rows:  # all bad: told, or set aside
            for where, row in block.rows(self._spoken):
                self.aside.put(where, row, row)
            return
        if part.kind == TEXT:
            raise ValueError(
                f"{part.name} is text, and a pair needs a prompt and a completion; give a file that has both."
            )
        shape = shape_of_pairs(rows, self.columns, part.name, part.kind)
        if not shape.has_ids and self.tokenizer is None:
            raise ValueError(
                f"{first[0][0]}: no token ids; pass the student's tokenizer to load_pairs to make them from the text "
                f"({shape.name})."
            )
        if shape.has_ids and self.turns != "last":
            raise ValueError(
                f"{part.name} has token ids, of which loss_mask says what carries loss; turns={self.turns!r} is for rows of messages "
                "without them: leave it out."
            )
        self._shape = shape
        if shape.has_ids and not self.columns and part.kind == LINES:
            self._schema = schema_of(rows)
        if not shape.has_ids or part.kind not in (LINES, ARROW, PARQUET, SAVED):
            self._say(part, shape, rows, others)

    def _say(self, part: Part, shape: Shape, rows: list[dict[str, Any]], others: int) -> None:
        names = dict.fromkeys(name for row in rows for name in row)
        shown = () if shape.has_ids else (*SYSTEM, *TOOLS, "chat_template_kwargs")
        made = {*COLUMNS, *OPTIONAL} - ({"tools", "chat_template_kwargs"} if shape.has_ids else set())
        used = {*shape.made_of, *shape.covered, *made, *self.columns.values(), *shown}
        own = [str(name) for name in names if name not in used]
        seen = [name for name in shown if any(row.get(name) not in (None, "", [], {}) for row in rows)]
        more = f" (and {others} more files)" if others else ""
        sentence = f"{part.name}{more}: {part.kind}, {shape.name}."
        sentence += f" Shown to the chat template: {', '.join(seen)}." if seen else ""
        sentence += f" Carried along: {', '.join(own)}." if own else ""
        sentence += "" if shape.has_ids else unasked(name for name in own if any(row.get(name) for row in rows))
        sentence += f" Left out, because pairs have their own: {', '.join(shape.covered)}." if shape.covered else ""
        if not self.said or self.said[-1].partition(": ")[2] != sentence.partition(": ")[2]:
            say(sentence)
            self.said.append(sentence)

    def _add(self, part: Part, block: Block) -> None:
        table = self._whole(part, block)
        if table is not None:
            self._store(part, block, table)
            return
        rows = block.rows(self._spoken)
        while some := list(islice(rows, self._most())):
            self._add_rows(part, block, some)
            if self._full():
                return

    def _most(self) -> int:
        return BLOCK_ROWS if self.limit is None else min(BLOCK_ROWS, self.limit - self.store.rows)

    def _whole(self, part: Part, block: Block) -> pa.Table | None:
        """The block's pairs at once, if it has token ids and all its rows are good."""
        assert self._shape is not None, "recognised before"
        if not self._shape.has_ids or self.columns:
            return None
        if block.lines is None:
            return None if block.table is None else self._checked(block.table)
        if self._schema is None:
            return None
        found = read_lines(block.lines, self._schema, first=block.number == 1)
        if found is None:  # it may have columns that the first rows had not
            good = [row for _, row in block.rows(self._spoken) if not isinstance(row, ValueError)]
            grown = with_types_of(self._schema, good)
            if grown is not None and grown != self._schema:
                self._schema = grown
                found = read_lines(block.lines, grown, first=block.number == 1)
        return None if found is None else self._checked(found)

    def _checked(self, whole: pa.Table) -> pa.Table | None:
        found, left_out = kept_of_table(whole, None if self.limit is None else self.limit - self.store.rows)
        table = checked_table(found)
        if table is not None:
            kinds = {n: not pa.types.is_string(table.schema.field(n).type) for n in PROMPTS if n in table.column_names}
            if any(self._are_messages.get(name, kind) != kind for name, kind in kinds.items()):
                return None  # the first row of the other kind is told
            self._are_messages |= kinds
            self.left_out += left_out
        return table

    def _store(self, part: Part, block: Block, table: pa.Table) -> None:
        try:
            self.store.add(table)
        except pa.ArrowException as error:  # a type that is not known here
            raise ValueError(f"{part.name}, among the rows from {block.number} on: {error}") from None

    def _add_rows(self, part: Part, block: Block, some: list[tuple[str, Any]]) -> None:
        """Rows that are looked at singly; texts among them are encoded together."""
        assert self._shape is not None, "recognised before"
        good: list[tuple[str, dict[str, Any], dict[str, Any]]] = []  # where, as it stands there, translated
        bad: list[tuple[str, Any, ValueError]] = []
        for where, row in some:
            try:
                if isinstance(row, ValueError):
                    raise row
                if is_left_out(row, self.columns):
                    self.left_out += 1
                    continue
                good.append((where, row, self._translated(row)))
            except ValueError as error:
                bad.append((where, row, error))
                if not self.aside:
                    break
        done = list(self._completed(good))  # rows before the first bad one are told first
        for refused in bad:
            self.aside.put(*refused)
        if done:
            self._store(part, block, table_of(done))

    def _translated(self, row: dict[str, Any]) -> dict[str, Any]:
        assert self._shape is not None, "recognised before"
        made = self._shape.translate(row)
        has_ids = any(made.get(name) is not None for name in IDS)
        if has_ids != self._shape.has_ids and all(made.get(name) is not None for name in ("prompt", "completion")):
            there = (
                "token ids, and others of this file have none"
                if has_ids
                else "no token ids, which others of this file have"
            )
            raise ValueError(f"{there}; keep the two kinds in two files.")
        return made

    def _completed(self, rows: list[tuple[str, dict[str, Any], dict[str, Any]]]) -> Iterator[dict[str, Any]]:
        assert self._shape is not None, "recognised before"
        texts = [] if self._shape.has_ids else [row for _, _, row in rows]
        made = encoded(texts, self.tokenizer, self.chat, self.turns) if texts else [None] * len(rows)
        for (where, as_it_stands, row), found in zip(rows, made, strict=True):
            try:
                if isinstance(found, ValueError):
                    raise found
                if found is None:
                    made_of = [complete_row(row, where, self.tokenizer, self.chat)]
                else:
                    made_of = [checked_row(one, where) for one in found]
                for one in made_of:
                    self._of_one_kind(one)
                yield from made_of
            except ValueError as error:
                self.aside.put(where, as_it_stands, error)

    def _of_one_kind(self, row: dict[str, Any]) -> None:
        for name in PROMPTS:
            kind = isinstance(row[name], list) if row.get(name) is not None else None
            if kind is not None and self._are_messages.setdefault(name, kind) != kind:
                raise MixedPrompts(name)


def pair_from_conversation(
    messages: Messages, tokenizer: "PreTrainedTokenizerBase", *, turns: str = "last"
) -> dict[str, Any]:
    """One pair from a conversation that ends with the assistant; see `distill.text.rows.encode_rows`."""
    return complete_row({"messages": messages}, "The conversation", tokenizer, turns=turns)
