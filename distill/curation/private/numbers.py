"""Card numbers, IBANs and personal ids: a form, and check digits (`python-stdnum`) that a number made up seldom has."""

import re
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

from distill.curation.private.kinds import Found

_CARD = re.compile(r"(?<![A-Za-z0-9_.,+-])\d(?:[ -]?\d){11,18}(?![A-Za-z0-9_]|[.,-]\d)")
_BRANDS = re.compile(
    r"4(?:\d{15}|\d{18})$|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}$|3[47]\d{13}$"
    r"|(?:6011|65\d\d|64[4-9]\d)\d{12}$|3(?:0[0-5]|6\d|8\d)\d{11}$|35(?:2[89]|[3-8]\d)\d{12}$|62\d{14,17}$|220[0-4]\d{12}$"
)
_GROUPS = re.compile(r"\d+$|\d{4}([ -])\d{4}\1\d{4}\1\d{1,4}(?:\1\d{1,3})?$|\d{4}([ -])\d{6}\2\d{4,5}$")
# as banks print them for trials
_TEST_CARDS = frozenset((
    "4111111111111111", "4242424242424242", "4012888888881881", "4000056655665556", "4000000000000002", "4222222222222", "5555555555554444",
    "5105105105105100", "5200828282828210", "2223003122003222", "378282246310005", "371449635398431", "378734493671000", "6011111111111117",
    "6011000990139424", "30569309025904", "38520000023237", "3530111333300000", "3566002020360505", "6200000000000005",
))  # fmt: skip
_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]{4}){2,7}(?:[ -]?[A-Za-z0-9]{1,3})?(?![A-Za-z0-9])"
)
_MAY_BE_ID = re.compile(r"\d(?:[ .-]?\d){5}|[A-Za-z]{6}\d\d[A-Za-z]\d\d")  # one look in place of 28
_BEFORE, _BEHIND = 48, 24


class _Id(NamedTuple):
    """An id: its form, the module of `stdnum` that knows its check digits, and words one of which must be near (None: none need be)."""

    form: str
    rules: str
    words: str | None


_IDS = (
    _Id(r"\d{3}-\d{2}-\d{4}", "us.ssn", None),
    _Id(r"\d{9}", "us.ssn", r"social security|\bssn\b"),
    _Id(r"\d{3}[ -]?\d{3}[ -]?\d{4}", "gb.nhs", r"\bnhs\b|national health"),
    _Id(r"\d{3}[ -]?\d{3}[ -]?\d{3}", "ca.sin", r"\bsin\b|social insurance|assurance sociale"),
    _Id(r"\d{8}-?[A-Za-z]", "es.dni", None),
    _Id(r"[XYZxyz]-?\d{7}-?[A-Za-z]", "es.nie", None),
    _Id(r"[A-Za-z]{6}\d{2}[A-Za-z]\d{2}[A-Za-z]\d{3}[A-Za-z]", "it.codicefiscale", None),
    _Id(r"[12] ?\d{2} ?\d{2} ?\d[\dABab] ?\d{3} ?\d{3} ?\d{2}", "fr.nir", None),
    _Id(r"\d{2} ?\d{3} ?\d{3} ?\d{3}", "de.idnr", r"steuer|\bidnr\b|\btin\b|\btax"),
    _Id(r"\d{9}|\d{4}\.\d{2}\.\d{3}", "nl.bsn", r"\bbsn\b|burgerservice|sofi"),
    _Id(r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}", "be.nn", None),
    _Id(r"\d{11}", "be.nn", r"rijksregister|registre national|national number"),
    _Id(r"\d{11}", "pl.pesel", r"pesel"),
    _Id(r"(?:\d{2})?\d{6}[-+]\d{4}", "se.personnummer", None),
    _Id(r"(?:\d{2})?\d{10}", "se.personnummer", r"person(?:nummer|nr)"),
    _Id(r"\d{6}[-+ABCDEFYXWVU]\d{3}[0-9A-Ya-y]", "fi.hetu", None),
    _Id(r"\d{3}\.\d{3}\.\d{3}-\d{2}", "br.cpf", None),
    _Id(r"\d{11}", "br.cpf", r"\bcpf\b"),
    _Id(r"[A-Za-z]{4}\d{6}[HMhm][A-Za-z]{5}[A-Za-z0-9]\d", "mx.curp", None),
    _Id(r"\d{4}[ -]?\d{4}[ -]?\d{4}", "in_.aadhaar", r"aadha+r|आधार|\buid(?:ai)?\b"),
    _Id(r"\d{17}[\dXx]", "cn.ric", None),
    _Id(r"\d{6}-[1-8]\d{6}", "kr.rrn", None),
    _Id(r"\d{11}", "tr.tckimlik", r"kimlik|t\.?c\.? ?no"),
    _Id(r"756\.\d{4}\.\d{4}\.\d{2}", "ch.ssn", None),
    _Id(r"\d{13}", "ro.cnp", r"\bcnp\b|cod numeric"),
    _Id(r"\d{11}", "no.fodselsnummer", r"fødselsnummer|personnummer"),
    _Id(r"\d{6}-?\d{4}", "dk.cpr", r"\bcpr\b"),
)  # fmt: skip
# no check digits: letters that are given out, and the example of the authority (QQ) is not
_NINO = re.compile(
    r"(?<![A-Za-z0-9])(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D](?![A-Za-z0-9])"
)
# ids as their offices print them
_TEST_IDS = frozenset(("078051120", "219099999", "123456789", "457555462", "12345678Z", "9434765919"))


