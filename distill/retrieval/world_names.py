"""Names and values that no model can know: made-up words, numbers and goods, none given out twice."""

import random
from collections.abc import Callable

from distill.retrieval.world_kinds import NUMBER, PERSON, PLACE, THING

_BEGINNINGS = (
    "Ost", "Vamb", "Kel", "Drun", "Thal", "Mor", "Zeb", "Quil", "Harv", "Ebr", "Lund", "Pry", "Skel", "Tarn", "Wex", "Ylm", "Grim", "Fenn",
    "Jarl", "Ulv", "Brax", "Cind", "Orb", "Nev",
)  # fmt: skip
_MIDDLES = ("a", "e", "i", "o", "u")
_ENDS = (
    "drel", "mbra", "vosk", "thin", "lume", "ssa", "rond", "kett", "phal", "zin", "gorm", "bast", "nney", "trix", "ldo", "wick", "qua", "rno",
)  # fmt: skip
_GIVEN = (
    "Talo", "Merra", "Ivek", "Sunna", "Ordo", "Velka", "Pirro", "Hesta", "Jorim", "Lavi", "Kelmo", "Dessa", "Ruvo", "Anneth", "Bodo", "Cirra",
    "Egon", "Fenna", "Gildo", "Wanda",
)  # fmt: skip
_MADE_OF = (
    "copper", "willow", "glass", "amber", "walnut", "marble", "velvet", "paper", "ivory", "linen", "silver", "clay", "birch", "wax", "pewter",
    "cedar", "woollen", "bronze", "leather", "coral", "straw", "slate", "ebony", "felt", "jade", "cork", "tin", "pearl", "oak", "brass",
    "bamboo", "granite",
)  # fmt: skip
_GOODS = (
    "lanterns", "flutes", "kites", "clocks", "spoons", "masks", "combs", "drums", "ladders", "baskets", "buttons", "bells", "mirrors",
    "needles", "pipes", "saddles", "trumpets", "umbrellas", "vases", "wheels", "anchors", "brushes", "candles", "dolls", "fans", "gloves",
    "hinges", "kettles", "locks", "mugs", "pillows", "rakes",
)  # fmt: skip
NUMBERS = range(101, 9900)


class Names:
    """Draws names and values, each once; the same seed draws the same ones.

    Args:
        seed: of the drawing, a number or a text.
    """

    def __init__(self, seed: int | str) -> None:
        self._random = random.Random(f"names of a world {seed}")
        self._given: set[str] = set()

    def subject(self) -> str:
        """A made-up name."""
        return self._new(self._name)

    def value(self, kind: str) -> str:
        """A person, a number, a thing or a place, as `world_kinds` names them."""
        draw = {PERSON: self._person, NUMBER: self._number, THING: self._thing, PLACE: self._name}[kind]
        return self._new(draw)

    def _new(self, draw: Callable[[], str]) -> str:
        while (name := draw()) in self._given:
            pass
        self._given.add(name)
        return name

    def _name(self) -> str:
        return "".join(map(self._random.choice, (_BEGINNINGS, _MIDDLES, _ENDS)))

    def _person(self) -> str:
        return f"{self._random.choice(_GIVEN)} {self._name()}"

    def _number(self) -> str:
        return str(self._random.choice(NUMBERS))

    def _thing(self) -> str:
        return f"{self._random.choice(_MADE_OF)} {self._random.choice(_GOODS)}"
