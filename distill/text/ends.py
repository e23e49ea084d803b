"""Ends: the finish reasons of the field's servers, and what each says of an answer."""

from collections.abc import Mapping
from typing import Any

STOP, LENGTH = "stop", "length"
# By name, whatever the case and a prefix such as Vertex' FINISH_REASON_: OpenAI, TGI, Anthropic, Gemini, Mistral, Cohere,
# Bedrock, and what proxies make of them.
_STOPPED = {
    "stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "complete", "completed", "end_of_turn",
    "endoftext", "end_of_text", "end_of_sequence", "finish", "finished",
}  # fmt: skip
_CUT = {
    "length", "max_tokens", "max_new_tokens", "max_output_tokens", "max_completion_tokens", "max_length", "model_length",
    "token_limit", "error_limit", "length_limit", "model_context_window_exceeded", "context_window_exceeded",
}  # fmt: skip
# The turn ended by itself, in order to call; without its calls it is no whole turn.
_CALLED = {"tool_calls", "function_call", "tool_use", "tool_call"}
# Known, no whole text, and because of what this one prompt asks.
FILTERED = {
    "content_filter", "content_filtered", "filtered", "safety", "recitation", "blocklist", "prohibited_content", "spii",
    "refusal", "guardrail_intervened", "error_toxic",
}  # fmt: skip


def read_end(said: Any, meanings: Mapping[str, str] | None = None) -> str | None:
    """`"stop"` or `"length"` for a finish reason that is known to say so; None for any other, and for none.

    Args:
        said: the finish reason as it came; None where the server gave none.
        meanings: further ones, `{"done": "stop"}`; `"null"` stands for none. They go before the known ones.

    Example:
        >>> read_end("STOP"), read_end("eos_token"), read_end("MAX_TOKENS"), read_end("tool_calls")
        ('stop', 'stop', 'length', None)
    """
    name = "null" if said is None else str(said)
    if meanings and name in meanings:
        return meanings[name]
    name = bare_end(name)
    return STOP if name in _STOPPED else LENGTH if name in _CUT else None


def bare_end(said: Any) -> str:
    """The finish reason in lower case, without its prefix."""
    return str(said).strip().casefold().removeprefix("finish_reason_").removeprefix("finishreason.")


def changed_meanings(meanings: Mapping[str, str]) -> dict[str, str]:
    """Those that say of a known finish reason something else than is known: answers that were understood before mean another."""
    return {name: meaning for name, meaning in meanings.items() if read_end(name) not in (None, meaning)}


def end_of_row(said: Any, calls: bool) -> str:
    """`"stop"` or `"length"` for the finish reason that stands beside a text, a turn or a conversation.

    Args:
        said: as it came; nothing, or an empty text, means that the text is whole.
        calls: whether its last turn calls: then it may also have stopped for the sake of its calls.

    Raises:
        ValueError: a name that is not known, or one that says that the text is not whole.

    Example:
        >>> end_of_row(None, False), end_of_row("end_turn", False), end_of_row("tool_calls", True)
        ('stop', 'stop', 'stop')
    """
    if said is None or said == "":
        return STOP
    name, end = bare_end(said), read_end(said) if isinstance(said, str) else None
    if end is not None:
        return end
    if name in _CALLED:
        if calls:
            return STOP
        raise ValueError(
            f"finish_reason is {said!r}, but the turn has no calls (tool_calls); it must have them, or another end."
        )
    why = (
        "so its text is not whole; leave the row out"
        if name in FILTERED
        else "which is not known; write 'stop' or 'length'"
    )
    raise ValueError(f"finish_reason is {str(said)[:60]!r}, {why}.")


def checked_meanings(meanings: Mapping[str, str] | None) -> dict[str, str]:
    """What a user says that further finish reasons mean.

    Raises:
        ValueError: a meaning that is neither "stop" nor "length".
    """
    for name, meaning in (meanings or {}).items():
        if meaning not in (STOP, LENGTH):
            raise ValueError(
                f"finish_reasons says that {name!r} means {meaning!r}; it must be 'stop' (the text ended by itself) or 'length' (it "
                "was cut)."
            )
    return {str(name): meaning for name, meaning in (meanings or {}).items()}


def read_meanings(flag: str | None) -> dict[str, str]:
    """Meanings from a flag such as `done=stop,null=stop`.

    Raises:
        ValueError: a part without `=`; as `checked_meanings`.
    """
    parts = [part.strip().partition("=") for part in (flag or "").split(",") if part.strip()]
    if bad := [name for name, equals, _ in parts if not equals]:
        raise ValueError(
            f"--finish_reasons has {bad[0]!r}; it must list names and meanings, such as done=stop,null=stop."
        )
    return checked_meanings({name.strip(): meaning.strip() for name, _, meaning in parts})
