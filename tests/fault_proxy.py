"""A proxy between a client and a server that fails on purpose, in eight ways.

In a test:            with FaultProxy(server.url, seed=0) as proxy: ... proxy.url ... proxy.seen
In its own process:   python tests/fault_proxy.py --server http://127.0.0.1:8123/v1
                      (prints its URL, serves until its input ends, prints what it did)
"""

import argparse
import asyncio
import json
import random
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

FAULTS = (
    "429 with Retry-After",
    "429 without",
    "500",
    "dropped connection",
    "hang",
    "half a body",
    "malformed JSON",
    "empty choices",
)


@dataclass
class FaultProxy:
    """Passes every request on, except that some completion requests meet a fault.

    Which ones is decided by the seed, the prompt and how often this prompt was asked: not by the order in which
    requests happen to arrive, so a run meets the same faults again.

    Args:
        server: the address of the real server, with its version: `http://127.0.0.1:8000/v1`.
        rate: probability of a fault; may be changed while it runs.
        seed: of the faults.
        hang: seconds a hanging request stays open without an answer; longer than the client waits.
        retry_after: seconds that `Retry-After` asks for.
        port: 0 for a free one.
    """

    server: str
    rate: float = 0.3
    seed: int = 0
    hang: float = 5.0
    retry_after: float = 1.0
    port: int = 0
    requests: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    _asked: Counter[str] = field(default_factory=Counter, repr=False)

    @property
    def url(self) -> str:
        """What a client is given."""
        return f"http://127.0.0.1:{self.port}{urlsplit(self.server).path}"

    def __enter__(self) -> "FaultProxy":
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve(started)), daemon=True)
        self._thread.start()
        assert started.wait(10), "the fault proxy did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def serve(self, started: threading.Event) -> None:
        """Until told to stop."""
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, backlog=1024)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as self._session:
            started.set()
            await self._stop.wait()
            await runner.cleanup()

    def fault_of(self, body: bytes) -> str | None:
        """The fault this request meets, or none."""
        asked = json.loads(body)
        prompt = json.dumps(asked.get("messages") or asked.get("prompt"))
        self._asked[prompt] += 1
        chance = random.Random(f"{self.seed} {prompt} {self._asked[prompt]}")
        return chance.choice(FAULTS) if chance.random() < self.rate else None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.read()
        except ConnectionResetError:  # the client gave up first
            return web.Response()
        if request.method != "POST":
            return await self._passed_on(request, body)
        self.requests += 1
        fault = self.fault_of(body)
        if fault is None:
            return await self._passed_on(request, body)
        self.seen[fault] += 1
        if fault in ("half a body", "malformed JSON"):  # the server did its work, and it is lost on the way
            answer = await self._passed_on(request, body)
            assert isinstance(answer.body, bytes)
            return await (_half if fault == "half a body" else _malformed)(request, answer.body)
        return await self._failed(request, fault)

    async def _failed(self, request: web.Request, fault: str) -> web.StreamResponse:
        if fault == "dropped connection":
            return _dropped(request)
        if fault == "hang":
            await asyncio.sleep(self.hang)
            return _dropped(request)
        if fault == "empty choices":
            return web.json_response({"id": "x", "object": "chat.completion", "model": "x", "choices": []})
        headers = {"Retry-After": f"{self.retry_after:g}"} if fault == "429 with Retry-After" else None
        message = {"error": {"message": f"{fault}, on purpose", "type": "error", "code": None}}
        return web.json_response(message, status=int(fault[:3]), headers=headers)

    async def _passed_on(self, request: web.Request, body: bytes) -> web.Response:
        parts = urlsplit(self.server)
        kept = {k: v for k, v in request.headers.items() if k.lower() in ("content-type", "authorization")}
        target = f"{parts.scheme}://{parts.netloc}{request.path_qs}"
        async with self._session.request(request.method, target, data=body, headers=kept) as answer:
            return web.Response(
                body=await answer.read(), status=answer.status, content_type=answer.content_type or "application/json"
            )


def _dropped(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _half(request: web.Request, body: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(len(body)), "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    return _dropped(request)


async def _malformed(request: web.Request, body: bytes) -> web.StreamResponse:
    """The whole answer has come, as the length says; it is no JSON."""
    return web.Response(body=body[: len(body) // 2], content_type="application/json")


def main() -> None:
    """Serve until the standard input ends, then print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hang", type=float, default=5.0)
    flags = parser.parse_args()
    with FaultProxy(flags.server, flags.rate, flags.seed, flags.hang, port=flags.port) as proxy:
        print(proxy.url, flush=True)
        sys.stdin.read()
        print(json.dumps({"requests": proxy.requests, "seen": proxy.seen}), flush=True)


if __name__ == "__main__":
    main()
