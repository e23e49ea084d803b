"""Messages of servers taken apart: the text, the reasoning under any of its names, and what a pair of text cannot hold."""

from typing import Any, NamedTuple

# "reasoning_content": DeepSeek's API, SGLang, llama.cpp, transformers; "reasoning": newer vLLM, OpenRouter, Ollama; "thinking": Ollama's
# own API and proxies; "reasoning_details": OpenRouter, a list of parts
REASONING = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
_THOUGHTS = ("thinking", "reasoning", "reasoning.text")
_CALLS = ("tool_calls", "function_call", "audio")


class Said(NamedTuple):
    """What a message says. `left` names what of its reasoning is not text; `foreign` what no pair of text can hold."""

    text: str | None
    reasoning: str | None
    left: tuple[str, ...]
    foreign: tuple[str, ...]


def read_message(message: dict[str, Any], content: Any) -> Said:
    """Text and reasoning of a message, whose content may be a list of parts.

    Args:
        message: of a choice; for `/completions` the choice itself.
        content: its text, None, or a list of parts (`{"type": "text", "text": ...}`).
    """
    text, thoughts, left, foreign = _content(content)
    for name in REASONING:
        value = message.get(name)
        found, more = _reasoning(value)
        thoughts = thoughts or found
        left += [f"{name} ({kind})" if kind else name for kind in more]
    foreign += [name for name in _CALLS if message.get(name)]
    return Said(text, thoughts or None, tuple(dict.fromkeys(left)), tuple(foreign))


def _content(content: Any) -> tuple[str | None, str, list[str], list[str]]:
    if content is None or isinstance(content, str):
        return content, "", [], []
    if not isinstance(content, list):
        return None, "", [], [f"a content that is a {type(content).__name__}"]
    texts, thoughts, left, foreign = [], [], list[str](), list[str]()
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(part, str):
            texts.append(part)
        elif kind in (None, "text", "output_text") and isinstance(part, dict) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in _THOUGHTS:
            found, more = _reasoning([part])
            thoughts.append(found)
            left += more
        elif kind == "redacted_thinking":
            left.append(kind)
        else:
            foreign.append(f"a part of type {kind!r:.40}")
    return "".join(texts) if texts or not foreign else None, "".join(thoughts), left, foreign


def _reasoning(value: Any) -> tuple[str, list[str]]:
    """Its text, and the kinds of its parts that have none."""
    if not value:
        return "", []
    if isinstance(value, str):
        return value, []
    if isinstance(value, list):
        found = [_reasoning(part) for part in value]
        return "".join(text for text, _ in found), [kind for _, kinds in found for kind in kinds]
    if isinstance(value, dict):
        kind = str(value.get("type") or "")
        inner = next((value[name] for name in ("text", "thinking", "content", "reasoning") if value.get(name)), None)
        # a summary is not what the model thought, and what is encrypted nobody can read
        if inner is not None and (not kind or kind in _THOUGHTS or kind in ("text", "reasoning_text")):
            return _reasoning(inner)
        return "", [kind or ", ".join(map(str, value))[:40]]
    return "", [type(value).__name__]
