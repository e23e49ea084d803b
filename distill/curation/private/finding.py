"""Finding: all values in a text, none of which overlap."""

from collections.abc import Sequence

from distill.curation.private.addresses import emails, ips, macs
from distill.curation.private.kinds import KINDS, Found
from distill.curation.private.numbers import cards, ibans, ids
from distill.curation.private.phones import REGIONS, phones
from distill.curation.private.plain import plain
from distill.curation.private.secrets import passwords, secrets


def find(
    text: str, kinds: Sequence[str] = tuple(KINDS), *, regions: Sequence[str] = REGIONS, name: str = ""
) -> list[Found]:
    """Personal data and secrets in a text, in their order; of those that overlap the longest (of equal ones, the earlier of `KINDS`).

    Names of persons, postal addresses and dates of birth are not found: that takes a model.

    Args:
        text: anything.
        kinds: some of `KINDS`.
        regions: whose phone numbers are known without their country's code.
        name: what the text stands under, a key of an object, say: `phone` tells what a number is.

    Example:
        >>> [(found.kind, found.shape) for found in find("Call +49 30 9018200 or write to jo@firma.de")]
        [('phone', '+00 00 0000000'), ('email', 'aa@aaaaa.aa')]
    """
    read = plain(text)
    has_digit = any(c in read for c in "0123456789")
    listed: list[Found] = []
    for kind in kinds:
        if kind == "email":
            listed += emails(read)
        elif kind == "secret":
            listed += secrets(read)
        elif has_digit:
            match kind:
                case "phone":
                    listed += phones(read, regions, name)
                case "card":
                    listed += cards(read)
                case "iban":
                    listed += ibans(read)
                case "id":
                    listed += ids(read, name)
                case "ip":
                    listed += ips(read)
                case "mac":
                    listed += macs(read)
                case "password":
                    listed += passwords(read, name)
    return _longest(listed, text)


def _longest(listed: list[Found], text: str) -> list[Found]:
    order = {kind: place for place, kind in enumerate(KINDS)}
    listed.sort(key=lambda one: (one.start - one.end, order[one.kind], one.start))
    kept: list[Found] = []
    taken: set[int] = set()
    for one in listed:
        if taken.isdisjoint(range(one.start, one.end)):
            taken.update(range(one.start, one.end))
            kept.append(Found(one.start, one.end, one.kind, text[one.start : one.end], one.same))
    return sorted(kept, key=lambda one: one.start)
