"""Listing: which models the addresses of a teacher have, and whether they have the same one."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from distill.teachers.endpoint import Endpoint
from distill.teachers.judgements import Malformed, NotThere, Refused, Unavailable

Models = dict[str, dict[str, Any]]


class Listing:
    """What `/v1/models` of every address says of one model.

    Args:
        endpoints: of the addresses, not open; asked at once, with little patience.
        model: its name; None where there is only one.

    Attributes:
        model: the name.
        says: what the servers say of it beside its name.
        gone: what is wrong with the addresses that do not answer; at least one does.

    Raises:
        Unavailable: nobody answers.
        ValueError: several models and no name; addresses of different models.
    """

    def __init__(self, endpoints: Sequence[Endpoint], model: str | None) -> None:
        found = _in_a_thread(lambda: _list_all(endpoints))
        self.gone = {url: listed for url, listed in found.items() if isinstance(listed, Unavailable)}
        there: dict[str, Models] = {url: listed for url, listed in found.items() if isinstance(listed, dict)}
        lost = {url: listed for url, listed in found.items() if isinstance(listed, Refused)}
        if there:  # one that is loading its model, say
            self.gone |= {url: Unavailable(f"{url} does not list its models: {why}.") for url, why in lost.items()}
        else:  # some servers have no list, and answer well otherwise
            there = {url: {} for url in lost}
        if not there:
            raise next(iter(self.gone.values()))
        first, self._first = next(iter(there.items()))
        self.model = model or _only(self._first, first, lost.get(first))
        self.says = _said_of(self.model, self._first)
        for url, listed in there.items():
            if not self._is_same(listed):
                raise ValueError(
                    f"{url} lists {_named(listed)} and says {_said_of(self.model, listed)} of {self.model!r}; {first} lists "
                    f"{_named(self._first)} and says {self.says}. All addresses of one teacher must have the same model."
                )

    async def is_there_again(self, endpoint: Endpoint) -> bool:
        """Whether an address that was gone has the model again; where none of them lists models, whether it answers."""
        try:
            return self._is_same(await endpoint.get("/models", _read_models))
        except (Refused, NotThere) as error:
            return not self._first and not getattr(error, "lost", False)
        except Unavailable:
            return False

    def _is_same(self, listed: Models) -> bool:
        has = (self.model in self._first) == (self.model in listed)
        return has and _said_of(self.model, listed) == self.says


async def _list_all(endpoints: Sequence[Endpoint]) -> dict[str, Models | Unavailable | Refused]:
    return dict(zip([e.url for e in endpoints], await asyncio.gather(*map(_list, endpoints)), strict=True))


async def _list(endpoint: Endpoint) -> Models | Unavailable | Refused:
    """Nothing where there is no list, as of some servers that answer well otherwise; a `Refused` that nothing came."""
    async with endpoint:
        try:
            return await endpoint.get("/models", _read_models)
        except (Refused, NotThere) as error:
            return error if isinstance(error, Refused) and error.lost else {}
        except Unavailable as error:
            return error


def _read_models(payload: Any) -> Models:
    rows = payload.get("data") if isinstance(payload, dict) else None
    if not isinstance(rows, list):
        raise Malformed("a list of models without data")
    return {str(row["id"]): row for row in rows if isinstance(row, dict) and "id" in row}


def _said_of(model: str, listed: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k in ("owned_by", "root") if (v := listed.get(model, {}).get(k)) is not None}


def _only(listed: Mapping[str, Any], url: str, lost: Refused | None) -> str:
    if len(listed) != 1:
        found = f"lists {_named(listed)}" if listed else f"does not list its models ({lost or 'does it end in /v1?'})"
        sentence = f"The server at {url} {found}; name one of its models: ServerTeacher(url, model, ...)."
        raise Unavailable(sentence, passing=lost is not None)
    return next(iter(listed))


def _named(listed: Mapping[str, Any]) -> str:
    return ", ".join(sorted(listed)[:8]) or "none"


def _in_a_thread(function: Callable[[], Any]) -> Any:
    """The result of a coroutine function, also where a loop runs already, as in a notebook."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(function())).result()
