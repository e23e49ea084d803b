"""Rows that are kept or left out, and their texts a batch at a time: what every step of curation works with."""

import json
import re
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tqdm.auto import tqdm

from distill.basics import processes
from distill.basics.curation_step import Step
from distill.pairs.batches import ROWS, SILENT, batches, column, flat, row_of
from distill.pairs.groups import ids_digests
from distill.text.encode import Prompt

PARTS = ("prompt", "completion")
_EXAMPLES = 3


def keep_rows(
    pairs: datasets.Dataset,
    kept: NDArray[np.bool_],
    name: str,
    effect: str,
    settings: dict[str, Any],
    why: Callable[[int], str],
) -> tuple[datasets.Dataset, Step]:
    """The rows to keep (`[rows]` bool), and the record of it; `why` says of a row, by its index, for what it goes."""
    gone = np.flatnonzero(~kept)
    shown = pairs.select(gone[:_EXAMPLES])["id"][:] if len(gone) else []
    examples = tuple(f"{key}: {why(int(i))}" for key, i in zip(shown, gone[:_EXAMPLES], strict=True))
    step = Step(name, len(pairs), len(pairs) - len(gone), effect, settings, examples)
    return (pairs.select(np.flatnonzero(kept)) if len(gone) else pairs), step


def each_text(pairs: datasets.Dataset, part: str, doing: str = "") -> Iterator[str]:
    """The prompt or completion of every row as a text; messages by those of their contents that are text.

    Args:
        pairs: see `distill.pairs`.
        part: one of `PARTS`.
        doing: what a progress bar says if it takes seconds; none without it.
    """
    hidden = not doing or not processes.is_main()
    with tqdm(total=len(pairs), desc=doing, unit="row", delay=SILENT, leave=False, disable=hidden) as bar:
        for batch in pairs.select_columns([part]).iter(ROWS):
            yield from map(text_of, batch[part])
            bar.update(len(batch[part]))


def one_text(pairs: datasets.Dataset, row: int, part: str) -> str:
    """The text of one row."""
    return text_of(pairs[row][part])


def text_of(value: Any) -> str:
    """A text, or the texts of a list or the contents of messages, one a line; null (a turn that calls a tool) says nothing."""
    if isinstance(value, str):
        return value
    contents = (message.get("content") if isinstance(message, dict) else message for message in value)
    return "\n".join(content for content in contents if isinstance(content, str))


def matching(pairs: datasets.Dataset, part: str, pattern: str) -> NDArray[np.bool_]:
    """`[rows]` bool: whether the text of a part, or one of its messages, has the pattern (of a kind that RE2 and `re` share)."""
    found = [_matching(table[part].combine_chunks(), pattern) for table in batches(pairs, [part], "reading texts")]
    if any(hit is None for hit in found):  # messages of several shapes: a text at a time
        search = re.compile(pattern).search
        return np.fromiter((search(text) is not None for text in each_text(pairs, part, "reading texts")), bool)
    return np.concatenate([hit for hit in found if hit is not None]) if found else np.zeros(0, bool)


def _matching(values: Any, pattern: str) -> NDArray[np.bool_] | None:
    kind = values.type
    if pa.types.is_string(kind):
        return np.asarray(pc.fill_null(pc.match_substring_regex(values, pattern), False), dtype=bool)
    if (
        pa.types.is_list(kind)
        and pa.types.is_struct(kind.value_type)
        and kind.value_type.get_field_index("content") >= 0
    ):
        contents = pc.struct_field(pc.list_flatten(values), "content")
        if pa.types.is_string(contents.type):
            hit = np.asarray(pc.fill_null(pc.match_substring_regex(contents, pattern), False), dtype=bool)
            sizes = flat(pa.chunked_array([values]))[1]
            return np.asarray(np.bincount(row_of(sizes)[hit], minlength=len(values)) > 0)
    return None


def distinct_prompts_of(pairs: datasets.Dataset, doing: str = "") -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`(first, number)`: the rows where a prompt appears first, and of each row the number of its prompt.

    Two prompts are the same if they look the same to people, the tools that may be called among them, whatever their ids.
    """
    tools = ["tools"] if "tools" in pairs.column_names else []
    seen: dict[Hashable, int] = {}
    first: list[int] = []
    number, row = np.zeros(len(pairs), np.int64), 0
    hidden = not doing or not processes.is_main()
    with tqdm(total=len(pairs), desc=doing, unit="row", delay=SILENT, leave=False, disable=hidden) as bar:
        for batch in pairs.select_columns(["prompt", *tools]).iter(ROWS):
            for asked in zip(*batch.values(), strict=True):
                key = asked[0] if len(asked) == 1 and isinstance(asked[0], str) else _as_json(asked)
                number[row] = place = seen.setdefault(key, len(first))
                if place == len(first):
                    first.append(row)
                row += 1
            bar.update(len(batch["prompt"]))
    return np.array(first, dtype=np.int64), number


def asked_in(pairs: datasets.Dataset, rows: NDArray[np.int64]) -> list[Prompt]:
    """The prompts of some rows; tools that may be called are a turn of their own, which is no user's."""
    chosen = pairs.select(rows)
    tools = chosen["tools"][:] if "tools" in pairs.column_names else [None] * len(rows)
    return [_with_tools(prompt, offered) for prompt, offered in zip(chosen["prompt"][:], tools, strict=True)]


def _with_tools(prompt: Prompt, tools: Any) -> Prompt:
    if not tools:
        return prompt
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return [{"role": "tools", "content": _as_json(tools)}, *turns]


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def row_keys(pairs: datasets.Dataset, by: str) -> list[Any]:
    """One key a row, equal for rows that are the same in the sense of `drop_duplicates`."""
    if by == "id":
        return list(column(pairs, "id").to_pylist())
    columns: list[Iterable[Hashable]] = []
    if by != "completion":
        columns.append(ids_digests(pairs, "prompt_ids"))
    if by != "prompt":
        columns.append(ids_digests(pairs, "completion_ids"))
    if by == "draw":
        columns += [column(pairs, name).to_pylist() for name in ("teacher", "sample")]
    return list(zip(*columns, strict=True))


def one_of(name: str, value: str, allowed: Collection[str]) -> None:
    """Raise `ValueError` unless `value` is allowed."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.")


def short(text: str, length: int = 80) -> str:
    """A text for people, in quotes, its end left out if it is long."""
    return repr(text if len(text) <= length else f"{text[: length - 4]} ...")
