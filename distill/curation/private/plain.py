"""A text with the digits of all scripts as ASCII, at the same places: what the patterns read."""

import sys
import unicodedata
from functools import lru_cache

_SPACES = "\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2212\ufe58\ufe63"


def plain(text: str) -> str:
    """The text with digits of any script, full-width signs, and the many spaces and dashes as ASCII; a character stays one.

    Example:
        >>> plain("０３０−９０１８")
        '030-9018'
    """
    return text if text.isascii() else text.translate(_table())


def in_digits_of(text: str, other: str) -> str:
    """ASCII digits of a text in the script of another one's first digit."""
    first = next((c for c in other if c.isdecimal()), "0")
    zero = ord(first) - unicodedata.decimal(first)
    return text if zero == ord("0") else "".join(chr(zero + int(c)) if c in "0123456789" else c for c in text)


@lru_cache(1)
def _table() -> dict[int, str]:
    table = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width forms
    for code in range(0x80, sys.maxunicode + 1):
        if (digit := unicodedata.decimal(chr(code), None)) is not None:
            table[code] = str(digit)
    return table | dict.fromkeys(map(ord, _SPACES), " ") | dict.fromkeys(map(ord, _DASHES), "-")
