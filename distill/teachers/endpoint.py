"""Endpoint: one address of an OpenAI-compatible server, with its key, its retries and its waits (`judgements`: which).

The `openai` client sends the requests; its own retries are off. They repeat nothing once a status 200 has come (half a
JSON text, no choices), wait at most two minutes where a server asks for more, and cannot tell a server that is gone from
a request that is hopeless. Two policies on top of each other would multiply, so there is one, here; `tenacity` runs it.
"""

import asyncio
import os
import random
import re
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from distill.basics.fingerprint import fingerprint
from distill.basics.redact import secret_in
from distill.basics.terminal import printable
from distill.teachers.judgements import Malformed, Refused, Trouble, Unavailable, error_message, judge_status

T = TypeVar("T")

LONGEST_PAUSE = 30.0  # seconds between two attempts of one request, where the server names no time
LONGEST_WAIT = 900.0  # seconds a server may ask us to wait; beyond, it is kinder to stop and be run again later
HOPELESS = 8  # prompts refused, or requests lost, without an answer between: then it is not the requests
MOST_PAID = 2  # attempts of a request whose answers came whole, and say nothing
_SECRET = re.compile(r"(?i)(bearer\s+)[^\s\"',}]+|\bsk-[\w-]{8,}")
_HERE = ("localhost", "127.0.0.1", "::1")


