"""A text as words, the one way texts are compared: for near duplicates, overlap with evaluation sets, repetition."""

import re
import unicodedata

# Chinese and Japanese are written without spaces: there, every character counts as a word.
_NO_SPACES = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_NO_SPACES}]|[^\W{_NO_SPACES}]+")
_ASCII_WORD = re.compile(r"[a-z0-9_]+")  # the same for ASCII, in half the time
_NUMBER = re.compile(r"(?:[-+*/^=<>×÷]\s*)?\d+(?:[.,]\d+)*")


def words(text: str) -> list[str]:
    """The words of a text in their order; case, punctuation, spacing and compatibility forms (NFKC) do not count.

    Example:
        >>> words("The sky, it's BLUE.")
        ['the', 'sky', 'it', 's', 'blue']
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def numbers(text: str) -> list[str]:
    """The numbers of a text in their order, each with a sign or operator right before it.

    Example:
        >>> numbers("7 - 3 is 4.0")
        ['7', '-3', '4.0']
    """
    return ["".join(found.split()) for found in _NUMBER.findall(text)]
