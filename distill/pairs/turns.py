"""Turns of conversations as files have them: role/content, ShareGPT's from/value, JSON in a cell; all become role/content."""

import json
from collections.abc import Sequence
from typing import Any

_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "model": "assistant",
    "bing": "assistant", "bard": "assistant", "system": "system", "tool": "tool", "observation": "tool",
    "function_response": "tool", "function_call": "function_call", "tool_call": "function_call",
}  # fmt: skip
Row = dict[str, Any]


def turns_of(text: str) -> Any:
    """Turns written as JSON in a text (a cell of a table); the text itself where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def read_turns(turns: Sequence[Row]) -> list[Row]:
    """Turns as `role` and `content`; fields that they have beside these are kept.

    Raises:
        ValueError: one of ShareGPT's by somebody unknown, or a call that is no JSON.
    """
    return _with_words([_message(turn) for turn in turns], turns)


def said_conversation(name: str, values: Sequence[Any]) -> str:
    """What a column of conversations is called: whose turns they are."""
    turns = [turn for value in values if isinstance(value, list) for turn in value if isinstance(turn, dict)]
    return f"{name} (ShareGPT)" if any("from" in turn for turn in turns) else f"{name} (role, content)"


def _message(message: Row) -> Row:
    """One of ShareGPT's turns (`from`, `value`) as one with `role` and `content`; any other as it is."""
    if "from" not in message or "role" in message:
        return message
    said = _ROLES.get(str(message["from"]).lower())
    if said is None or "value" not in message:
        raise ValueError(
            f"a turn is from {message['from']!r} and has {', '.join(message)}; known are from and value, by {', '.join(_ROLES)}."
        )
    others = {name: value for name, value in message.items() if name not in ("from", "value")}
    value = message["value"]
    if said != "function_call":
        return {"role": said, "content": value, **others}
    try:
        calls = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"a function call is no JSON: {str(value)[:60]!r}.") from None
    listed = calls if isinstance(calls, list) else [calls]
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": call} for call in listed],
        **others,
    }


def _with_words(read: list[Row], written: Sequence[Row]) -> list[Row]:
    """Words and the call behind them as the one turn they are: ShareGPT has two for it, and nobody answers between."""
    made: list[Row] = []
    for turn, message in zip(read, written, strict=True):
        before = made[-1] if made else {}
        is_call = "role" not in message and turn.keys() - {"weight"} == {"role", "content", "tool_calls"}
        is_said = before.get("role") == "assistant" and before.keys() - {"weight"} == {"role", "content"}
        if is_call and is_said and before.get("weight") == turn.get("weight"):
            made[-1] = {**turn, **before}
        else:
            made.append(turn)
    return made