class Endpoint:
    """Where a server is, and one policy for everything that goes wrong on the way.

    Args:
        url: the address with scheme and version, e.g. `http://localhost:8000/v1`.
        api_key_env: the environment variable that holds the key; an unset one sends none.
        timeout: seconds for one attempt, from the first byte sent to the last received.
        retries: further attempts of one request.
        backoff: seconds before the first of them; doubled each time up to 30, and shortened by up to half by chance so
            that requests that failed together do not come back together. A `Retry-After` is waited for instead.
        others: there are other addresses of this teacher: then nobody waits here for a server that is gone.

    Raises:
        ValueError: an address without a scheme, or with a key in it; a key that cannot be sent; the extra `server` is missing.
    """

    def __init__(
        self, url: str, api_key_env: str, *, timeout: float, retries: int, backoff: float, others: bool = False
    ) -> None:
        try:
            import openai
            import tenacity
        except ImportError as error:
            raise ValueError(
                f"A teacher behind a server needs the {error.name!r} package: pip install 'distill[server]'."
            ) from None
        self._openai, self._tenacity = openai, tenacity
        self.url = checked_url(url)
        self.key_env, self._key = api_key_env, _key_in(api_key_env)
        self.timeout, self.retries, self.backoff, self.others = timeout, retries, backoff, others
        self.answered = 0
        self._reached = False
        self._refused, self._lost_in_a_row = set[str](), 0

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

    def begin_again(self) -> None:
        """After `stop`: the server is there again."""
        self._stopping.clear()
        self._refused, self._lost_in_a_row = set(), 0

    def sends_its_key_in_the_open(self) -> bool:
        """Whether a key goes unencrypted to a host that is not this machine."""
        parts = urlsplit(self.url)
        return bool(self._key) and parts.scheme == "http" and parts.hostname not in _HERE

    async def get(self, path: str, read: Callable[[Any], T]) -> T:
        """`read` of what the server answers; raises as `post`."""
        return await self._ask(lambda: self._client.get(path, cast_to=object, options=self._options), read, {})

    async def post(self, path: str, body: dict[str, Any], read: Callable[[Any], T]) -> T:
        """`read` of the JSON that the server answers, after as many attempts as it takes.

        Args:
            path: below the address, e.g. `/chat/completions`.
            body: plain values.
            read: turns the answer into what is wanted; raises `Malformed` if it is not there.

        Raises:
            Unavailable: no request can succeed. Refused: this one cannot. Both say why in a sentence without any key.
        """
        return await self._ask(
            lambda: self._client.post(path, body=body, cast_to=object, options=self._options), read, body
        )

    async def _ask(self, send: Callable[[], Any], read: Callable[[Any], T], body: dict[str, Any]) -> T:
        failed = paid = 0  # attempts; a place in a queue is none

        async def attempt() -> T:
            nonlocal failed, paid
            try:
                return await self._attempt(send, read, body)
            except Trouble as trouble:
                failed += not trouble.queued
                paid += trouble.answer is not None
                if paid >= MOST_PAID:
                    raise Refused(f"{trouble}, {paid} times", answer=trouble.answer) from None
                raise

        def trouble(state: Any) -> Any:
            return state.outcome.exception()

        async def give_up(state: Any) -> T:
            raise self._lost(failed, trouble(state))

        again: Any = self._tenacity.AsyncRetrying(
            retry=self._tenacity.retry_if_exception_type(Trouble),
            stop=lambda state: failed >= self._attempts_allowed(),
            wait=lambda state: self._pause_after(failed, trouble(state)),
            sleep=self._pause,
            retry_error_callback=give_up,
        )
        return await again(attempt)

    async def _attempt(self, send: Callable[[], Any], read: Callable[[Any], T], body: dict[str, Any]) -> T:
        before = self.answered
        try:
            async with asyncio.timeout(self.timeout):
                payload = await send()
            answer = read(self._checked(payload))
        except (TimeoutError, self._openai.APITimeoutError):
            raise Trouble(f"no answer within {self.timeout:g} s") from None
        except self._openai.APIConnectionError as error:
            raise self._broken(error) from None
        except self._openai.APIStatusError as error:
            raise self._judged(error, before, body) from None
        except UnicodeDecodeError:
            raise Trouble("an answer that is not UTF-8") from None
        except Unavailable:
            raise
        except ValueError:
            raise Trouble("an answer that is not JSON") from None
        except Malformed as error:
            raise Trouble(str(error), answer=error.answer) from None
        self.answered += 1
        self._reached, self._lost_in_a_row = True, 0
        return answer

    def _pause_after(self, failed: int, trouble: Trouble) -> float:
        if trouble.wait is None:
            return min(LONGEST_PAUSE, self.backoff * 2 ** (max(failed, 1) - 1)) * random.uniform(0.5, 1)
        if trouble.wait > LONGEST_WAIT:
            raise Unavailable(
                f"{self.url} asks to wait {trouble.wait / 60:.0f} minutes ({trouble}); run the same again then.",
                trouble.wait,
                passing=True,
            )
        return trouble.wait + random.uniform(0, 0.1) * min(trouble.wait, LONGEST_PAUSE)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
        raise Refused("not asked again, because the run stops", lost=True)

    def _attempts_allowed(self) -> int:
        """All of them; but few once a request was lost and nothing was answered since, so that an end is soon seen."""
        return 1 + (min(2, self.retries) if self._lost_in_a_row else self.retries)

    def _lost(self, attempts: int, trouble: Trouble) -> Exception:
        self._lost_in_a_row += 1  # one may be the request's own fault; many without an answer between are the server's
        if self._lost_in_a_row >= HOPELESS:
            return Unavailable(
                f"{self.url} gives no answers; the last of {attempts} attempts of a request: {trouble}.",
                trouble.wait,
                passing=True,
            )
        return Refused(f"no answer in {attempts} attempts, the last of them: {trouble}", lost=True)

    def _checked(self, payload: Any) -> Any:
        if isinstance(payload, str):  # not sent as JSON
            if not self.answered:
                raise Unavailable(
                    f"{self.url} answers with a web page or plain text and not as an OpenAI-compatible API; such an "
                    "address usually ends in /v1."
                )
            raise Malformed("a web page or plain text in place of JSON")
        if isinstance(payload, dict) and payload.get("error"):
            raise Malformed(f"an error in place of an answer: {self._redacted(error_message(payload))}")
        return payload

    def _broken(self, error: Exception) -> Exception:
        causes = []
        cause: BaseException | None = error
        while cause is not None:
            causes.append(cause)
            cause = cause.__cause__ or cause.__context__
        refused = any(isinstance(c, ConnectionRefusedError) for c in causes)
        reason = "connection refused" if refused else self._redacted(str(causes[-1]) or type(causes[-1]).__name__)
        nobody = any(type(c).__name__ in ("ConnectError", "UnsupportedProtocol") for c in causes)
        if nobody and (self.others or not self._reached):
            return Unavailable(
                f"Nobody answers at {self.url} ({reason}); is the server started, and the address right?",
                passing=True,
            )
        return Trouble(f"the connection broke ({reason})")

    def _judged(self, error: Any, before: int, body: dict[str, Any]) -> Exception:
        """`judge_status`, with what only this address knows: its key, and whether anybody was answered."""
        status, self._reached = error.status_code, True
        said = self._redacted(error_message(error.body) or error.response.reason_phrase or "nothing more")
        if status == 401 or (status == 403 and not self.answered):
            way = "is not accepted" if self._key else "is not set"
            return Unavailable(
                f"{self.url} wants a key, and the one in the environment variable {self.key_env} {way} (status {status}: "
                f"{said})."
            )
        judged = judge_status(status, error.body, error.response.headers, said)
        if isinstance(judged, Unavailable):
            return type(judged)(f"{self.url} {judged}", judged.wait)
        if isinstance(judged, Trouble):
            judged.queued = status == 429 and self.answered > before
        elif isinstance(judged, Refused) and not judged.of_prompt:
            self._refused.add(fingerprint(body.get("messages", body.get("prompt"))))  # samples of one prompt count once
            if not self.answered and len(self._refused) >= HOPELESS:
                return Unavailable(
                    f"{self.url} refused all of the first {len(self._refused)} requests (status {status}: {said})."
                )
        return judged

    def _redacted(self, text: str) -> str:
        """One short printable line, with the key and what looks like one taken out: servers do echo headers."""
        if self._key:
            text = text.replace(self._key, "[key]")
        text = printable(" ".join(_SECRET.sub(lambda m: f"{m.group(1) or ''}[key]", text).split()))
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
