"""Numbers as language models write them: signs, separators, fractions, percent, scientific notation, a little LaTeX."""

import re
from fractions import Fraction

_START = r"(?<![\w^])(?<!\d\.)"
_SIGN = r"(?:(?<![)\]}])[-+])?"  # a dash after a letter, a digit or a bracket is a minus between two things
_DIGITS = r"(?:\d{1,3}(?:,\d{3})++(?!\d)|\d++)"
_PLAIN = rf"(?:{_DIGITS}(?:\.\d++)?|\.\d++)(?:[eE][-+]?\d++)?"
_NUMBER = re.compile(
    rf"{_START}({_SIGN})(?:(\d++)\s++(?=\d++\s*+/))?({_PLAIN})(?:\s*+/\s*+({_PLAIN}))?(\s?%)?(?!\^|[\w]*\^)"
)
_LONGEST = 400  # digits, and the largest exponent: beyond that exact arithmetic is a way to hang, not an answer

_REWRITTEN = [
    (re.compile(r"[−–]"), "-"),
    (re.compile(r"\\left|\\right|\\[,;!:]|\\ |[$€£¥]|\*\*"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\^?\{?\\circ\}?"), "°"),
    (re.compile(r"(?<=\d)\\[dt]?frac"), r" \\frac"),
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"\1/\2"),
    (re.compile(r"(?<=[\d.])\s*(?:×|\\times|\\cdot|\*|x)\s*10\s*\^\s*\{?\s*([-+]?\d+)\s*\}?"), r"e\1"),
    (re.compile(r"\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}"), r" \1"),
]
_UNIT = re.compile(r"(?:\s+[^\W\d]|°).*|[.\s]*", re.DOTALL)


def rewritten(text: str) -> str:
    """The text with LaTeX and typographic forms of numbers in plain ones."""
    for pattern, plain in _REWRITTEN:
        text = pattern.sub(plain, text)
    return text


def find_number(text: str, percent: str, last: bool = False) -> Fraction | None:
    """The first or the last number in a text; one of absurd size or with a denominator of zero is none."""
    matches = list(_NUMBER.finditer(rewritten(text)))
    found = (_value(match, percent) for match in (reversed(matches) if last else matches))
    return next((number for number in found if number is not None), None)


def whole_number(text: str, percent: str) -> Fraction | None:
    """The number a short text consists of, perhaps after an equals sign or before a unit; else None."""
    plain = rewritten(text).rpartition("=")[2].strip().strip("()").strip()
    match = _NUMBER.match(plain)
    if match is None or not _UNIT.fullmatch(plain, match.end()):
        return None
    return _value(match, percent)


def _value(match: re.Match[str], percent: str) -> Fraction | None:
    sign, mixed, above, below, hundredths = match.groups()
    whole, top, bottom = _exact(mixed or "0"), _exact(above), _exact(below or "1")
    if whole is None or top is None or not bottom:
        return None
    number = whole + top / bottom
    if hundredths and percent == "fraction":
        number /= 100
    return -number if sign == "-" else number


def _exact(text: str) -> Fraction | None:
    plain = text.replace(",", "")
    exponent = re.search(r"[eE]([-+]?\d+)$", plain)
    if len(plain) > _LONGEST or (exponent and abs(int(exponent[1])) > _LONGEST):
        return None
    return Fraction(plain)
