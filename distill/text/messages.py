"""Messages read strictly: every field of a message is kept, honoured or refused by its name."""

import json
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

Messages = list[dict[str, Any]]
Prompt = str | Messages

REASONING = ("reasoning_content", "thinking", "reasoning")  # one thing under three names; templates read the first
MARKS = ("weight", "train", "training", "loss")  # whether a turn is to be trained on, as different tools write it
RESULTS = ("tool", "function", "ipython")  # who says what a call gave, under different names
SHAPE = "{'role': text, 'content': text}"


def check_messages(messages: Any) -> None:
    """Raise `ValueError` unless `messages` is a non-empty list of messages that `read_messages` can read."""
    read_messages(messages)


def read_messages(messages: Any, ignore: Collection[str] = ()) -> tuple[Messages, list[bool | None]]:
    """Messages in the one form that chat templates take, and which of them are marked (not) to be trained on.

    `null` is a field that is not there, so is an empty list; content in parts of text is joined; `arguments` of a call become
    what their JSON says; the older `function_call` becomes `tool_calls`; `thinking` and `reasoning` become
    `reasoning_content`. Nothing else is changed, and no field is dropped: whether a template shows it is for
    `distill.text.shown` to say.

    Args:
        messages: a list of dicts with a `role`; `content` may be missing only beside `tool_calls`.
        ignore: names of fields that are left out on purpose.

    Returns:
        The messages, and for each True, False, or None where it has no mark.

    Raises:
        ValueError: another shape; content that is no text; arguments that are no JSON object; marks that are not 0 or 1, contradict
            each other, or ask for loss on a turn that is not the assistant's.
    """
    good = isinstance(messages, Sequence) and not isinstance(messages, str) and len(messages) > 0
    if not good or not all(isinstance(m, Mapping) and isinstance(m.get("role"), str) for m in messages):
        raise ValueError(f"A prompt is text or a non-empty list of {SHAPE}, not {str(messages)[:80]!r}.")
    read: Messages = []
    marks: list[bool | None] = []
    for number, given in enumerate(messages):
        if given.keys() == {"role", "content"} and isinstance(given["content"], str):  # nearly all of them
            read.append({"role": given["role"], "content": given["content"]})
            marks.append(None)
            continue
        kept = {name: value for name, value in given.items() if value is not None and name not in ignore}
        try:
            marks.append(_mark(kept))
            read.append(_message(kept))
        except ValueError as error:
            raise ValueError(f"message {number}, of the role {given['role']}: {error}") from None
        if not isinstance(read[-1]["content"], str | Mapping):
            raise ValueError(
                f"A prompt is text or a non-empty list of {SHAPE}; the content of message {number} is {str(given.get('content'))[:60]}."
            )
    for before, message in pairwise(read):
        # function_call has become tool_calls, so what it gave becomes the result of a tool
        called = [call.get("function", call)["name"] for call in before.get("tool_calls", ())]
        if message["role"] == "function" and called == [message.get("name", *called)]:
            message["role"] = "tool"
    return read, marks


def read_tools(tools: Any, name: str = "tools") -> list[dict[str, Any]] | None:
    """The functions a model may call, as a list of dicts; None where there are none.

    Args:
        tools: such a list, its JSON as text, or nothing.
        name: of the column, for messages.

    Raises:
        ValueError: something else.
    """
    if isinstance(tools, str):
        try:
            tools = json.loads(tools) if tools.strip() else None
        except ValueError:
            raise ValueError(f"{name} is a text that is no JSON: {tools[:80]!r}.") from None
    if tools is None or (isinstance(tools, list) and not tools):
        return None
    if isinstance(tools, list) and all(isinstance(tool, str) for tool in tools):
        tools = [_parsed(tool, "a tool") for tool in tools]
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) and tool for tool in tools):
        raise ValueError(f"{name} must be a list of JSON schemas, not {str(tools)[:80]!r}.")
    return [dict(tool) for tool in tools]


def read_values(values: Any) -> dict[str, Any] | None:
    """The template's variables that a row gives (`chat_template_kwargs`), a dict or its JSON as text; None where there are none.

    Raises:
        ValueError: something else.
    """
    read = _parsed(values, "chat_template_kwargs") if isinstance(values, str) and values else values
    if read is not None and read != "" and not isinstance(read, Mapping):
        raise ValueError(f"chat_template_kwargs must be a dict, not {str(values)[:60]!r}.")
    return dict(read) if read else None


def without_nulls(value: Any) -> Any:
    """The value without the keys that Arrow filled with null, because some other row has them."""
    if isinstance(value, Mapping):
        return {name: without_nulls(part) for name, part in value.items() if part is not None}
    if isinstance(value, list):
        return [without_nulls(part) for part in value]
    return value


