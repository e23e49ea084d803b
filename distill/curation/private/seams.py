"""Values that begin at the end of one turn and end at the beginning of the next."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from distill.curation.private.addresses import is_address
from distill.curation.private.finding import find
from distill.curation.private.kinds import Found
from distill.curation.private.phones import fictions
from distill.text.messages import text_of

_WINDOW, _CONTEXT = 64, 16
_CARD = re.compile(r"card|visa|karte|carte|tarjeta|cartão|carta|kaart|карт|卡|カード", re.IGNORECASE)


class Seam(NamedTuple):
    """A value in two turns.

    Args:
        found: the value, joined.
        end: what the first turn ends with, the value's beginning behind a few other characters.
        begin: what the second begins with.
        in_end, in_begin: how many characters of the value are in each.
    """

    found: Found
    end: str
    begin: str
    in_end: int
    in_begin: int

    def parts(self, standin: str) -> Iterator[tuple[str, str]]:
        """`(text, the text that takes its place)` of both turns."""
        at = min(self.in_end, len(standin) - 1)
        yield self.end, self.end[: len(self.end) - self.in_end] + standin[:at]
        yield self.begin, standin[at:] + self.begin[self.in_begin :]


def turns_of(row: Mapping[str, Any]) -> list[str]:
    """The words of the turns of a pair, the completion last."""
    prompt = row["prompt"]
    asked = [prompt] if isinstance(prompt, str) else [text_of(message) for message in prompt]
    return [*asked, row["completion"]]


def seams(turns: Sequence[str], kinds: Sequence[str]) -> list[Seam]:
    """Values across the border of two turns, of kinds whose form says enough: a number that two sums make by chance is none."""
    listed = []
    for one, other in pairwise(turns):
        if not one or not other or one[-1].isspace() or not (one[-1].isalnum() or one[-1] in "@.-_+"):
            continue
        if not other[0].isalnum() and other[0] not in "@.-_ ":
            continue
        before, behind = one[-_WINDOW:], other[:_WINDOW]
        border = len(before)
        for found in find(before + behind, kinds):
            if (
                found.start < border < found.end
                and _says_enough(found, before)
                and not _one_has_it(found, before, behind, kinds)
            ):
                in_end, in_begin = border - found.start, found.end - border
                listed.append(
                    Seam(found, before[-in_end - _CONTEXT :], behind[: in_begin + _CONTEXT], in_end, in_begin)
                )
    return listed


def _one_has_it(found: Found, before: str, behind: str, kinds: Sequence[str]) -> bool:
    """Whether there is a whole value in one of the turns, which the other's first word only seems to go on with."""
    begun = before[found.start :].rstrip(".-_+ ")
    if (found.kind == "email" and is_address(begun)) or (found.kind == "phone" and any(fictions(begun))):
        return True  # one of an example domain, or for fiction: a stand-in, say
    if any(one.end > found.start and one.kind == found.kind for one in find(before, kinds)):
        return True
    return any(one.start < found.end - len(before) and one.kind == found.kind for one in find(behind, kinds))


def _says_enough(found: Found, before: str) -> bool:
    match found.kind:
        case "email":
            return before.endswith("@") or found.value.index("@") < len(before) - found.start or "." in found.value
        case "phone":
            return found.value.startswith("+")
        case "card":
            return _CARD.search(before) is not None
    return found.kind in ("iban", "secret")
