"""Shown or refused: whether a chat template shows what a message says, asked once for each kind of message."""

from collections.abc import Mapping, Sequence
from typing import Any

from distill.text.chat import WORD, Chat
from distill.text.messages import RESULTS, Messages

# what ties a result to its call; templates that do not show it go by the order, which `distill.text.results` sees to
_LINKS = ("tool_call_id",)
_OF_CALLS = ("id", "type", "index")  # of a call itself; what else stands in it says something


def check_shown(
    chat: Chat, messages: Messages, tools: Sequence[Any] | None = None, values: Mapping[str, Any] | None = None
) -> None:
    """Refuse messages of which the template leaves something out.

    Each field is replaced by a word that stands nowhere else, and the word is looked for in what the template writes; so it does
    not matter that a template trims, quotes or moves a text. A field of an assistant's turn may be left out of later prompts
    (Qwen3 does so with reasoning), if it is shown as long as that turn is the last. The answer holds for every message of the same
    kind: role, fields, what stands before it, whether a user speaks after it.

    Raises:
        ValueError: a field that is not shown, by its name.
    """
    setting = repr(sorted((values or {}).items()))
    last_question = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=-1)
    for i, message in enumerate(messages):
        fields = tuple(sorted(name for name, value in message.items() if name != "role" and value not in ("", [], {})))
        if _is_plain(message):
            shape: Any = None
        else:
            calls = [[(where, key) for where, key, _ in _fields(call)] for call in message.get("tool_calls", ())]
            shape = repr((type(message["content"]), calls))
        before = messages[i - 1]["role"] if i else None
        kind = (message["role"], before, fields, shape, i < last_question, tools is not None, setting)
        if kind not in chat.shown:
            for name in fields:
                _check_field(chat, messages, i, name, tools, values)
            chat.shown.add(kind)
    if tools and ("tools", messages[0]["role"], setting) not in chat.shown:
        _check_tools(chat, messages, tools, values)
        chat.shown.add(("tools", messages[0]["role"], setting))


def _is_plain(message: Mapping[str, Any]) -> bool:
    return len(message) == 2 and isinstance(message["content"], str)


def _check_field(chat: Chat, messages: Messages, i: int, name: str, tools: Any, values: Any) -> None:
    message = messages[i]
    if name in _LINKS or (name == "name" and _is_of_its_call(messages, i)):
        return
    if name == "tool_calls":
        tries: Any = _other_calls(message["tool_calls"])
    else:
        word = _replaced(message[name])
        tries = [(name, word, word is not None)]
    for what, value, has_word in tries:
        other = {key: part for key, part in message.items() if key != name}
        if value is not None:
            other[name] = value
        if _differs(chat, messages, i, other, WORD if has_word else None, tools, values):
            continue
        beside = ", ".join(key for key in message if key not in ("role", name)) or "nothing"
        raise ValueError(
            f"The chat template does not show {what} of message {i}, of the role {message['role']} (beside it stand: {beside}), so a "
            "student would never see it. Use a template that shows it, move what it says into the content, or remove the field."
        )


def _other_calls(calls: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Any], bool]]:
    """Every field of every call once replaced by the word, or left out: its name, the calls, whether the word is in them."""
    changed = []
    for n, call in enumerate(calls):
        for in_function, key, value in _fields(call):
            word = _replaced(value)
            holder = dict(call["function"] if in_function else call)
            del holder[key]
            if word is not None:
                holder[key] = word
            other = {**call, "function": holder} if in_function else holder
            changed.append((f"tool_calls[{n}].{key}", [*calls[:n], other, *calls[n + 1 :]], word is not None))
    return changed


def _fields(call: Mapping[str, Any]) -> list[tuple[bool, str, Any]]:
    """What a call says: whether it stands in its `function`, the field's name and value."""
    inner = _inner(call)
    found = [
        (inner is not call, key, value) for key, value in inner.items() if inner is not call or key not in _OF_CALLS
    ]
    if inner is not call:
        found += [(False, key, value) for key, value in call.items() if key not in (*_OF_CALLS, "function")]
    if call.get("type", "function") != "function":
        found.append((False, "type", call["type"]))
    return [(where, key, value) for where, key, value in found if value not in (None, "", [], {})]


def _replaced(value: Any) -> Any:
    """The word in the place of a value; None for what no word can stand for."""
    return WORD if isinstance(value, str) else {WORD: WORD} if isinstance(value, Mapping) else None


def _differs(
    chat: Chat, messages: Messages, i: int, other: dict[str, Any], word: str | None, tools: Any, values: Any
) -> bool:
    """Whether the template writes the word, or at least something else, once message `i` is another one."""
    several = [len(messages), i + 1] if messages[i]["role"] == "assistant" else [len(messages)]
    for end in several:
        changed = chat.render([*messages[:i], other, *messages[i + 1 : end]], tools, ended=True, values=values)
        if word is not None and word in changed.lower():
            return True
        if word is None and changed != chat.render(messages[:end], tools, ended=True, values=values):
            return True
    return False


def _check_tools(chat: Chat, messages: Messages, tools: Sequence[Any], values: Any) -> None:
    with_them = chat.render(messages, tools, ended=True, values=values)
    if with_them == chat.render(messages, None, ended=True, values=values):
        raise ValueError(
            "The chat template does not show tools, so a student would never see which functions it may call. Use a template "
            "that does, or write them into the system's turn."
        )


def _inner(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """Name and arguments of a call, in the form of OpenAI's API or without its shell."""
    found: Mapping[str, Any] = call.get("function", call)
    return found


def _is_of_its_call(messages: Messages, i: int) -> bool:
    """Whether a result's `name` only repeats the name in the call that it answers."""
    call = _call_of(messages, i)
    return call is not None and _inner(call).get("name") == messages[i].get("name")


def _call_of(messages: Messages, i: int) -> Mapping[str, Any] | None:
    """The call that a tool's message answers: that of its id, else by its place behind the turn that calls."""
    if messages[i]["role"] not in RESULTS:
        return None
    first = i
    while first and messages[first - 1]["role"] == messages[i]["role"]:
        first -= 1
    calls = messages[first - 1].get("tool_calls", ()) if first else ()
    wanted = messages[i].get("tool_call_id")
    by_id = [call for call in calls if wanted is not None and call.get("id") == wanted]
    return by_id[0] if by_id else calls[i - first] if i - first < len(calls) else None
