"""A text as words, the one way texts are compared: for near duplicates, overlap with evaluation sets, repetition."""

import re
import unicodedata
from functools import lru_cache
from typing import Any

# Written without spaces: Chinese, Japanese, and in South-East Asia Thai, Lao, Burmese and Khmer. There, every character with the marks
# upon it counts as a word.
NO_SPACES = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff"
# The same for texts without marks and such scripts, in half the time.
_ASCII_WORD, _LATIN_WORD, _FIRST_MARK = re.compile(r"[a-z0-9_]+"), re.compile(r"\w+"), "\u0300"
_NUMBER = re.compile(r"(?:[-+*/^=<>×÷]\s*)?\d+(?:[.,]\d+)*")


def words(text: str) -> list[str]:
    """The words of a text in their order; case, punctuation, spacing and compatibility forms (NFKC) do not count.

    Combining marks (vowel signs of Hindi and Thai, accents) belong to the letter before them.

    Example:
        >>> words("The sky, it's BLUE.")
        ['the', 'sky', 'it', 's', 'blue']
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    plain = unicodedata.normalize("NFKC", text).lower()
    return (_LATIN_WORD if max(plain) < _FIRST_MARK else _word()).findall(plain)


def numbers(text: str) -> list[str]:
    """The numbers of a text in their order, each with a sign or operator right before it.

    Example:
        >>> numbers("7 - 3 is 4.0")
        ['7', '-3', '4.0']
    """
    return ["".join(found.split()) for found in _NUMBER.findall(text)]


def letters(text: str) -> int:
    """How many letters a text has, with the marks upon them: what there is to tell a language from."""
    return sum(map(str.isalpha, text)) if text.isascii() else len(_letter().findall(text))


@lru_cache(maxsize=1)
def _word() -> Any:
    """For `regex` a word has marks and joiners in it; for `re` they end one."""
    import regex

    return regex.compile(rf"[^\W{NO_SPACES}]+|\w\p{{M}}*")


@lru_cache(maxsize=1)
def _letter() -> Any:
    import regex

    return regex.compile(r"[\p{L}\p{M}]")
