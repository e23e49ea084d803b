"""Stages of a long run: what is being done, how long it took, how much memory it used, how long is left."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from distill.basics.processes import say


@dataclass
class Stage:
    """One finished stage: wall-clock seconds and peak memory in GiB (of the process; of the GPU if there is one)."""

    name: str
    seconds: float
    peak_memory_gib: float


class Stages:
    """Prints a line at the start of every stage, with the time left as measured so far.

    Args:
        plan: names of the stages in order, with the seconds expected of each; only their ratios matter once a stage is
            finished, because the remaining ones are scaled by how the finished ones turned out.
    """

    def __init__(self, plan: list[tuple[str, float]]) -> None:
        self.plan = plan
        self.finished: list[Stage] = []
        self._start = time.monotonic()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Run the next stage of the plan; it must be `name`."""
        number = len(self.finished)
        assert self.plan[number][0] == name, f"stage {name!r} is not number {number + 1} of the plan"
        elapsed = time.monotonic() - self._start
        say(f"\n[{number + 1}/{len(self.plan)}] {name} · {_clock(elapsed)} so far, about {_clock(self.left())} left")
        begun = time.monotonic()
        with _PeakMemory() as memory:
            yield
        self.finished.append(Stage(name, time.monotonic() - begun, memory.gib))

    def left(self) -> float:
        """Seconds expected of the stages that are not finished."""
        done = len(self.finished)
        expected = [seconds for _, seconds in self.plan]
        # a resumed run skips what is there already; those stages say nothing about speed
        real = [(s.seconds, e) for s, e in zip(self.finished, expected, strict=False) if s.seconds > 0.1 * e]
        scale = sum(r for r, _ in real) / sum(e for _, e in real) if real else 1.0
        return scale * sum(expected[done:])


class _PeakMemory:
    """Highest resident memory within a block, looked at 20 times a second; on a GPU, what its allocator counted."""

    gib = 0.0

    def __enter__(self) -> "_PeakMemory":
        self._end = threading.Event()
        self._cuda = _cuda()
        if self._cuda:
            self._cuda.reset_peak_memory_stats()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._thread.join()
        if self._cuda:
            self.gib = self._cuda.max_memory_allocated() / 2**30

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self.gib = max(self.gib, process.memory_info().rss / 2**30)
            if self._end.wait(0.05):
                return


def _cuda() -> Any:
    """torch's module of GPUs where torch is loaded and finds one."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda if cuda and cuda.is_available() else None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
