"""Reading a served teacher: the likeliest tokens at each place of a pair's text, as a server gives them, become the bytes of `top`."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

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


class ServedReader:
    """A teacher behind a server that is asked for the log-probabilities of texts that are there already.

    vLLM is asked for `prompt_logprobs`; a server that does not know these for an echo of the prompt with `logprobs`, as
    OpenAI's completions had it. Which of the two a server gives is seen in its first answer.

    Args:
        teacher: its tokenizer must be that of the model: token ids are sent.

    Attributes:
        limits, identity, tokenizer, batch_tokens, encoding: see `distill.signals.teacher_reader.TeacherReader`.
    """

    batch_tokens = 65_536

    def __init__(self, teacher: ServerTeacher) -> None:
        self._teacher, self.tokenizer = teacher, teacher.tokenizer
        self._texts = Texts(teacher.tokenizer)
        self.limits = RowLimits(None, self._texts.size, None, "the teacher's tokenizer")
        self.identity = {"class": "model behind a server", "model": teacher.model, "says": teacher.says}
        self._way: str | None = None

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
        return Beside(self.tokenizer)

    def reading(self) -> AbstractContextManager[None]:
        """See `TeacherReader.reading`."""
        return nullcontext()

    def read(self, pairs: list[dict[str, Any]], rows: Rows, numbers: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """See `TeacherReader.read`; all pairs are asked at once, as many at a time as the teacher's `concurrency` says.

        Raises:
            ValueError: the server cannot be reached, or gives no such log-probabilities; names the pair.
        """
        with ThreadPoolExecutor(1) as thread:  # a notebook has a loop of its own in this one
            places = thread.submit(asyncio.run, self._ask_all(pairs)).result()
        blobs = []
        for pair, found, number in zip(pairs, places, numbers, strict=True):
            ids, labels = ids_and_labels(pair, None)
            at = np.flatnonzero(labels != IGNORE)
            assert len(at) == rows.positions[number]
            chosen = [likeliest(found[place - 1], int(ids[place]), self._top.held()) for place in at]
            blobs.append(self._bytes(pair["id"], chosen))
        return blobs

    def _bytes(self, name: str, chosen: list[Place | None]) -> NDArray[np.uint8]:
        good = [place for place in chosen if place is not None]
        if len(good) < len(chosen):
            raise ValueError(
                f"{self._teacher.name} gave fewer than {self._top.held()} tokens with an id at a place of pair {name}; servers have a limit of their own "
                "(vLLM: --max-logprobs, 20 if unsaid). Ask for fewer: encoding='top:20'."
            )
        order = [sorted(place.log_probs, key=lambda token, place=place: -place.log_probs[token]) for place in good]  # type: ignore[misc]
        values = [[place.log_probs[token] for token in ids] for place, ids in zip(good, order, strict=True)]
        columns = self._top.columns_of(
            torch.tensor(order), torch.tensor(values, dtype=torch.float64), torch.tensor([place.tail for place in good])
        )
        return blobs_of([columns], [len(good)])[0]

    async def _ask_all(self, pairs: list[dict[str, Any]]) -> list[list[Place]]:
        teacher = self._teacher
        async with AsyncExitStack() as stack:
            endpoints = [await stack.enter_async_context(teacher._endpoint(url)) for url in teacher.urls]
            free = asyncio.Semaphore(teacher.concurrency * len(endpoints))

            async def one(number: int, pair: dict[str, Any]) -> list[Place]:
                async with free:
                    return await self._ask(endpoints[number % len(endpoints)], pair)

            first = [await one(0, pairs[0])]  # by which the way is known
            return first + list(await asyncio.gather(*(one(i, pair) for i, pair in enumerate(pairs[1:], start=1))))

    async def _ask(self, endpoint: Endpoint, pair: dict[str, Any]) -> list[Place]:
        ids = [*map(int, pair["prompt_ids"]), *map(int, pair["completion_ids"])]
        problems = []
        for way in WAYS if self._way is None else (self._way,):
            body = {
                "model": self._teacher.model,
                "prompt": ids,
                **fields_of(way, self._top.held()),
                **self._teacher.extra_body,
            }

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
        raise ValueError(
            f"{self._teacher.name} gives no log-probabilities of pair {pair['id']} ({'; '.join(problems)})."
        )
