"""Encodings: what a stored position holds of its teacher, and how it is written to bytes and read back.

`encoding_of("hidden")` holds the head's input; `"threshold"`, `"draws"` and `"top"` hold a few tokens of the distribution.
"""

from typing import Any

from distill.signals.encodings.base import Encoding
from distill.signals.encodings.draws import Draws
from distill.signals.encodings.hidden import Hidden
from distill.signals.encodings.threshold import Threshold
from distill.signals.encodings.top import Top

__all__ = ["ENCODINGS", "Encoding", "encoding_of"]

ENCODINGS: dict[str, type[Encoding]] = {kind.name: kind for kind in (Hidden, Threshold, Draws, Top)}


def encoding_of(name: str | Encoding, **settings: Any) -> Encoding:
    """The encoding called `name`, with its settings.

    Args:
        name: `"hidden"`, `"threshold"`, `"draws"` or `"top"`; its first setting may follow a colon, as in `"threshold:16"` or
            `"hidden:8"`. An encoding is given back as it is.
        settings: see the classes; or all of `Encoding.settings`, as a manifest has them.

    Raises:
        ValueError: no such encoding, a setting that it does not have, or a value out of its range.

    Example:
        >>> encoding_of("threshold:16") == encoding_of("threshold", n=16)
        True
    """
    if isinstance(name, Encoding):
        if settings:
            raise ValueError(
                f"The encoding is given with its settings already; {', '.join(settings)} would change them."
            )
        return name
    word, colon, number = str(name).partition(":")
    if word not in ENCODINGS:
        raise ValueError(f"The encoding is {name!r}; it must be one of {', '.join(ENCODINGS)}.")
    kind = ENCODINGS[word]
    if colon:
        if not (number.isascii() and number.isdigit()) or kind.first in settings:
            raise ValueError(f"The encoding is {name!r}; behind the colon stands {kind.first}, a whole number, once.")
        settings[kind.first] = int(number)
    if unknown := sorted(settings.keys() - kind.takes()):
        raise ValueError(
            f"The encoding {word!r} has no {', '.join(unknown)}; it has {', '.join(sorted(kind.takes()))}."
        )
    return kind(**settings)
