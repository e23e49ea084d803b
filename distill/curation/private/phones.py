"""Phone numbers, by the plans of all countries (`phonenumbers`); numbers set aside for fiction are nobody's."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from distill.curation.private.kinds import Found

REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "NL", "PL", "BR", "IN", "RU", "CN", "JP", "KR", "MX", "TR", "SE", "CH")
_CANDIDATE = re.compile(
    r"(?<![A-Za-z0-9_.,/=#$€£-])(?<!\d:)(?:\+ ?|00 ?)?\(?\d[\d ()./-]{5,22}\d(?![A-Za-z0-9_]|[.,:/-]\d)"
)
_WORDS = re.compile(
    r"\b(?:phone|tel|mobile|cell|call|ring|dial|fax|whats ?app|sms|text (?:me|us)|telefon|handy|fon|mobil|ruf|tél|téléphone|portable|appele|"
    r"teléfono|telefono|móvil|celular|celda|llam|cellulare|chiama|telefone|ligu|telemóvel|telefoon|mobiel|bel|zadzwoń|komórk|gsm|"
    r"телефон|тел|моб|звони|telefonnummer|ring|cep)|电话|手机|致电|電話|携帯|전화|휴대|फोन|फ़ोन|मोबाइल|هاتف|جوال",
    re.IGNORECASE,
)
_BEFORE = 40
_WITH_CODE = 11
_SHORT_FICTION = re.compile(r"(?:^|\D)555[ .-]?01\d\d$")  # without the area
_STAND_IN = re.compile(r"(?:\+ ?\d{1,3}|00 ?\d{1,3}|[018])?[ ()./-]*000")  # no country's numbers begin so
_DATE = re.compile(r"\(?(?:(?:19|20)\d\d([./-])\d\d?\1\d\d?|\d\d?([./-])\d\d?\2(?:19|20)?\d\d)\)?(?:$|\s)")
_US = re.compile(r"\d{3}([.-])\d{3}\1\d{4}$")
# Country code -> national numbers for films and books (# any digit), by the offices that give numbers out: NANPA (555-0100 to 555-0199 of any
# area), Ofcom, Bundesnetzagentur, Arcep, ACMA, PTS.
FICTION = {
    1: ("###55501##",),
    44: ("7700900###", "2079460###", *(f"1{city}4960###" for city in (13, 14, 15, 16, 17, 18, 21, 31, 41, 51, 61)), "1632960###"),
    49: ("3023125###", "6990009###", "4066969###", "2214710###", "8999998###", "17139200##", "176040690##"),
    33: ("19900####", "26191####", "35301####", "46571####", "53649####", "63998####"),
    61: ("25550####", "27010####", "35550####", "37010####", "75550####", "77010####", "85550####", "87010####"),
    46: ("3139006##", "4062804##", "8465004##", "9803192##", "70174066#", "70174067#", "70174068#"),
}  # fmt: skip
_FICTION = {
    code: re.compile("(?:" + "|".join(f.replace("#", r"\d") for f in forms) + ")$") for code, forms in FICTION.items()
}
_FICTION_REGIONS = ("US", "GB", "DE", "FR", "AU", "SE")


def phones(text: str, regions: Sequence[str] = REGIONS, name: str = "") -> Iterator[Found]:
    """Numbers with a country's code; and, near a word that tells what they are, numbers as they are written in one of the regions.

    Args:
        text: read as ASCII.
        regions: whose national numbers are looked for, as ISO 3166 codes.
        name: what the text stands under, a key of an object, say.
    """
    for match in _CANDIDATE.finditer(text):
        written = match[0]
        digits = sum(c.isdigit() for c in written)
        if not 7 <= digits <= 17 or _DATE.match(written):
            continue
        if written[0] == "+" or written.startswith("00"):
            found = _number("+" + written[2:] if written.startswith("00") else written, ("ZZ",))
        elif _SHORT_FICTION.search(written) or _STAND_IN.match(written):
            continue
        elif _WORDS.search(f"{name} {text[max(0, match.start() - _BEFORE) : match.start()]}"):
            found = _number(written, tuple(regions))
        else:
            found = _as_printed(written, tuple(regions))
        if found is not None and not _STAND_IN.match(written) and not is_fiction(found) and not _fiction_in(written):
            yield Found(match.start(), match.end(), "phone", written, found)


def fictions(text: str) -> Iterator[str]:
    """The numbers for fiction in a text, in E.164: a stand-in must not be one that stands there already."""
    for match in _CANDIDATE.finditer(text):
        if (number := _fiction_in(match[0])) is not None:
            yield number


def is_fiction(number: str) -> bool:
    """Whether a number in E.164 is set aside for fiction."""
    import phonenumbers

    parsed = phonenumbers.parse(number)
    national = phonenumbers.national_significant_number(parsed)
    return parsed.country_code in _FICTION and _FICTION[parsed.country_code].match(national) is not None


@lru_cache(100_000)
def _fiction_in(written: str) -> str | None:
    import phonenumbers

    if written.startswith("00"):
        written = "+" + written[2:].lstrip()
    for region in ("ZZ",) if written[0] == "+" else _FICTION_REGIONS:
        try:
            number = phonenumbers.format_number(
                phonenumbers.parse(written, region), phonenumbers.PhoneNumberFormat.E164
            )
        except phonenumbers.NumberParseException:
            continue
        if is_fiction(number):
            return str(number)
    return None


@lru_cache(100_000)
def _as_printed(written: str, regions: tuple[str, ...]) -> str | None:
    """In E.164, where it stands as its region prints it, with a trunk 0 or brackets, which few other numbers have."""
    if _US.match(written) and "US" in regions:
        return _number(written, ("US",))
    if (written[0] not in "0(" and "(" not in written) or written.isdigit():
        return None
    return next(
        (number for region in regions if (number := _number(written, (region,))) and _prints(number, written)), None
    )


@lru_cache(100_000)
def _number(written: str, regions: tuple[str, ...]) -> str | None:
    """In E.164, of the first region that prints it so, else of the first in which it is valid."""
    import phonenumbers

    valid: list[str] = []
    if written.isdigit() and len(written) >= _WITH_CODE and written[0] != "0":  # as tables have it, without a plus
        whole = _number(f"+{written}", ("ZZ",))
        valid += [whole] if whole else []
    for region in regions:
        try:
            number = phonenumbers.parse(written, region)
        except phonenumbers.NumberParseException:
            continue
        if (region == "ZZ" and phonenumbers.is_valid_number(number)) or phonenumbers.is_valid_number_for_region(
            number, region
        ):
            valid.append(str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)))
    return next((number for number in valid if _prints(number, written)), valid[0] if valid else None)


def _prints(number: str, written: str) -> bool:
    import phonenumbers

    return bool(
        phonenumbers.format_number(phonenumbers.parse(number), phonenumbers.PhoneNumberFormat.NATIONAL) == written
    )
