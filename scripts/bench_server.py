"""What `generate` with a server teacher costs over the raw server, with as many requests under way.

    python scripts/bench_server.py --latency 2 --requests 256       (a server that takes two seconds a completion)
    python scripts/bench_server.py --latency 0 --requests 1024       (one that answers as fast as it can)

Three ways ask the same questions of a fake server in a process of its own: a bare aiohttp loop, a bare loop with the
`openai` client, and `generate` with its journal on disk. They take turns; the medians are compared.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai

from distill import generate
from distill.models.load import load_tokenizer
from distill.teachers import ServerTeacher

SERVER = Path(__file__).parent.parent / "tests" / "fake_server.py"
LONGEST = 64


def main() -> None:
    """Alternate the three ways; print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=2.0, help="seconds the server takes for each completion")
    parser.add_argument("--spread", type=float, default=0.5, help="0.5: from half of that to one and a half, by prompt")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokenizer", default="smollm2-135m")
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.tokenizer)
    server = subprocess.Popen(
        [sys.executable, str(SERVER), "--latency", str(args.latency), "--spread", str(args.spread)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        teacher = ServerTeacher(url, tokenizer=tokenizer, concurrency=args.concurrency)
        ways: dict[str, Callable[[int], float]] = {
            "aiohttp": lambda run: asyncio.run(with_aiohttp(url, bodies(args.requests, run), args.concurrency)),
            "openai": lambda run: asyncio.run(with_openai(url, bodies(args.requests, run), args.concurrency)),
            "generate": lambda run: with_generate(teacher, args.requests, run),
        }
        for way in ways.values():
            way(-1)  # connections, imports, caches
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        cpu: dict[str, list[float]] = {name: [] for name in ways}
        for repeat in range(args.repeats):
            for name, way in ways.items():
                before = time.process_time()
                seconds[name].append(way(repeat))
                cpu[name].append(time.process_time() - before)
    finally:
        server.terminate()
        server.wait()
    report(seconds, cpu, args)


def report(seconds: dict[str, list[float]], cpu: dict[str, list[float]], args: argparse.Namespace) -> None:
    """A table: median and range of each way, and the median of the ratios within a turn."""
    ideal = args.latency * args.requests / args.concurrency
    print(
        f"{args.requests} requests, {args.concurrency} under way, latency {args.latency:g} s, give or take "
        f"{args.spread:.0%} (about {ideal:.1f} s)\n"
    )
    print("| way | median s | range | CPU ms a request | over aiohttp | over the openai client |")
    print("|---|---|---|---|---|---|")
    for name, times in seconds.items():
        over = [
            f"{statistics.median(t / b for t, b in zip(times, seconds[base], strict=True)) - 1:+.1%}"
            for base in ("aiohttp", "openai")
        ]
        cost = statistics.median(cpu[name]) / args.requests * 1000
        print(
            f"| {name} | {statistics.median(times):.2f} | {min(times):.2f} to {max(times):.2f} | {cost:.2f} | {over[0]} | "
            f"{over[1]} |"
        )


def prompts(count: int, run: int) -> list[str]:
    """Distinct questions of a usual length."""
    return [f"Question {i} of run {run}: why is the sky blue, and what is rain made of?" for i in range(count)]


def bodies(count: int, run: int) -> list[dict[str, Any]]:
    """The same requests that `generate` makes."""
    return [
        {
            "model": "fake",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": LONGEST,
            "temperature": 1.0,
            "top_p": 1.0,
            "seed": i,
        }
        for i, prompt in enumerate(prompts(count, run))
    ]


async def workers(
    ask: Callable[[dict[str, Any]], Awaitable[str]], asked: list[dict[str, Any]], concurrency: int
) -> float:
    """Seconds that many workers take for all of them."""
    start, left, texts = time.perf_counter(), iter(asked), []

    async def work(left: Iterator[dict[str, Any]]) -> None:
        for body in left:
            texts.append(await ask(body))

    await asyncio.gather(*(work(left) for _ in range(concurrency)))
    assert len(texts) == len(asked)
    return time.perf_counter() - start


async def with_aiohttp(url: str, asked: list[dict[str, Any]], concurrency: int) -> float:
    """The raw server: nothing but the request and its JSON."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(body: dict[str, Any]) -> str:
            async with session.post(f"{url}/chat/completions", json=body) as response:
                return str((await response.json())["choices"][0]["message"]["content"])

        return await workers(ask, asked, concurrency)


async def with_openai(url: str, asked: list[dict[str, Any]], concurrency: int) -> float:
    """The `openai` client as its documentation has it."""
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

        async def ask(body: dict[str, Any]) -> str:
            return str((await client.chat.completions.create(**body)).choices[0].message.content)

        return await workers(ask, asked, concurrency)


def with_generate(teacher: ServerTeacher, count: int, run: int) -> float:
    """All that a user waits for: tokens of prompts and completions, the journal, the data set."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        pairs = generate(
            teacher, prompts(count, run), max_new_tokens=LONGEST, output=Path(folder) / "pairs.jsonl", progress=False
        )
        assert len(pairs) == count
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