def cards(text: str) -> Iterator[Found]:
    """Numbers in a brand's range that pass its check digit, at one stretch or grouped as cards are; none of the published test numbers."""
    for match in _CARD.finditer(text):
        digits = re.sub("[ -]", "", match[0])
        if (
            _BRANDS.match(digits)
            and digits not in _TEST_CARDS
            and len(set(digits)) > 2
            and _GROUPS.match(match[0])
            and luhn(digits)
        ):
            yield Found(match.start(), match.end(), "card", match[0], digits)


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of those before it (ISO/IEC 7812)."""
    odd = sum(map(int, digits[-1::-2]))
    return (odd + sum(2 * d - 9 * (d > 4) for d in map(int, digits[-2::-2]))) % 10 == 0


def ibans(text: str) -> Iterator[Found]:
    """Account numbers of a country's length and form whose check digits are right."""
    for match in _IBAN.finditer(text):
        ends = [match.end(), *(m.start() + match.start() for m in re.finditer("[ -]", match[0]))]
        for end in sorted(ends, reverse=True):  # a word behind it may look like a last group
            same = re.sub("[ -]", "", text[match.start() : end]).upper()
            if len(same) >= 15 and _rules("iban").is_valid(same):
                yield Found(match.start(), end, "iban", text[match.start() : end], same)
                break


def ids(text: str, name: str = "") -> Iterator[Found]:
    """Ids of persons of 22 countries; those whose check says little only near a word that tells what they are.

    Args:
        text: read as ASCII.
        name: what the text stands under, a key of an object, say.
    """
    if not _MAY_BE_ID.search(text):
        return
    for one, form, words in _id_patterns():
        for match in form.finditer(text):
            same = re.sub(r"[ .]", "", match[0]).upper()
            if same.replace("-", "") in _TEST_IDS or not _rules(one.rules).is_valid(match[0]):
                continue
            near = f"{name} {text[max(0, match.start() - _BEFORE) : match.start()]} {text[match.end() : match.end() + _BEHIND]}"
            if words is None or words.search(near):
                yield Found(match.start(), match.end(), "id", match[0], same.replace("-", ""))
    for match in _NINO.finditer(text):
        yield Found(match.start(), match.end(), "id", match[0], match[0].replace(" ", ""))


@lru_cache(1)
def _id_patterns() -> list[tuple[_Id, re.Pattern[str], re.Pattern[str] | None]]:
    edge = r"(?<![A-Za-z0-9_./+-])(?<!\d,)(?:{})(?![A-Za-z0-9_]|[-./]\d|,\d\d)"
    return [
        (one, re.compile(edge.format(one.form)), None if one.words is None else re.compile(one.words, re.IGNORECASE))
        for one in _IDS
    ]


@lru_cache(64)
def _rules(name: str) -> Any:
    return import_module(f"stdnum.{name}")
