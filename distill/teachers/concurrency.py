"""Many requests at once, in a thread of their own; each is handed over as it finishes."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue

from distill.teachers.answers import Answer
from distill.teachers.base import Ask, Completion, Refusal
from distill.teachers.endpoint import Endpoint, Refused, Unavailable


class UnderWay(Iterator[tuple[int, Completion | Refusal]]):
    """`(index, completion)` of every ask, once each, in the order in which they finish.

    The requests run in an event loop in a thread, so that whoever takes the completions, to write a journal say, delays
    none of them. What hits every request ends them: those that were sent may finish and are handed over, then it is
    raised.

    Args:
        groups: asks that go into one request.
        ask: sends a group; returns what came, for the first asks of the group. What is missing is sent again singly.
        finish: an answer to a completion, in the thread of whoever takes it.
        endpoint: not open yet.
        concurrency: requests at once.
    """

    def __init__(
        self,
        groups: Iterator[list[Ask]],
        ask: Callable[[Endpoint, Sequence[Ask]], Awaitable[list[tuple[Ask, Answer]]]],
        finish: Callable[[Ask, Answer], Completion | Refusal],
        endpoint: Endpoint,
        concurrency: int,
    ) -> None:
        self._groups, self._ask, self._finish = groups, ask, finish
        self._endpoint, self._concurrency = endpoint, concurrency
        # an answer to an ask; last of all None, or what ended them
        self._done: SimpleQueue[tuple[Ask, Answer | Refusal] | BaseException | None] = SimpleQueue()
        self._ended: BaseException | None = None
        self._unavailable: Unavailable | None = None
        self._opened = threading.Event()
        self._thread = threading.Thread(target=self._run, name="requests", daemon=True)
        self._thread.start()

    def __next__(self) -> tuple[int, Completion | Refusal]:
        if self._ended is None:
            item = self._done.get()
            if isinstance(item, tuple):
                ask, answer = item
                return ask.index, self._finish(ask, answer) if isinstance(answer, Answer) else answer
            self._ended = item or StopIteration()
        raise self._ended

    def ready(self) -> bool:
        """Whether the next item is there already."""
        return self._ended is None and not self._done.empty()

    def close(self) -> None:
        """Give up what is under way."""
        if self._ended is None and self._opened.wait(5):
            with suppress(RuntimeError):  # the loop has just closed by itself
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(5)

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            asyncio.run(self._all())
        except asyncio.CancelledError:
            pass
        except BaseExceptionGroup as group:
            end = group.exceptions[0]
        except BaseException as error:  # raised again where the completions are taken
            end = error
        self._done.put(end)

    async def _all(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._loop, self._task = asyncio.get_running_loop(), task
        self._opened.set()
        async with self._endpoint, asyncio.TaskGroup() as workers:
            for _ in range(self._concurrency):
                workers.create_task(self._work())
        if self._unavailable:
            raise self._unavailable

    async def _work(self) -> None:
        for group in self._groups:  # all workers take from one iterator
            most, left = len(group), group
            while left and not self._unavailable:
                left = left[await self._send(left[:most]) :]
                most = 1
            if self._unavailable:
                return

    async def _send(self, asks: list[Ask]) -> int:
        """How many of these asks are done with."""
        try:
            answers = await self._ask(self._endpoint, asks)
        except Refused as error:
            for ask in asks:
                self._done.put((ask, Refusal(str(error))))
            return len(asks)
        except Unavailable as error:
            self._unavailable = self._unavailable or error
            self._endpoint.stop()
            return 0
        for item in answers:
            self._done.put(item)
        return len(answers)