def as_sent(messages: Messages) -> Messages:
    """Messages as OpenAI's API takes them: `arguments` of calls are JSON in a text."""
    return [
        {**message, "tool_calls": [_sent(call) for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in messages
    ]


def text_of(message: Mapping[str, Any]) -> str:
    """The words of a message, for people and for comparing; empty for one that only calls."""
    content = message.get("content")
    return content if isinstance(content, str) else "" if content is None else json.dumps(content, ensure_ascii=False)


def joined(parts: Sequence[Any]) -> str:
    """Content given as parts, as one text.

    Raises:
        ValueError: a part that is no text (a picture), or that says more than its text; begins with "its content".
    """
    texts = []
    for part in parts:
        if isinstance(part, Mapping):
            part = {name: value for name, value in part.items() if value is not None}
            kind = part.get("type", "text")
            if kind not in ("text", "input_text", "output_text") or not isinstance(part.get("text"), str):
                raise ValueError(f"its content has a part of the type {kind!r}; only parts of text can be joined.")
            if more := sorted(part.keys() - {"type", "text"}):
                raise ValueError(f"its content has a part with {', '.join(more)} beside its text.")
            part = part["text"]
        if not isinstance(part, str):
            raise ValueError(f"its content has a part that is no text: {str(part)[:60]!r}.")
        texts.append(part)
    return "".join(texts)


def _message(given: dict[str, Any]) -> dict[str, Any]:
    message = {"role": given.pop("role")}
    calls = _calls(given)
    content = given.pop("content", None)
    if isinstance(content, list):
        content = joined(content)
    elif content is None and calls:
        content = ""
    if isinstance(content, Mapping) and message["role"] not in RESULTS:
        raise ValueError(f"its content is an object, not text: {str(content)[:60]}.")
    message["content"] = content
    thoughts = {name: given.pop(name) for name in REASONING if name in given}
    if len(set(map(str, thoughts.values()))) > 1 or not all(isinstance(one, str) for one in thoughts.values()):
        raise ValueError(f"{' and '.join(thoughts)} must be one text, not {str(list(thoughts.values()))[:80]}.")
    if thought := next(iter(thoughts.values()), ""):
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = calls
    return message | {name: value for name, value in given.items() if value not in ("", [], {})}


def _calls(given: dict[str, Any]) -> list[dict[str, Any]]:
    calls = given.pop("tool_calls", None) or []
    if older := given.pop("function_call", None):
        calls = [*calls, {"type": "function", "function": older}]
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        raise ValueError(f"tool_calls must be a list of calls, not {str(calls)[:80]}.")
    read = []
    for call in calls:
        call = {name: value for name, value in call.items() if value is not None}
        inner = dict(call["function"]) if isinstance(call.get("function"), Mapping) else call
        if not isinstance(inner.get("name"), str) or not inner["name"]:
            raise ValueError(f"a call in tool_calls has no name: {str(call)[:80]}.")
        inner["arguments"] = _arguments(inner.get("arguments"))
        read.append({**call, "function": inner} if inner is not call else inner)
    return read


def _sent(call: Mapping[str, Any]) -> dict[str, Any]:
    inner = call.get("function", {name: value for name, value in call.items() if name not in ("id", "type")})
    function = {**inner, "arguments": json.dumps(inner["arguments"], ensure_ascii=False)}
    return {**({"id": call["id"]} if "id" in call else {}), "type": "function", "function": function}


def _arguments(given: Any) -> dict[str, Any]:
    """As a dict: a text would be quoted a second time by templates that write it as JSON (Llama 3.1)."""
    if given is None or given == "":
        return {}
    value = _parsed(given, "arguments of a call in tool_calls") if isinstance(given, str) else given
    if not isinstance(value, Mapping):
        raise ValueError(f"arguments of a call in tool_calls must be a JSON object, not {str(given)[:60]!r}.")
    return dict(value)


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError(f"{what} must be a JSON object, not {text[:60]!r}.") from None


def _mark(given: dict[str, Any]) -> bool | None:
    """What the marks of a message say, taken out of it."""
    marks = {name: given.pop(name) for name in MARKS if name in given}
    for name, value in marks.items():
        if value not in (0, 1):
            raise ValueError(f"{name} is {value!r:.40}; a turn is trained on (1, true) or not (0, false).")
    if len(set(map(bool, marks.values()))) > 1:
        raise ValueError(f"{' and '.join(marks)} contradict each other: {marks}.")
    if not marks:
        return None
    wanted = bool(next(iter(marks.values())))
    if wanted and given["role"] != "assistant":
        raise ValueError(f"{' and '.join(marks)} asks for loss, but only turns of the assistant carry loss; remove it.")
    return wanted
