"""Rows that are kept or left out: what every step of curation does with them."""

import json
from collections.abc import Collection, Hashable, Iterable
from typing import Any

import datasets
import numpy as np

from distill.basics.curation_step import Step
from distill.pairs.groups import ids_as_bytes
from distill.text.encode import Prompt

PARTS = ("prompt", "completion")
_EXAMPLES = 3


def keep_rows(
    pairs: datasets.Dataset, kept: list[bool], name: str, effect: str, settings: dict[str, Any], say: dict[int, str]
) -> tuple[datasets.Dataset, Step]:
    """The rows to keep, and the record of it; `say` tells for each other row, by its index, why it goes."""
    ids = pairs["id"][:]
    examples = [f"{ids[i]}: {say[i]}" for i, keep in enumerate(kept) if not keep][:_EXAMPLES]
    step = Step(name, len(pairs), sum(kept), effect, settings, tuple(examples))
    return (pairs.select(np.flatnonzero(kept)) if step.removed else pairs), step


def texts_of(pairs: datasets.Dataset, part: str) -> list[str]:
    """The prompts or completions as texts; messages by those of their contents that are text."""
    return [text_of(value) for value in pairs[part][:]]


def prompts_of(pairs: datasets.Dataset) -> list[tuple[str, Prompt]]:
    """`(key, prompt)` of each row; keys are equal where prompts are, the tools that may be called among them."""
    tools = pairs["tools"][:] if "tools" in pairs.column_names else [None] * len(pairs)
    return [
        (json.dumps([prompt, offered], sort_keys=True, default=str), _with_tools(prompt, offered))
        for prompt, offered in zip(pairs["prompt"][:], tools, strict=True)
    ]


def _with_tools(prompt: Prompt, tools: Any) -> Prompt:
    """With the tools as a turn of their own, which is no user's."""
    if not tools:
        return prompt
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return [{"role": "tools", "content": json.dumps(tools, sort_keys=True, default=str)}, *turns]


def text_of(value: Any) -> str:
    """A text, or the texts of a list or the contents of messages, one a line; null (a turn that calls a tool) says nothing."""
    if isinstance(value, str):
        return value
    contents = (message.get("content") if isinstance(message, dict) else message for message in value)
    return "\n".join(content for content in contents if isinstance(content, str))


def row_keys(pairs: datasets.Dataset, by: str) -> list[Any]:
    """One key a row, equal for rows that are the same in the sense of `drop_duplicates`."""
    if by == "id":
        return pairs["id"][:]
    columns: list[Iterable[Hashable]] = []
    if by != "completion":
        columns.append(ids_as_bytes(pairs, "prompt_ids"))
    if by != "prompt":
        columns.append(ids_as_bytes(pairs, "completion_ids"))
    if by == "draw":
        columns += [pairs["teacher"][:], pairs["sample"][:]]
    return list(zip(*columns, strict=True))


def one_of(name: str, value: str, allowed: Collection[str]) -> None:
    """Raise `ValueError` unless `value` is allowed."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.")


def short(text: str, length: int = 80) -> str:
    """A text for people, in quotes, its end left out if it is long."""
    return repr(text if len(text) <= length else f"{text[: length - 4]} ...")
