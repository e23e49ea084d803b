"""Terminal: text of others made harmless before people are shown it."""

import re

# C0 without tab and line end, DEL, C1, and what turns the direction of writing: a server's error could repaint the screen with it
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text with control characters written out, and halves of characters too, which no terminal can be sent.

    Example:
        >>> printable("a \x1b[31mred\x1b[0m name")
        'a \\\\x1b[31mred\\\\x1b[0m name'
    """
    shown = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return shown.encode("utf-8", "backslashreplace").decode("utf-8")
