"""Cells of files in which everything is text: numbers, lists and messages where a pair has them."""

import json
from collections.abc import Callable
from typing import Any

from distill.basics.jsonl import STRICT, check_value
from distill.pairs.kinds import CSV, TSV, YAML
from distill.pairs.row_names import CONVERSATIONS, IDS, TEXTS

_NUMBERS: dict[str, Callable[[str], Any]] = {"sample": int, "score": float}
_JSON = (*IDS, "teacher_prompt_ids", "loss_mask", "tools", "top_logprobs", "chat_template_kwargs")
_WORDS = ("finish_reason", "token_source", "teacher", "score_error", "message")  # of a pair, and never empty

Cells = Callable[[dict[str, Any]], dict[str, Any]]


def cells_of(kind: str) -> Cells | None:
    """How a row of such a file is read further; None where its values are what they are.

    Args:
        kind: of the file, see `kinds`.
    """
    return {CSV: _of_table, TSV: _of_table, YAML: _of_yaml}.get(kind)


def _of_table(row: dict[str, Any]) -> dict[str, Any]:
    """With numbers, lists and objects where a pair has them; an empty cell of these is none.

    A prompt or a completion is messages only if it is nothing else: any other JSON in it (an answer `{"a": 1}`, `[1, 2]` or `3`) is its text.
    """
    found = dict(row)
    for name in (*_NUMBERS, *_JSON, *CONVERSATIONS):
        value = found.get(name)
        if not isinstance(value, str):
            continue
        if not value.strip():
            del found[name]
            continue
        read = _NUMBERS.get(name, _json)
        try:
            found[name] = read(value)
        except (ValueError, RecursionError):
            meant = {"sample": "a whole number", "score": "a number"}.get(name, "JSON")
            raise ValueError(f"{name} is {value[:60]!r}, which cannot be read; {meant} is expected.") from None
    if found.get("teacher_prompt") == "":
        del found["teacher_prompt"]  # a teacher may have been shown no text, or nothing of its own
    for name in _WORDS:
        if isinstance(value := found.get(name), str) and not value.strip():
            del found[name]
    for name in ("prompt", "completion", "teacher_prompt"):
        value = found.get(name)
        if isinstance(value, str) and value.lstrip().startswith("[") and (messages := _messages(value)):
            found[name] = messages
    return found


def _of_yaml(row: dict[str, Any]) -> dict[str, Any]:
    """With texts where a pair has texts: a completion `42` is what was written."""
    found = {name: _written(value) if name in TEXTS else value for name, value in row.items()}
    for name in (*CONVERSATIONS, *TEXTS):
        if isinstance(found.get(name), list):
            found[name] = [_turn(one) if isinstance(one, dict) else one for one in found[name]]
    return found


def _turn(message: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _written(value) if name in ("role", "content", "from", "value") else value
        for name, value in message.items()
    }


def _written(value: Any) -> Any:
    """A number or a truth value as the letters it had in the file."""
    return json.dumps(value) if isinstance(value, bool | int | float) else value


def _json(text: str) -> Any:
    return check_value(json.loads(text, **STRICT), text.encode("utf-8"))


def _messages(text: str) -> Any:
    try:
        found = _json(text)
    except (ValueError, RecursionError):
        return None
    good = isinstance(found, list) and all(
        isinstance(one, dict) and isinstance(one.get("role"), str) and one.keys() & {"content", "tool_calls"}
        for one in found
    )
    return found if good else None
