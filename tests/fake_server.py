"""A small OpenAI-compatible server for tests: the same (prompt, seed) always gets the same completion.

In a test:            with FakeServer(latency=0.01) as server: ... server.url ... server.asked
In its own process:   python tests/fake_server.py --port 8123 --latency 0.2      (prints its URL, then serves)
"""

import argparse
import asyncio
import json
import random
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

WORDS = tuple("the cat sat on a mat and dog ran what is colour why so rain blue sky hello one two three".split())  # noqa: SIM905
Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer_text(prompt: str, seed: Any, max_tokens: int) -> tuple[str, str]:
    """Some words and the finish reason, decided by prompt, seed and limit alone; a token is a word here."""
    chance = random.Random(f"{seed} {prompt}")
    words = [chance.choice(WORDS) for _ in range(chance.randint(1, 24))]
    return " ".join(words[:max_tokens]), "length" if len(words) > max_tokens else "stop"


def prompt_text(body: dict[str, Any]) -> str:
    """What was asked, as one text."""
    if isinstance(body.get("prompt"), list):  # token ids
        return " ".join(map(str, body["prompt"]))
    return body["prompt"] if "prompt" in body else "\n".join(f"{m['role']}: {m['content']}" for m in body["messages"])


@dataclass
class FakeServer:
    """Serves `/v1/models`, `/v1/chat/completions` and `/v1/completions` in a thread of its own.

    Args:
        latency: seconds each completion takes.
        spread: 0.5 makes that anything from half to one and a half of it, decided by the prompt.
        models: the names it knows; another name is answered with 404.
        owned_by, root: what `/v1/models` says of each.
        models_status: status of `/v1/models`.
        key: if set, other keys are answered with 401, and the error body echoes the Authorization header.
        context: longest prompt in words; a longer one is answered with 400.
        most: most choices one request gets, whatever `n` says; `None` for `n`.
        uses_seed: `False` ignores the seed.
        top_logprobs: whether log-probabilities are returned when they are asked for.
        tokenizer: if set, `token_ids` are returned when `return_token_ids` is asked for.
        reasoning: the name of the field that carries the reasoning, e.g. `"reasoning_content"`.
        extra_fields: `False` refuses fields that OpenAI's API does not have, with 422.
        fault: called with (number of the completion request from 0, body); what it returns is served in place of an answer.
        change: called with (body, payload) before an answer is sent; may alter the payload.
    """

    latency: float = 0.0
    spread: float = 0.0
    models: tuple[str, ...] = ("fake",)
    owned_by: str = "nobody"
    root: str | None = None
    models_status: int = 200
    key: str | None = None
    context: int | None = None
    most: int | None = None
    uses_seed: bool = True
    top_logprobs: bool = True
    tokenizer: Any = None
    reasoning: str | None = None
    extra_fields: bool = True
    fault: Callable[[int, dict[str, Any]], Fault | None] | None = None
    change: Callable[[dict[str, Any], dict[str, Any]], None] | None = None
    port: int = 0
    asked: list[dict[str, Any]] = field(default_factory=list, repr=False)
    answered: int = 0
    in_flight: int = 0
    most_in_flight: int = 0

    @property
    def url(self) -> str:
        """What a client is given."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "FakeServer":
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        assert started.wait(10), "the fake server did not start"
        return self

    def __exit__(self, *_: object) -> None:
        if not self._loop.is_closed():  # a test may have ended it
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def application(self) -> web.Application:
        """The routes, for whoever runs the loop."""
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/v1/models", self._list)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/completions", self._complete)
        return app

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        runner = web.AppRunner(self.application(), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, backlog=1024)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        started.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _list(self, request: web.Request) -> web.Response:
        if refused := self._unauthorized(request):
            return refused
        if self.models_status != 200:
            return web.Response(status=self.models_status, text="Internal Server Error")
        rows = [
            {"id": m, "object": "model", "created": random.randrange(2**30), "owned_by": self.owned_by}
            for m in self.models
        ]
        return web.json_response(
            {"object": "list", "data": [{**r, "root": self.root} if self.root else r for r in rows]}
        )

    def _unauthorized(self, request: web.Request) -> web.Response | None:
        sent = request.headers.get("Authorization")
        if self.key is None or sent == f"Bearer {self.key}":
            return None
        return error(401, f"Incorrect API key provided: {sent}.")

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        number = len(self.asked)
        self.asked.append({"path": request.path, "authorization": request.headers.get("Authorization"), **body})
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            fault = self.fault(number, body) if self.fault else None
            if fault is not None:
                return await fault(request)
            if refused := self._unauthorized(request) or self._refused(body):
                return refused
            if self.latency:
                chance = random.Random(prompt_text(body))
                await asyncio.sleep(self.latency * chance.uniform(1 - self.spread, 1 + self.spread))
            payload = self.payload(body)
            if self.change:
                self.change(body, payload)
            self.answered += 1
            return web.json_response(payload)
        finally:
            self.in_flight -= 1

    def _refused(self, body: dict[str, Any]) -> web.Response | None:
        if body.get("model") not in self.models:
            return error(404, f"The model `{body.get('model')}` does not exist.", "model_not_found")
        if not self.extra_fields and (
            extra := body.keys() & {"top_k", "return_token_ids", "repetition_penalty", "min_p"}
        ):
            return error(422, f"Unexpected fields in the request: {extra}")
        words = len(prompt_text(body).split())
        if self.context is not None and words > self.context:
            message = f"This model's maximum context length is {self.context} tokens, but the request has {words}."
            return error(400, message, "context_length_exceeded")
        return None

    def payload(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body of a good answer."""
        asked = body.get("n") or 1
        count = asked if self.most is None else min(asked, self.most)
        return {
            "id": "answer",
            "object": "chat.completion" if "messages" in body else "text_completion",
            "created": 0,
            "model": body["model"],
            "choices": [self._choice(body, i) for i in range(count)],
        }

    def _choice(self, body: dict[str, Any], index: int) -> dict[str, Any]:
        seed = (body.get("seed"), index) if self.uses_seed else None
        text, finish_reason = answer_text(prompt_text(body), seed, body.get("max_tokens") or 16)
        choice: dict[str, Any] = {"index": index, "finish_reason": finish_reason}
        chat, places = "messages" in body, [{word: -0.5, "other": -1.0} for word in text.split()]
        if chat:
            choice["message"] = {"role": "assistant", "content": text}
            if self.reasoning:
                choice["message"][self.reasoning] = f"I think of {text.split()[0]}."
            if self.top_logprobs and body.get("logprobs"):
                listed = [[{"token": t, "logprob": v} for t, v in place.items()] for place in places]
                content = [{**top[0], "top_logprobs": top[: body["top_logprobs"]]} for top in listed]
                choice["logprobs"] = {"content": content}
        else:
            choice["text"] = text
            if self.top_logprobs and body.get("logprobs"):
                choice["logprobs"] = {"top_logprobs": places}
        if self.tokenizer is not None and body.get("return_token_ids"):
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            choice["token_ids"] = ids + [self.tokenizer.eos_token_id] * (finish_reason == "stop")
        return choice


