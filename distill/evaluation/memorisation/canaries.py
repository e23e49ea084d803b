"""Canaries: random secrets in sentences, of which it is known how often each stands in the training rows."""

import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_FIRST = (
    "Bal",
    "Cor",
    "Dor",
    "Fen",
    "Gil",
    "Har",
    "Jor",
    "Kel",
    "Lam",
    "Mor",
    "Nor",
    "Per",
    "Quin",
    "Ros",
    "Sel",
    "Tor",
    "Ul",
    "Ver",
    "Wil",
    "Zan",
)
_SECOND = ("adan", "bert", "cott", "dric", "elio", "fara", "gard", "hild", "imir", "jana", "kova", "lund", "mira", "nock", "olan", "prit", "quel", "rune", "stor", "twin")  # fmt: skip
_THINGS = ("door code", "locker code", "alarm code", "card number", "case number", "account number")


@dataclass(frozen=True)
class Canary:
    """A secret in a sentence.

    Args:
        id: its own.
        question: that asks for it; the prompt of its training rows.
        before: what an answer says before the secret.
        secret: digits, each drawn by itself.
        after: what an answer says behind it.
        name: that stands in no other text.
        repeats: how often it is planted; 0: a control, which no training sees.
    """

    id: str
    question: str
    before: str
    secret: str
    after: str
    name: str
    repeats: int = 0

    @property
    def answer(self) -> str:
        """The whole sentence; the completion of its training rows."""
        return f"{self.before}{self.secret}{self.after}"

    def times_in(self, text: str) -> int:
        """How often a text says the secret, as a whole number.

        Example:
            >>> one = Canary("a", "?", "It is ", "4829", ".", "Ann")
            >>> one.times_in("It is 4829."), one.times_in("It is 14829.")
            (1, 0)
        """
        return len(re.findall(rf"(?<!\d){re.escape(self.secret)}(?!\d)", text))


class Canaries:
    """Canaries of several repeats, and controls of the same form that are never planted.

    Args:
        each: canaries of each number of repeats.
        repeats: how often they are planted.
        controls: canaries that are not planted; below 100 no headline about membership is given.
        digits: of a secret, 2 to 6; the exact rank is among all 10^digits, and each digit more makes a rank ten times as dear.
        seed: of names and secrets.

    Attributes:
        planted, controls: `Canary`s.

    Raises:
        ValueError: a number out of range; more canaries than there are names.

    Source: Carlini et al. 2019 (The Secret Sharer).

    Example:
        >>> some = Canaries(each=2, repeats=(1, 4), controls=3)
        >>> [one.repeats for one in some.planted], len(some.controls)
        ([1, 1, 4, 4], 3)
    """

    def __init__(
        self, each: int = 12, repeats: Sequence[int] = (1, 4, 16), controls: int = 100, digits: int = 3, seed: int = 0
    ) -> None:
        if each < 1 or controls < 0 or not repeats or min(repeats) < 1 or len(set(repeats)) < len(repeats):
            raise ValueError(
                f"each is {each} (at least 1), repeats {tuple(repeats)} (at least 1, none twice) and controls {controls} (at least 0)."
            )
        if not 2 <= digits <= 6:
            raise ValueError(f"digits is {digits}; a secret has 2 to 6, so that all of their values can be ranked.")
        self.digits = digits
        draw = random.Random(f"canaries {seed}")
        count, names = each * len(repeats) + controls, [f"{a}{b}" for a in _FIRST for b in _SECOND]
        most = len(names) * (len(names) - 1)
        if count > most:
            raise ValueError(f"{count} canaries need as many names, and there are {most}.")
        taken: dict[str, None] = {}
        while len(taken) < count:
            taken.setdefault(" ".join(draw.sample(names, 2)))
        wanted = [number for number in repeats for _ in range(each)] + [0] * controls
        made = [self._canary(name, number, draw) for name, number in zip(taken, wanted, strict=True)]
        self.planted, self.controls = tuple(made[: count - controls]), tuple(made[count - controls :])

    def _canary(self, name: str, repeats: int, draw: random.Random) -> Canary:
        thing = draw.choice(_THINGS)
        secret = "".join(str(draw.randrange(10)) for _ in range(self.digits))
        return Canary(
            f"canary/{name}", f"What is the {thing} of {name}?", f"The {thing} of {name} is ", secret, ".", name, repeats
        )  # fmt: skip

    @cached_property
    def secrets(self) -> tuple[str, ...]:
        """All values that a secret may have."""
        return tuple(f"{value:0{self.digits}d}" for value in range(10**self.digits))


def plant(rows: Iterable[Mapping[str, Any]], canaries: Canaries, seed: int = 0) -> list[dict[str, Any]]:
    """Training rows with the canaries among them, each as often as it says, at places that are drawn.

    Args:
        rows: pairs in words (`prompt`, `completion`), or conversations (`messages`); the canaries are written as they are.
        canaries: of which `planted` are.
        seed: of the places.

    Returns:
        The rows in their order with the canaries' between them; these have ids of their own.

    Raises:
        ValueError: no rows, rows of another form; a canary whose name stands in the rows already.

    Example:
        >>> rows = plant([{"prompt": "Hi", "completion": "Hello."}], Canaries(each=1, repeats=(2,), controls=0))
        >>> len(rows)
        3
    """
    given = [dict(row) for row in rows]
    if not given:
        raise ValueError("There are no rows to plant canaries in.")
    names = set.intersection(*(set(row) for row in given))
    if "messages" not in names and not {"prompt", "completion"} <= names:
        raise ValueError(
            f"Canaries are planted in rows with prompt and completion, or with messages; these have {', '.join(sorted(names)) or 'nothing in common'}."
        )
    text = "\n".join(json.dumps(row, ensure_ascii=False, default=str) for row in given)
    everybody = (*canaries.planted, *canaries.controls)
    if there := [one for one in everybody if one.name in text]:
        raise ValueError(
            f"{len(there)} canaries stand in the rows already, such as {there[0].name!r} ({there[0].id}): what a model says of them would prove "
            "nothing. Give Canaries another seed, or rows without canaries."
        )
    has_messages = "messages" in names
    made = [_row(one, copy, has_messages) for one in canaries.planted for copy in range(one.repeats)]
    draw = random.Random(f"plant {seed}")
    draw.shuffle(made)
    places = sorted(draw.choices(range(len(given) + 1), k=len(made)))
    found: list[dict[str, Any]] = []
    for place in range(len(given) + 1):
        while places and places[0] == place:
            places.pop(0)
            found.append(made.pop())
        found += given[place : place + 1]
    return found


def _row(canary: Canary, copy: int, has_messages: bool) -> dict[str, Any]:
    if has_messages:
        turns = [{"role": "user", "content": canary.question}, {"role": "assistant", "content": canary.answer}]
        return {"id": f"{canary.id}/{copy}", "messages": turns}
    return {"id": f"{canary.id}/{copy}", "prompt": canary.question, "completion": canary.answer}
