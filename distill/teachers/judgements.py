"""Judgements of what a server sends that is no answer: is it asked again, given up for this prompt, or for all."""

import re
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

# Servers word it differently: OpenAI and vLLM, SGLang, llama.cpp.
# Anthropic, Gemini and TGI say it of the prompt or the input; a limit of max_tokens alone is worded alike, and is no prompt's.
_TOO_LONG = re.compile(
    r"context.{0,9}(length|window|size)|context_length|exceed.{0,20}context|too many tokens|"
    r"\b(prompt|inputs?)\b.{0,60}(too (long|large)|maximum number of tokens|must be <=|must have less than)",
    re.I,
)
_FILTERED = re.compile(r"content.?(filter|policy|management)|moderation|safety", re.I)
_MODEL = re.compile(
    r"model.{0,80}(not found|not exist|unknown|invalid|not available)|pinned to|invalid model", re.I | re.S
)


class Unavailable(ValueError):
    """Every request to this address would fail the same way; stop.

    Args:
        reason: one sentence without any key.
        wait: seconds the server asks to wait.
        passing: it may pass by itself, as a server that is started anew; else a person must do something.
    """

    def __init__(self, reason: str, wait: float | None = None, *, passing: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.passing = wait, passing


class NotThere(Unavailable):
    """Status 404: the address or the model is unknown."""


class Refused(Exception):
    """This one request cannot be had; the others can.

    Args:
        reason: one sentence without any key.
        of_prompt: because of what this prompt asks, which says nothing about the others.
        lost: nothing came; another address, or another time, may have it.
        answer: what came all the same, and was paid for.
    """

    def __init__(self, reason: str, *, of_prompt: bool = False, lost: bool = False, answer: Any = None) -> None:
        super().__init__(reason)
        self.of_prompt, self.lost, self.answer = of_prompt, lost, answer


class Malformed(Exception):
    """An answer came, but not one that can be read; asked again, like a broken connection.

    Args:
        what: one sentence.
        answer: the answer, if it is whole and was paid for: then it is asked for once more, and not as often as it takes.
    """

    def __init__(self, what: str, answer: Any = None) -> None:
        super().__init__(what)
        self.answer = answer


class Trouble(Exception):
    """This attempt failed; another may not.

    Args:
        what: one sentence without any key.
        wait: seconds the server asks to wait.
        queued: others get through, so it is a queue and not a failure.
        answer: of `Malformed`.
    """

    def __init__(self, what: str, wait: float | None = None, *, queued: bool = False, answer: Any = None) -> None:
        super().__init__(what)
        self.wait, self.queued, self.answer = wait, queued, answer


def judge_status(status: int, body: Any, headers: Any, said: str) -> Exception:
    """What an error status means: a `Trouble`, a `Refused`, or `NotThere` and `Unavailable` without their address.

    Args:
        status: of HTTP.
        body: JSON of the error, if it is any.
        headers: of the answer.
        said: what it says, short and without keys.
    """
    trouble = f"status {status}: {said}"
    told = f"{said} {error_code(body)}"
    too_long = _TOO_LONG.search(told)
    if status == 404 or (status in (400, 422) and not too_long and _MODEL.search(said)):
        return NotThere(f"does not know this address or this model ({trouble}).")
    if status == 402 or "insufficient_quota" in str(body):
        return Unavailable(f"gives no more on this account ({trouble}).", retry_after(headers))
    if status in (408, 409, 425, 429) or status >= 500:
        return Trouble(trouble, retry_after(headers))
    if too_long:
        return Refused(f"the prompt and the completion exceed the model's context ({trouble})", of_prompt=True)
    if _FILTERED.search(told):
        return Refused(f"a content filter refused it ({trouble})", of_prompt=True)
    return Refused(f"the server refused it ({trouble})")


def retry_after(headers: Any, now: Callable[[], float] = time.time) -> float | None:
    """Seconds a server asks us to wait: `retry-after-ms`, or `Retry-After` as seconds or as a date (RFC 9110, 10.2.3)."""
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / divisor
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - now()
            except ValueError:
                continue
        if seconds == seconds:  # not NaN
            return max(0.0, seconds)
    return None


def error_message(body: Any) -> str:
    """What an error body says, whichever way this server words it."""
    if isinstance(body, dict):
        return next((error_message(body[k]) for k in ("message", "detail", "error") if body.get(k)), "")
    if isinstance(body, list):
        return "; ".join(map(error_message, body[:3]))
    text = "" if body is None else str(body)
    return "" if "<html" in text[:300].lower() else text


def error_code(body: Any) -> str:
    """The code or type of an error body; empty without one."""
    return str(body.get("code") or body.get("type") or "") if isinstance(body, dict) else ""
