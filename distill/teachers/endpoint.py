"""Retries, waiting, errors and API keys: one address of an OpenAI-compatible server.

The `openai` client sends the requests; its own retries are off. They repeat nothing once a status 200 has come (half a
JSON text, no choices), wait at most two minutes where a server asks for more, and cannot tell a server that is gone from
a request that is hopeless. Two policies on top of each other would multiply, so there is one, here.
"""

import asyncio
import os
import random
import re
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from distill.basics.redact import secret_in

T = TypeVar("T")

LONGEST_PAUSE = 30.0  # seconds between two attempts of one request, where the server names no time
LONGEST_WAIT = 900.0  # seconds a server may ask us to wait; beyond, it is kinder to stop and be run again later
HOPELESS = 8  # requests refused or lost without an answer between: then it is not the requests
# Servers word it differently: OpenAI and vLLM, SGLang, llama.cpp.
_TOO_LONG = re.compile(r"context.{0,9}(length|window|size)|context_length|exceed.{0,20}context|too many tokens", re.I)
_FILTERED = re.compile(r"content.?(filter|policy|management)|moderation|safety", re.I)
_MODEL = re.compile(
    r"model.{0,80}(not found|not exist|unknown|invalid|not available)|pinned to|invalid model", re.I | re.S
)
_SECRET = re.compile(r"(?i)(bearer\s+)[^\s\"',}]+|\bsk-[\w-]{8,}")


class Unavailable(ValueError):
    """Every request would fail the same way; stop."""


class NotThere(Unavailable):
    """Status 404: the address or the model is unknown."""


class Refused(Exception):
    """This one request cannot be had; the others can."""


class Malformed(Exception):
    """An answer came, but not one that can be read; asked again, like a broken connection."""


