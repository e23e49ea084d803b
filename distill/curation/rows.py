"""Rows that are kept or left out, and their texts a batch at a time: what every step of curation works with."""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distill.basics.curation_step import Step
from distill.pairs.batches import batches, flat, row_of
from distill.pairs.groups import ids_keys, value_keys
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
    start = 0
    for table in batches(pairs, [part], doing):
        found = _joined(table[part].combine_chunks(), "\n")
        if found is None:  # messages of several shapes: a row at a time
            found = [text_of(value) for value in pairs.select_columns([part])[start : start + len(table)][part]]
        yield from found
        start += len(table)


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
    if pa.types.is_string(values.type):
        return np.asarray(pc.fill_null(pc.match_substring_regex(values, pattern), False), dtype=bool)
    if (contents := _contents(values)) is None:
        return None
    hit = np.asarray(pc.fill_null(pc.match_substring_regex(contents, pattern), False), dtype=bool)
    return np.asarray(np.bincount(row_of(flat(pa.chunked_array([values]))[1])[hit], minlength=len(values)) > 0)


def _joined(values: Any, between: str, roles: bool = False) -> list[str] | None:
    """Texts as they are, plain messages joined (each behind its role, if asked for); None for messages of other shapes."""
    if pa.types.is_string(values.type):
        return list(values.to_pylist()) if not values.null_count else None
    contents = _contents(values)
    if contents is None or contents.null_count or values.null_count:
        return None
    if roles:
        contents = pc.binary_join_element_wise(pc.struct_field(pc.list_flatten(values), "role"), contents, "\x00")
    offsets = np.concatenate([[0], np.cumsum(flat(pa.chunked_array([values]))[1])]).astype(np.int32)
    return list(pc.binary_join(pa.ListArray.from_arrays(offsets, contents), between).to_pylist())


def _contents(values: Any) -> Any:
    """The contents of plain messages, one behind the other; None for messages of other shapes."""
    kind = values.type
    if not pa.types.is_list(kind) or not pa.types.is_struct(kind.value_type):
        return None
    if {field.name for field in kind.value_type} != {"role", "content"}:
        return None
    contents = pc.struct_field(pc.list_flatten(values), "content")
    return contents if pa.types.is_string(contents.type) else None


def distinct_prompts_of(pairs: datasets.Dataset, doing: str = "") -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`(first, number)`: the rows where a prompt appears first, and of each row the number of its prompt.

    Two prompts are the same if they look the same to people, the tools that may be called among them, whatever their ids.
    """
    columns = ["prompt", *(["tools"] if "tools" in pairs.column_names else [])]
    seen: dict[bytes, int] = {}
    first: list[int] = []
    number, row = np.zeros(len(pairs), np.int64), 0
    for table in batches(pairs, columns, doing):
        asked = _joined(table["prompt"].combine_chunks(), "\x01", roles=True) if len(columns) == 1 else None
        if asked is None:
            batch = pairs.select_columns(columns)[row : row + len(table)]
            asked = [_as_json(values) for values in zip(*batch.values(), strict=True)]
        for text in asked:
            key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            number[row] = place = seen.setdefault(key, len(first))
            if place == len(first):
                first.append(row)
            row += 1
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


def row_keys(pairs: datasets.Dataset, by: str) -> list[NDArray[Any]]:
    """Columns of numbers, `[rows]` each, that are all equal for rows that are the same in the sense of `drop_duplicates`."""
    if by == "id":
        return [value_keys(pairs, "id")]
    columns: list[NDArray[Any]] = []
    if by != "completion":
        columns += ids_keys(pairs, "prompt_ids")
    if by != "prompt":
        columns += ids_keys(pairs, "completion_ids")
    if by == "draw" and "teacher_prompt_ids" in pairs.column_names:
        columns += ids_keys(pairs, "teacher_prompt_ids")
    if by == "draw":
        columns += [value_keys(pairs, name) for name in ("teacher", "sample")]
    return columns


def one_of(name: str, value: str, allowed: Collection[str]) -> None:
    """Raise `ValueError` unless `value` is allowed."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.")


def short(text: str, length: int = 80) -> str:
    """A text for people, in quotes, its end left out if it is long."""
    return repr(text if len(text) <= length else f"{text[: length - 4]} ...")
