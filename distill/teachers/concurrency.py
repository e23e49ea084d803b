"""Many requests at once, at one address or several, in a thread of their own; each is handed over as it finishes."""

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from queue import SimpleQueue

from distill.teachers.answers import Answer
from distill.teachers.base import DOZEN, Ask, Completion, Refusal
from distill.teachers.endpoint import Endpoint
from distill.teachers.judgements import Refused, Unavailable

PROBES = (
    1.0,
    5.0,
    15.0,
    60.0,
)  # seconds until an address that is gone is looked for again; the last ones again and again


class Alike(Unavailable):
    """Answer after answer could not be used, all for one reason: a person must look before more is paid for.

    Args:
        reason: one sentence.
        index: of the ask whose refusal was one too many.
        refusal: that one.
    """

    def __init__(self, reason: str, index: int, refusal: Refusal) -> None:
        super().__init__(reason)
        self.index, self.refusal = index, refusal


@dataclass
class Group:
    """Asks that go into one request, and the addresses that had them and lost them."""

    asks: list[Ask]
    lost_at: set[str] = field(default_factory=set)


class UnderWay(Iterator[tuple[int, Completion | Refusal]]):
    """`(index, completion)` of every ask, once each, in the order in which they finish.

    The requests run in an event loop in a thread, so that whoever takes the completions, to write a journal say, delays
    none of them. Each address has so many workers, and all take from one list: work goes to whoever is free. What an address
    that goes has under way is given to the others, and it is looked for again until the end; what only an address that is gone
    could still have waits for it as long as the others have work. An address that is back is asked one thing at a time until
    it has answered. What hits every request at every address ends them: those that were sent may finish and are handed over,
    then it is raised.

    Args:
        groups: asks that go into one request.
        ask: sends a group; returns what came, for the first asks of the group. What is missing is sent again singly.
        finish: an answer to a completion, in the thread of whoever takes it.
        endpoints: not open yet.
        concurrency: requests at once, at each of them.
        alive: whether an address that was gone is there again, with the same model.
        say: tells the user a sentence.
    """

    def __init__(
        self,
        groups: Iterator[list[Ask]],
        ask: Callable[[Endpoint, Sequence[Ask]], Awaitable[list[tuple[Ask, Answer]]]],
        finish: Callable[[Ask, Answer], Completion | Refusal],
        endpoints: Sequence[Endpoint],
        concurrency: int,
        *,
        alive: Callable[[Endpoint], Awaitable[bool]],
        say: Callable[[str], None],
    ) -> None:
        self._groups, self._ask, self._finish = map(Group, groups), ask, finish
        self._endpoints, self._concurrency = endpoints, concurrency
        self._alive, self._say = alive, say
        # an answer to an ask; last of all None, or what ended them
        self._done: SimpleQueue[tuple[Ask, Answer | Refusal] | BaseException | None] = SimpleQueue()
        self._ended: BaseException | None = None
        self._alike: tuple[str, set[tuple[int, ...]]] = ("", set())
        # of the loop's thread
        self._back = deque[Group]()
        self._at_work = 0
        self._gone: dict[str, Unavailable] = {}
        self._probed: dict[str, int] = {}  # how often each was looked for since it last answered
        self._on_trial, self._trying = set[str](), set[str]()  # back, without an answer yet; of these, those asked now
        self._stopped: Unavailable | None = None
        self._exhausted = False
        self._opened = threading.Event()
        self._thread = threading.Thread(target=self._run, name="requests", daemon=True)
        self._thread.start()

    def __next__(self) -> tuple[int, Completion | Refusal]:
        if self._ended is None:
            item = self._done.get()
            if isinstance(item, tuple):
                ask, answer = item
                finished = self._finish(ask, answer) if isinstance(answer, Answer) else answer
                self._count(ask, finished)
                return ask.index, finished
            self._ended = item or StopIteration()
        raise self._ended

    def ready(self) -> bool:
        """Whether the next item is there already."""
        return self._ended is None and not self._done.empty()

    def close(self) -> None:
        """Give up what is under way."""
        if self._ended is None:
            self._in_the_loop(lambda: self._task.cancel())
        self._thread.join(5)

    def _count(self, ask: Ask, finished: Completion | Refusal) -> None:
        """Stop before more is paid for, where answer after answer cannot be used; samples of one prompt count once."""
        if isinstance(finished, Completion):
            self._alike = ("", set())
        elif not finished.of_prompt:
            if finished.reason != self._alike[0]:
                self._alike = (finished.reason, set())
            prompts = self._alike[1]
            before = len(prompts)
            prompts.add(tuple(ask.prompt_ids))
            if before < len(prompts) == DOZEN:
                said = f"{DOZEN} requests in a row ended alike, so no more are sent: {finished.reason}."
                error = Alike(said, ask.index, finished)
                self._in_the_loop(lambda: self._stop(error))

    def _in_the_loop(self, function: Callable[[], object]) -> None:
        if self._opened.wait(5):
            with suppress(RuntimeError):  # the loop has just closed by itself
                self._loop.call_soon_threadsafe(function)

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
        self._loop, self._task, self._changed = asyncio.get_running_loop(), task, asyncio.Event()
        self._opened.set()
        self._probes = list[asyncio.Task[None]]()
        async with AsyncExitStack() as opened, asyncio.TaskGroup() as self._tasks:
            for endpoint in self._endpoints:
                await opened.enter_async_context(endpoint)
            workers = [
                self._tasks.create_task(self._work(endpoint))
                for _ in range(self._concurrency)
                for endpoint in self._endpoints
            ]
            await asyncio.gather(*workers)
            for probe in self._probes:
                probe.cancel()
        if self._stopped:
            raise self._stopped
        for group in self._back:
            self._refuse(group.asks, Refused(self._nobody_had(group)))

    async def _work(self, endpoint: Endpoint) -> None:
        while (group := await self._next_for(endpoint)) is not None:
            self._at_work += 1
            if endpoint.url in self._on_trial:
                self._trying.add(endpoint.url)
            try:
                await self._send_all(endpoint, group)
            finally:
                self._at_work -= 1
                self._trying.discard(endpoint.url)
                self._tell_workers()

    async def _next_for(self, endpoint: Endpoint) -> Group | None:
        """What this address is to do next; None at the end of all work."""
        while not self._stopped:
            if endpoint.url not in self._gone and endpoint.url not in self._trying:
                waiting = next((group for group in self._back if endpoint.url not in group.lost_at), None)
                if waiting is not None:
                    self._back.remove(waiting)
                    return waiting
                if group := next(self._groups, None):  # all workers take from one iterator
                    return group
                self._exhausted = True
            if self._exhausted and not self._at_work and not any(map(self._candidates, self._back)):
                break
            await self._changed.wait()
        self._tell_workers()
        return None

    async def _send_all(self, endpoint: Endpoint, group: Group) -> None:
        most = len(group.asks)
        while group.asks and not self._stopped:
            try:
                answers = await self._ask(endpoint, group.asks[:most])
            except Refused as error:
                if not (error.lost and self._give_back(group, endpoint)):
                    self._refuse(group.asks[:most], error)
                    del group.asks[:most]
                else:
                    return
            except Unavailable as error:
                self._back.append(group)
                self._lose(endpoint, error)
                return
            else:
                self._has_answered(endpoint)
                for item in answers:
                    self._done.put(item)
                del group.asks[: len(answers)]
            most = 1

    def _give_back(self, group: Group, endpoint: Endpoint) -> bool:
        """Whether another address can try what this one lost, also one that is gone and may come back."""
        if endpoint.url not in self._gone:
            group.lost_at.add(endpoint.url)
        if self._stopped or all(e.url in group.lost_at for e in self._endpoints):
            return False
        self._back.append(group)
        return True

    def _candidates(self, group: Group) -> list[str]:
        return [e.url for e in self._endpoints if e.url not in self._gone and e.url not in group.lost_at]

    def _nobody_had(self, group: Group) -> str:
        gone = [str(self._gone[e.url]) for e in self._endpoints if e.url in self._gone and e.url not in group.lost_at]
        return f"no address gave an answer; one that is gone was not asked: {' '.join(gone) or 'it came back too late'}"

    def _refuse(self, asks: Sequence[Ask], error: Refused) -> None:
        for ask in asks:
            self._done.put((ask, Refusal(str(error), error.answer, of_prompt=error.of_prompt)))

    def _has_answered(self, endpoint: Endpoint) -> None:
        self._probed.pop(endpoint.url, None)
        if endpoint.url in self._on_trial:
            self._on_trial.discard(endpoint.url)
            self._trying.discard(endpoint.url)
            self._tell_workers()

    def _lose(self, endpoint: Endpoint, error: Unavailable) -> None:
        """This address is gone; without another one, the run stops."""
        endpoint.stop()
        if endpoint.url in self._gone:
            return
        self._gone[endpoint.url] = error
        if len(self._gone) == len(self._endpoints):
            self._stop(next(iter(self._gone.values())))
            return
        self._say(f"{error} The other addresses go on with its work, and it is looked for again.")
        self._probes.append(self._tasks.create_task(self._look_for(endpoint, error.wait or 0.0)))

    async def _look_for(self, endpoint: Endpoint, least: float) -> None:
        """Until it is there again; ever more seldom, also where it lists its models and answers nothing else."""
        while not self._stopped:
            times = self._probed.get(endpoint.url, 0)
            self._probed[endpoint.url] = times + 1
            await asyncio.sleep(max(PROBES[min(times, len(PROBES) - 1)], least))
            least = 0.0
            if await self._alive(endpoint):
                del self._gone[endpoint.url]
                self._on_trial.add(endpoint.url)
                endpoint.begin_again()
                self._say(f"{endpoint.url} is there again.")
                self._tell_workers()
                break

    def _stop(self, error: Unavailable) -> None:
        """What was sent may finish; nothing more is."""
        self._stopped = self._stopped or error
        for endpoint in self._endpoints:
            endpoint.stop()
        self._tell_workers()

    def _tell_workers(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
