"""Calls of functions in an answer, in the forms that models write: JSON objects, in tags or bare, and calls as in Python."""

import ast
import json
import re
from typing import Any

_NAMES = ("name", "function")
_ARGUMENTS = ("arguments", "parameters", "args")
_LOOKS_LIKE = re.compile(r"<\|?tool_call|\[TOOL_CALLS\]|\"(?:arguments|parameters)\"\s*:|<function=", re.IGNORECASE)
_PYTHON = re.compile(r"^\s*\[?\s*[A-Za-z_]\w*\(.*\)\s*\]?\s*$", re.DOTALL)

Calls = list[tuple[str, dict[str, Any]]]


def calls_in(text: str) -> tuple[Calls, str]:
    """The calls of an answer, as (name, arguments), and what is wrong with it where something looks like a call and is none.

    Read are JSON objects with a name and arguments (of Qwen, SmolLM, Hermes, Llama 3, Mistral; whatever tags stand around them), one or
    several in a list, and an answer that is a call as in Python (`[send(to="Ann")]`).

    Args:
        text: the answer.

    Example:
        >>> calls_in('<tool_call>{"name": "ring", "arguments": {"bell": "door"}}</tool_call>')
        ([('ring', {'bell': 'door'})], '')
    """
    if _PYTHON.match(text):
        return _python(text)
    decoder, found, position = json.JSONDecoder(), Calls(), 0
    while (start := _next(text, position)) is not None:
        try:
            value, position = decoder.raw_decode(text, start)
        except ValueError:
            position = start + 1
            continue
        found += [call for one in (value if isinstance(value, list) else [value]) if (call := _call(one))]
    looks = _LOOKS_LIKE.search(text) is not None
    return found, "" if found or not looks else "it has something like a call that cannot be read"


def _next(text: str, position: int) -> int | None:
    places = [place for mark in "{[" if (place := text.find(mark, position)) >= 0]
    return min(places) if places else None


def _call(value: Any) -> tuple[str, dict[str, Any]] | None:
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("function"), dict):
        value = value["function"]
    name = next((value[key] for key in _NAMES if isinstance(value.get(key), str)), None)
    arguments = next((value[key] for key in _ARGUMENTS if key in value), None)
    if isinstance(arguments, str):  # as OpenAI's API writes them
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return None
    return (name, arguments) if name is not None and isinstance(arguments, dict) else None


def _python(text: str) -> tuple[Calls, str]:
    bad = "it has something like a call that cannot be read"
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        nodes = tree.elts if isinstance(tree, ast.List) else [tree]
        found = Calls()
        for node in nodes:
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
                return [], bad
            found.append((node.func.id, {str(key.arg): ast.literal_eval(key.value) for key in node.keywords}))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [], bad
    return found, ""
