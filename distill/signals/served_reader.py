"""Reading a served teacher: the likeliest tokens at each place of a pair's text, as a server gives them, become the bytes of `top`."""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distill.basics import processes
from distill.basics.redact import public_name
from distill.pairs.labels import IGNORE, ids_and_labels
from distill.pairs.row_limits import RowLimits
from distill.signals.encodings import Encoding
from distill.signals.encodings.layout import blobs_of
from distill.signals.encodings.top import Top
from distill.signals.signal_folder import Beside
from distill.signals.teacher_rows import Rows
from distill.teachers.endpoint import Endpoint
from distill.teachers.judgements import Malformed, Refused
from distill.teachers.prompt_logprobs import WAYS, Place, Texts, fields_of, likeliest, read_places
from distill.teachers.server import ServerTeacher

_ENOUGH = 8  # places by which it is told whether probabilities were renormalised


@dataclass(frozen=True)
class ServedText:
    """A text that is asked about.

    Args:
        name: of its pair.
        ids, labels: `[tokens]`; the places whose label is none are not asked about.
    """

    name: str
    ids: NDArray[Any]
    labels: NDArray[Any]


class ServedReader:
    """A teacher behind a server that is asked for the log-probabilities of texts that are there already.

    vLLM is asked for `prompt_logprobs`; a server that does not know these for an echo of the prompt with `logprobs`, as
    OpenAI's completions had it. Which of the two a server gives is seen in its first answer. Where a place has fewer tokens with an id of
    their own than are wanted (texts that several tokens share, slots of a padded head), more are asked for, as long as the server gives more.

    Args:
        teacher: its tokenizer must be that of the model: token ids are sent.

    Attributes:
        size: tokens of its tokenizer.
        limits, identity, tokenizer, batch_tokens, encoding: see `distill.signals.teacher_reader.TeacherReader`.
    """

    batch_tokens = 65_536

    def __init__(self, teacher: ServerTeacher) -> None:
        self._teacher, self.tokenizer = teacher, teacher.tokenizer
        self._texts = Texts(teacher.tokenizer)
        self.size = self._texts.size
        self.limits = RowLimits(None, self._texts.size, None, "the teacher's tokenizer")
        # further fields of requests: a LoRA module, say, that the server is to apply
        who = {"class": "model behind a server", "model": teacher.model}
        self.identity: dict[str, Any] = {**who, "says": teacher.says, "extra_body": teacher.extra_body}
        self._way: str | None = None
        self._asked = 0  # tokens a place, once `open` knows how many are wanted
        self._telling = self._renormalised = 0  # places

    def record(self) -> dict[str, Any]:
        """Where it was reached."""
        return {"name": public_name(self._teacher.name), "teacher_url": list(self._teacher.urls)}

    def open(self, encoding: Encoding) -> Beside:
        """See `TeacherReader.open`.

        Raises:
            ValueError: another encoding than `top`, or a temperature.
        """
        if not isinstance(encoding, Top) or encoding.temperature != 1:
            raise ValueError(
                f"A server gives its likeliest tokens at temperature 1 and nothing else of its distributions, so they are stored as encoding='top', not "
                f"{encoding.name!r}{'' if encoding.temperature in (None, 1) else f' at temperature {encoding.temperature}'}; "
                "other encodings need a teacher that runs here."
            )
        self._top = encoding.of_head(vocabulary=self._texts.size, width=1, dtype="float32")
        self.encoding: Encoding = self._top
        self._asked = self._top.held()
        return Beside(self.tokenizer)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """See `TeacherReader.reading`."""
        yield
        if self._renormalised and self._looks_renormalised():
            processes.tell(
                f"{self._what_is_renormalised()} These are few places; look at what the server does with log-probabilities."
            )

    def read(self, pairs: list[dict[str, Any]], rows: Rows, numbers: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """See `TeacherReader.read`, and `places`."""
        chosen = self.places([ServedText(pair["id"], *ids_and_labels(pair, None)) for pair in pairs])
        assert [len(places) for places in chosen] == [rows.positions[number] for number in numbers]
        return [self._bytes(places) for places in chosen]

    @property
    def width(self) -> int:
        """Tokens that are held of each place."""
        return self._top.held()

    def places(self, texts: Sequence[ServedText]) -> list[list[Place]]:
        """The likeliest tokens at each supervised place of each text; all are asked at once, as many at a time as the teacher's `concurrency` says.

        Raises:
            ValueError: the server cannot be reached, gives no such log-probabilities, too few of them, or renormalised ones; names the pair.
        """
        with ThreadPoolExecutor(1) as thread:  # a notebook has a loop of its own in this one
            chosen = thread.submit(asyncio.run, self._ask_all(texts)).result()
        found = [place.renormalised for places in chosen for place in places if place.renormalised is not None]
        self._telling, self._renormalised = self._telling + len(found), self._renormalised + sum(found)
        if self._telling >= _ENOUGH and self._looks_renormalised():
            raise ValueError(
                f"{self._what_is_renormalised()} The mass of the tail is lost by this, and a student would be free to put any mass there. Have the server "
                "give log-probabilities of the whole distribution (vLLM: --logprobs-mode raw_logprobs, and no top_k or top_p at its side)."
            )
        return chosen

    def _looks_renormalised(self) -> bool:
        return self._renormalised >= 0.75 * self._telling

    def _what_is_renormalised(self) -> str:
        return (
            f"{self._teacher.name} gives probabilities that were renormalised over the tokens it lists: at {self._renormalised} of {self._telling} places "
            "whose least likely listed token is far from 0, nothing is left for all others."
        )

    def _bytes(self, chosen: list[Place]) -> NDArray[np.uint8]:
        order = [sorted(place.log_probs, key=lambda token, place=place: -place.log_probs[token]) for place in chosen]  # type: ignore[misc]
        values = [[place.log_probs[token] for token in ids] for place, ids in zip(chosen, order, strict=True)]
        tails = torch.tensor([place.tail for place in chosen])
        columns = self._top.columns_of(torch.tensor(order), torch.tensor(values, dtype=torch.float64), tails)
        return blobs_of([columns], [len(chosen)])[0]

    async def _ask_all(self, texts: Sequence[ServedText]) -> list[list[Place]]:
        teacher = self._teacher
        async with AsyncExitStack() as stack:
            endpoints = [await stack.enter_async_context(teacher._endpoint(url)) for url in teacher.urls]
            free = asyncio.Semaphore(teacher.concurrency * len(endpoints))

            async def one(number: int) -> list[Place]:
                async with free:
                    return await self._ask(endpoints[number % len(endpoints)], texts[number])

            # by the very first one the way is known
            first = [await one(0)] if self._way is None else []
            some = range(len(first), len(texts))
            return first + list(await asyncio.gather(*map(one, some)))

    async def _ask(self, endpoint: Endpoint, text: ServedText) -> list[Place]:
        """The k likeliest at each supervised position of a text."""
        ids, labels = text.ids, text.labels
        at, wanted, asked, before = np.flatnonzero(labels != IGNORE), self._top.held(), self._asked, 0
        why = "it gives no more"
        while True:
            try:
                found = await self._places(endpoint, text.name, ids.tolist(), asked)
            except _NoWay as error:
                if not before:
                    raise ValueError(str(error)) from None
                why = f"asked for {asked}, {error.problems}"
                break
            places = [found[place - 1] for place in at]
            chosen = [likeliest(place, int(ids[i]), wanted) for place, i in zip(places, at, strict=True)]
            good = [place for place in chosen if place is not None]
            if len(good) == len(chosen):
                self._asked = max(self._asked, asked)
                return good
            poorest = min(places, key=lambda place: len(place.log_probs))
            if poorest.given <= before or asked >= self._texts.size:
                break
            before, asked = poorest.given, min(max(asked + 4, 2 * asked), self._texts.size)
        named = len(poorest.log_probs)
        raise ValueError(
            f"{self._teacher.name} gave {poorest.given} tokens at a place of pair {text.name}, {named} of them with an id of their own, and {wanted} are "
            f"wanted; the others are texts that several tokens share, or slots beyond the tokenizer's {self._texts.size} tokens. More cannot be had: {why}. "
            f"Servers have a limit of their own (vLLM: --max-logprobs, 20 if unsaid): raise it, or ask for fewer, as encoding='top:{named}'."
        )

    async def _places(self, endpoint: Endpoint, name: str, ids: list[int], asked: int) -> list[Place]:
        problems = []
        for way in WAYS if self._way is None else (self._way,):
            body = {"model": self._teacher.model, "prompt": ids, **fields_of(way, asked), **self._teacher.extra_body}

            def read(payload: Any, way: str = way) -> list[Place]:
                try:
                    return read_places(payload, ids, way, self._texts)
                except Malformed as error:
                    if self._way is None:  # it may know the other way
                        raise Refused(str(error)) from None
                    raise Malformed(str(error), answer=payload) from None

            try:
                found = await endpoint.post("/completions", body, read)
            except Refused as error:
                problems.append(f"{way}: {error}")
            else:
                self._way = way
                return found
        raise _NoWay(self._teacher.name, name, "; ".join(problems))


class _NoWay(Exception):
    """A server that gives no log-probabilities of a prompt."""

    def __init__(self, teacher: str, pair: str, problems: str) -> None:
        super().__init__(f"{teacher} gives no log-probabilities of pair {pair} ({problems}).")
        self.problems = problems