class Endpoint:
    """Where a server is, and one policy for everything that goes wrong on the way.

    Args:
        url: the address with scheme and version, e.g. `http://localhost:8000/v1`.
        api_key_env: the environment variable that holds the key; an unset one sends none.
        timeout: seconds for one attempt, from the first byte sent to the last received.
        retries: further attempts of one request.
        backoff: seconds before the first of them; doubled each time up to 30, and shortened by up to half by chance so
            that requests that failed together do not come back together. A `Retry-After` is waited for instead.

    Raises:
        ValueError: an address without a scheme, or with a key in it; a key that cannot be sent; the `openai` package is
            missing.
    """

    def __init__(self, url: str, api_key_env: str, *, timeout: float, retries: int, backoff: float) -> None:
        try:
            import openai
        except ImportError:
            raise ValueError(
                "A teacher behind a server needs the 'openai' package: pip install 'distill[server]'."
            ) from None
        self._openai = openai
        self.url = checked_url(url)
        self.key_env, self._key = api_key_env, _key_in(api_key_env)
        self.timeout, self.retries, self.backoff = timeout, retries, backoff
        self.answered = 0
        self._reached = False
        self._refused = self._lost_in_a_row = 0

    async def __aenter__(self) -> "Endpoint":
        """Open the connections, in the running loop."""
        self._stopping = asyncio.Event()
        self._options: Any = {} if self._key else {"headers": {"Authorization": self._openai.Omit()}}
        self._client = self._openai.AsyncOpenAI(
            base_url=self.url,
            api_key=self._key or "none",
            max_retries=0,
            timeout=self._openai.Timeout(self.timeout, connect=min(self.timeout, 10.0)),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    def stop(self) -> None:
        """What is under way may end; nothing is tried again."""
        self._stopping.set()

    async def get(self, path: str, read: Callable[[Any], T]) -> T:
        """`read` of what the server answers; raises as `post`."""
        return await self._ask(lambda: self._client.get(path, cast_to=object, options=self._options), read)

    async def post(self, path: str, body: dict[str, Any], read: Callable[[Any], T]) -> T:
        """`read` of the JSON that the server answers, after as many attempts as it takes.

        Args:
            path: below the address, e.g. `/chat/completions`.
            body: plain values.
            read: turns the answer into what is wanted; raises `Malformed` if it is not there.

        Raises:
            Unavailable: no request can succeed. Refused: this one cannot. Both say why in a sentence without any key.
        """
        return await self._ask(lambda: self._client.post(path, body=body, cast_to=object, options=self._options), read)

    async def _ask(self, send: Callable[[], Any], read: Callable[[Any], T]) -> T:
        attempts = 0
        while True:
            before, wait = self.answered, None
            try:
                async with asyncio.timeout(self.timeout):
                    payload = await send()
                answer = read(self._checked(payload))
                self.answered += 1
                self._reached, self._lost_in_a_row = True, 0
                return answer
            except (TimeoutError, self._openai.APITimeoutError):
                trouble = f"no answer within {self.timeout:g} s"
            except self._openai.APIConnectionError as error:
                trouble = self._broken(error)
            except self._openai.APIStatusError as error:
                trouble, wait = self._judge(error)
                if error.status_code == 429 and self.answered > before:
                    attempts -= 1  # others get through, so this is a queue and not a failure
            except UnicodeDecodeError:
                trouble = "an answer that is not UTF-8"
            except ValueError as error:
                if isinstance(error, Unavailable):
                    raise
                trouble = "an answer that is not JSON"
            except Malformed as error:
                trouble = str(error)
            attempts += 1
            if attempts >= self._attempts_allowed():
                self._give_up(attempts, trouble)
            await self._pause(attempts, wait, trouble)

    async def _pause(self, attempts: int, wait: float | None, trouble: str) -> None:
        if wait is None:
            pause = min(LONGEST_PAUSE, self.backoff * 2 ** (attempts - 1)) * random.uniform(0.5, 1)
        elif wait > LONGEST_WAIT:
            raise Unavailable(f"{self.url} asks to wait {wait / 60:.0f} minutes ({trouble}); run the same again then.")
        else:
            pause = wait + random.uniform(0, 0.1) * min(wait, LONGEST_PAUSE)
        try:
            await asyncio.wait_for(self._stopping.wait(), pause)
        except TimeoutError:
            return
        raise Refused(f"not asked again, because the run stops ({trouble})")

    def _attempts_allowed(self) -> int:
        """All of them; but few once a request was lost and nothing was answered since, so that an end is soon seen."""
        return 1 + (min(2, self.retries) if self._lost_in_a_row else self.retries)

    def _give_up(self, attempts: int, trouble: str) -> None:
        self._lost_in_a_row += 1  # one may be the request's own fault; many without an answer between are the server's
        if self._lost_in_a_row >= HOPELESS:
            raise Unavailable(f"{self.url} gives no answers; the last of {attempts} attempts of a request: {trouble}.")
        raise Refused(f"no answer in {attempts} attempts, the last of them: {trouble}")

    def _checked(self, payload: Any) -> Any:
        if isinstance(payload, str):  # not sent as JSON
            if not self.answered:
                raise Unavailable(
                    f"{self.url} answers with a web page or plain text and not as an OpenAI-compatible API; such an "
                    "address usually ends in /v1."
                )
            raise Malformed("a web page or plain text in place of JSON")
        if isinstance(payload, dict) and payload.get("error"):
            raise Malformed(f"an error in place of an answer: {self._redacted(_message(payload))}")
        return payload

    def _broken(self, error: Exception) -> str:
        causes = []
        cause: BaseException | None = error
        while cause is not None:
            causes.append(cause)
            cause = cause.__cause__ or cause.__context__
        refused = any(isinstance(c, ConnectionRefusedError) for c in causes)
        reason = "connection refused" if refused else self._redacted(str(causes[-1]) or type(causes[-1]).__name__)
        if not self._reached and any(type(c).__name__ in ("ConnectError", "UnsupportedProtocol") for c in causes):
            raise Unavailable(f"Nobody answers at {self.url} ({reason}); is the server started, and the address right?")
        return f"the connection broke ({reason})"

    def _judge(self, error: Any) -> tuple[str, float | None]:
        """What is wrong, and how long the server asks to wait; raises where asking again is of no use."""
        status, self._reached = error.status_code, True
        said = self._redacted(_message(error.body) or error.response.reason_phrase or "nothing more")
        trouble = f"status {status}: {said}"
        if status == 401 or (status == 403 and not self.answered):
            way = "is not accepted" if self._key else "is not set"
            raise Unavailable(
                f"{self.url} wants a key, and the one in the environment variable {self.key_env} {way} ({trouble})."
            )
        too_long = _TOO_LONG.search(f"{said} {_code(error.body)}")
        if status == 404 or (status in (400, 422) and not too_long and _MODEL.search(said)):
            raise NotThere(f"{self.url} does not know this address or this model ({trouble}).")
        if status == 402 or "insufficient_quota" in str(error.body):
            raise Unavailable(f"{self.url} gives no more on this account ({trouble}).")
        if status in (408, 409, 425, 429) or status >= 500:
            return trouble, retry_after(error.response.headers)
        if too_long:
            raise Refused(f"the prompt and the completion exceed the model's context ({trouble})")
        if _FILTERED.search(f"{said} {_code(error.body)}"):
            raise Refused(f"a content filter refused it ({trouble})")
        self._refused += 1
        if not self.answered and self._refused >= HOPELESS:
            raise Unavailable(f"{self.url} refused all of the first {self._refused} requests ({trouble}).")
        raise Refused(f"the server refused it ({trouble})")

    def _redacted(self, text: str) -> str:
        """One short line, with the key and what looks like one taken out: servers do echo headers."""
        if self._key:
            text = text.replace(self._key, "[key]")
        text = " ".join(_SECRET.sub(lambda m: f"{m.group(1) or ''}[key]", text).split())
        return text if len(text) <= 240 else text[:240] + "..."


def _key_in(variable: str) -> str | None:
    """The key in an environment variable, without the blanks and line ends that come with `$(cat file)`.

    A character that a header cannot carry would end in an error of the HTTP library that shows the key.
    """
    key = os.environ.get(variable, "").strip()
    bad = next((place for place, character in enumerate(key, start=1) if not "\x20" <= character <= "\x7e"), None)
    if bad is not None:
        raise ValueError(
            f"The key in the environment variable {variable} cannot be sent: character {bad} of {len(key)} is not printable "
            "ASCII. Copy the key into it anew."
        )
    return key or None


def checked_url(url: str) -> str:
    """The address without a closing slash; refused if it has no scheme, or anything in it that could be a secret."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        if "@" in url or "?" in url:  # whatever it is, a secret may be in it
            raise ValueError("The address of a server begins with http:// or https://, and has no key in it.")
        raise ValueError(
            f"The address {url!r} must begin with http:// or https://; did you mean http://{url.split('://')[-1]}?"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            f"The address of {parts.hostname} carries a name, a key or a query; give the address alone and the key in an "
            "environment variable (OPENAI_API_KEY, or name another one with api_key_env)."
        )
    if secret_in(parts.path.split("/")):
        raise ValueError(
            f"The path in the address of {parts.hostname} seems to hold a key, and addresses are written into journals; give "
            "the address without it, and the key in an environment variable (OPENAI_API_KEY)."
        )
    return url.rstrip("/")


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


def _message(body: Any) -> str:
    """What an error body says, whichever way this server words it."""
    if isinstance(body, dict):
        return next((_message(body[k]) for k in ("message", "detail", "error") if body.get(k)), "")
    if isinstance(body, list):
        return "; ".join(map(_message, body[:3]))
    text = "" if body is None else str(body)
    return "" if "<html" in text[:300].lower() else text


def _code(body: Any) -> str:
    return str(body.get("code") or body.get("type") or "") if isinstance(body, dict) else ""
