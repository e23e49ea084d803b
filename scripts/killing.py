"""kill -9 at random moments of a generation run, again and again, until it has finished. Used by `reliability.py`.

Each life of the run is a child of the process in `nursery.py`: it calls `generate`, is killed by its id, and the next one goes
on.
"""

import itertools
import json
import logging
import random
import sys
import time
from pathlib import Path
from typing import Any

from nursery import Nursery, serve

TEACHERS = ("server", "local")
CONCURRENCY = 16


def kills(folder: Path, teachers: list[str], count: int, rows: int, seed: int) -> bool:
    """Kill a run of each teacher `count` times; print what was seen; whether all is as it should be."""
    from fake_server import FakeServer  # type: ignore[import-not-found]

    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # it tells of every client that was killed
    print(f"## kill -9: {count} times at random moments of one generation run\n")
    print(
        "| teacher | rows | unbroken run | kill -9 | in runs | new rows in a life | torn last lines | sent again | journal |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    good = True
    with FakeServer(latency=0.02) as server, Nursery(__file__, server.url, str(rows)) as nursery:
        for teacher in teachers:
            good &= _one_teacher(folder / teacher, teacher, nursery, server, count, rows, seed)
    print(
        "\nIn runs: a run that finishes before all kills were made is begun anew for the rest of them. Sent again: requests "
        f"beyond one for each row; {CONCURRENCY} were under way at each kill.\n",
        flush=True,
    )
    return good


def _one_teacher(folder: Path, teacher: str, nursery: Nursery, server: Any, count: int, rows: int, seed: int) -> bool:
    folder.mkdir()
    whole, broken = folder / "whole.jsonl", folder / "broken.jsonl"
    chance = random.Random(seed)
    nursery.start(teacher, folder / "warm.jsonl")
    assert nursery.ended() == 0
    begun = time.perf_counter()
    nursery.start(teacher, whole)
    assert nursery.ended() == 0, "the unbroken run failed"
    took = time.perf_counter() - begun
    asked, begun = len(server.asked), time.perf_counter()
    nursery.start(teacher, whole)
    assert nursery.ended() == 0
    startup = time.perf_counter() - begun  # of a life that finds everything finished
    done, runs, torn, found, good, right = 0, 1, 0, [0], True, _as_set(whole)
    while True:
        nursery.start(teacher, broken)
        share = 2 * (rows - found[-1]) / (count - done + 1)  # so that the run lasts for all the kills
        if done < count and _lives_until(
            nursery, broken, found[-1] + chance.uniform(0, share), chance.random() * startup
        ):
            nursery.kill()
            done += 1
            data = broken.read_bytes() if broken.exists() else b""
            torn += bool(data) and not data.endswith(b"\n")
            found.append(data.count(b"\n"))
            good &= set(data[: data.rfind(b"\n") + 1].splitlines()) <= right
            continue
        assert nursery.ended() == 0, "a life that was not killed failed"
        if done >= count:
            break
        good &= _as_set(broken) == right
        broken.unlink()  # finished before all kills were made: the rest of them fall into another run
        runs += 1
        found.append(0)
    same = good and _as_set(broken) == right and len(right) == rows
    new = [after - before for before, after in itertools.pairwise(found) if after >= before]
    sent = f"{len(server.asked) - asked - runs * rows}" if teacher == "server" else "-"
    print(
        f"| {teacher} | {rows} | {took:.1f} s | {done} | {runs} | {min(new)} to {max(new)} | {torn} | {sent} | "
        f"{'equal to the unbroken one' if same else 'DIFFERS'} |",
        flush=True,
    )
    return same


def _count(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _as_set(path: Path) -> set[bytes]:
    """Lines, each of which may be there only once."""
    lines = path.read_bytes().splitlines()
    ids = {json.loads(line)["id"] for line in lines}
    return set(lines) if len(ids) == len(lines) else set()


def _lives_until(nursery: Nursery, path: Path, rows: float, seconds: float) -> bool:
    """Wait until the journal has more rows than that, and some of the seconds more; whether the life goes on then.

    Where it has them from the beginning, the whole of the seconds: so kills fall into the start of a life too.
    """
    at_once = rows < _count(path) + 1
    while not at_once and _count(path) < rows and nursery.alive():
        time.sleep(0.004)
    time.sleep(seconds if at_once else seconds / 20)
    return nursery.alive()


def _forks(url: str, rows: int) -> None:
    """The process that forks the lives of a run."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import openai
    from conftest import build_model, build_tokenizer  # type: ignore[import-not-found]

    from distill import generate
    from distill.teachers import LocalTeacher, ServerTeacher

    openai.AsyncOpenAI(api_key="none")  # imports lazily; before the forks, so that no life is spent on it
    tokenizer, model = build_tokenizer(), build_model()
    prompts = [f"what is a colour {i}" for i in range(rows // 2)]

    def life(kind: str, path: str) -> None:
        teacher: Any
        if kind == "server":
            teacher = ServerTeacher(url, tokenizer=tokenizer, concurrency=CONCURRENCY)
        else:
            teacher = LocalTeacher(model, tokenizer, name="tiny")
        generate(teacher, prompts, samples=2, max_new_tokens=16, batch_size=2, output=path, progress=False)

    serve(life)


if __name__ == "__main__":
    _forks(sys.argv[1], int(sys.argv[2]))
