"""Calls in the form that a template reads: arguments as an object or as JSON in a text, no content as an empty text or as null."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from distill.text.messages import Messages

_NAME, _KEY, _VALUE = "qzdistillnameqz", "qzdistillkeyqz", "qzdistillvalueqz"
_FORMS = [(False, ""), (False, None), (True, ""), (True, None)]  # arguments as text, content of a turn that only calls


def as_template_wants(messages: Messages, template: str, specials: Mapping[str, str]) -> Messages:
    """The messages with their calls in the form that the template can read; as they are where there are none.

    `arguments` are an object for most templates, as `transformers` documents it; those of DeepSeek write them as they come, and would
    write Python in the place of JSON. The same templates show calls only where the content is null. Which form is right is tried once
    for each template.

    Args:
        messages: with `arguments` as objects, as `distill.text.messages` reads them.
        template: its source, the day written into it.
        specials: names of special tokens, which the template may use.
    """
    if not any("tool_calls" in message for message in messages):
        return messages
    as_text, content = _form(template, tuple(sorted(specials.items())))
    return [
        {
            **message,
            "content": message["content"] or content,
            "tool_calls": [_written(call) for call in message["tool_calls"]] if as_text else message["tool_calls"],
        }
        if "tool_calls" in message
        else message
        for message in messages
    ]


def _written(call: Mapping[str, Any]) -> dict[str, Any]:
    inner = call.get("function", call)
    if not isinstance(inner.get("arguments"), Mapping):
        return dict(call)
    written = {**inner, "arguments": json.dumps(inner["arguments"], ensure_ascii=False)}
    return {**call, "function": written} if "function" in call else written


@lru_cache(maxsize=64)
def _form(template: str, specials: tuple[tuple[str, str], ...]) -> tuple[bool, str | None]:
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    render: Any = render_jinja_template
    arguments = {_KEY: _VALUE}
    for as_text, content in _FORMS:
        inner = {"name": _NAME, "arguments": json.dumps(arguments) if as_text else arguments}
        call = {"id": "qzdist123", "type": "function", "function": inner}
        talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": content, "tool_calls": [call]}]
        try:
            (text,), _ = render([talk], chat_template=template, **dict(specials))
        except (TemplateError, TypeError, KeyError, AttributeError):
            continue
        if all(word in text.lower() for word in (_NAME, _KEY, _VALUE)) and str(arguments) not in text:
            return as_text, content
    return _FORMS[0]  # none shows calls, or shows them where there are tools: whoever asks will see