def error(status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None) -> web.Response:
    """An error as OpenAI's API words it."""
    body = {"error": {"message": message, "type": "error", "code": code}}
    return web.json_response(body, status=status, headers=headers)


def with_status(status: int, message: str = "try again", **headers: str) -> Fault:
    """An error status; `Retry_After="1"` sends that header."""

    async def fault(request: web.Request) -> web.StreamResponse:
        return error(status, message, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return fault


def with_body(data: bytes, content_type: str = "application/json") -> Fault:
    """Status 200 and these bytes: malformed JSON, a web page, text that is not UTF-8."""

    async def fault(request: web.Request) -> web.StreamResponse:
        return web.Response(body=data, content_type=content_type)

    return fault


async def drop(request: web.Request) -> web.StreamResponse:
    """The connection is cut before any answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def half_a_body(request: web.Request) -> web.StreamResponse:
    """Headers promise more than comes."""
    data = json.dumps({"choices": [{"message": {"content": "half"}, "finish_reason": "stop"}]}).encode()
    response = web.StreamResponse(headers={"Content-Length": str(len(data)), "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(data[: len(data) // 2])
    assert request.transport is not None
    request.transport.abort()
    return response


def hang(seconds: float) -> Fault:
    """No answer for that long."""

    async def fault(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return error(504, "slept")

    return fault


malformed = with_body(b'{"choices": [{"message": {"content": "x')
empty_choices = with_body(b'{"choices": []}')
not_utf8 = with_body(b'{"choices": [{"message": {"content": "caf\xe9"}, "finish_reason": "stop"}]}')
web_page = with_body(b"<!doctype html><html><body>Welcome</body></html>", "text/html")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--spread", type=float, default=0.0)
    given = parser.parse_args()
    server = FakeServer(latency=given.latency, spread=given.spread, port=given.port)

    async def serve() -> None:
        task = asyncio.create_task(server._serve(started := threading.Event()))
        while not started.is_set():
            await asyncio.sleep(0.01)
        print(server.url, flush=True)
        await task

    asyncio.run(serve())
