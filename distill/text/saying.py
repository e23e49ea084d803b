"""Saying: where a text says a value in whole words; the one rule of rows, their checks and the grading of answers."""

import re

from distill.text.words import NO_SPACES, words

_THOUSANDS = re.compile(r"(?<=\d)[,'\u2019\u202f\u00a0](?=\d{3}(?!\d))")
_POINT = re.compile(r"(?<=\d)[.,](?=\d)")
# Nothing of this may stand beside a value that is written in a text as it is: it would be a part of a longer word or number.
# Where words have no spaces between them, any character is a border.
_LETTER = rf"[^\W{NO_SPACES}]"
_BEFORE, _BEHIND = rf"(?<!{_LETTER})(?<!\d[.,'\u2019\u202f\u00a0])", rf"(?!{_LETTER})(?![.,'\u2019\u202f\u00a0]\d)"


def value_words(text: str) -> list[str]:
    """The words of a text by which values are compared: as `distill.text.words.words`, and a number is one word.

    Example:
        >>> value_words("It is 1,084.5 m long.")
        ['it', 'is', '1084_5', 'm', 'long']
    """
    return words(_POINT.sub("_", _THOUSANDS.sub("", text)))


def said_at(text: str, value: str) -> int | None:
    """Where a text first says a value in whole words: the number of its first word there. None where it does not.

    Case, punctuation and spacing do not count, nor marks between thousands. A number is one word: "84.5" does not say 84.

    Raises:
        ValueError: a value without a word.

    Example:
        >>> said_at("It is 1,084 metres long.", "1084"), said_at("It is 84.5 metres long.", "84")
        (2, None)
    """
    wanted = value_words(value)
    if not wanted:
        raise ValueError(f"The value {value!r} has no word, so no answer can be seen to say it.")
    there = value_words(text)
    places = range(len(there) - len(wanted) + 1)
    return next((i for i in places if there[i : i + len(wanted)] == wanted), None)


def says(text: str, value: str) -> bool:
    """Whether a text says a value, by the rule of `said_at`; nothing says a value without a word.

    Example:
        >>> says("It was finished in 1874.", "1874"), says("It has 18740 stones.", "1874")
        (True, False)
    """
    return bool(value_words(value)) and said_at(text, value) is not None


def as_written(value: str) -> re.Pattern[str]:
    """What finds a value in a text letter by letter, where it is no part of a longer word or number.

    Example:
        >>> as_written("84").findall("84 of 1,084, or 84.5; 84.")
        ['84', '84']
    """
    # a blank may be the end of a line in the text
    written = r"\s+".join(re.escape(part) for part in value.split())
    return re.compile(f"{_BEFORE}{written}{_BEHIND}")
