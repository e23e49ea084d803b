"""What is looked for, by name; and how a finding is told without its value."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

KINDS = {
    "email": "e-mail addresses",
    "phone": "phone numbers",
    "card": "payment card numbers",
    "iban": "IBANs",
    "id": "personal ids (tax, social security, identity card)",
    "ip": "public IP addresses",
    "mac": "MAC addresses",
    "secret": "keys and tokens",
    "password": "passwords",
}
_LETTERS, _DIGITS = re.compile(r"[^\W\d_]"), re.compile(r"\d")
_SHAPED = 40


@dataclass(frozen=True)
class Found:
    """A value in a text.

    Args:
        start, end: its place, in characters.
        kind: one of `KINDS`.
        value: as it stands there.
        same: the form in which two ways to write it are one: a phone number in E.164, an address in small letters.
    """

    start: int
    end: int
    kind: str
    value: str
    same: str

    def __repr__(self) -> str:  # a traceback or a log must not say it
        return f"Found({self.start}, {self.end}, {self.kind!r}, {self.shape!r})"

    @property
    def shape(self) -> str:
        """What may be shown: letters as `a`, digits as `0`; of secrets and passwords the length alone.

        Example:
            >>> find("write to jo.miller@firma.de")[0].shape
            'aa.aaaaaa@aaaaa.aa'
        """
        if self.kind in ("secret", "password"):
            return f"{len(self.value)} characters"
        text = _DIGITS.sub("0", _LETTERS.sub("a", self.value))
        return text if len(text) <= _SHAPED else f"{text[: _SHAPED - 4]} ..."


def kinds_of(names: Iterable[str]) -> tuple[str, ...]:
    """The kinds by these names, in the order of `KINDS`; all of them where there is no name.

    Raises:
        ValueError: a name that is none; the nearest one is told.
    """
    wanted = list(names) or list(KINDS)
    for name in wanted:
        if name not in KINDS:
            near = difflib.get_close_matches(name.lower(), KINDS, 1, 0.5)
            hint = f" Is {near[0]} meant?" if near else ""
            raise ValueError(f"private_kinds has {name!r}, which is none of {', '.join(KINDS)}.{hint}")
    return tuple(kind for kind in KINDS if kind in wanted)


def check_private() -> None:
    """Raise `ValueError` if a package that finds private data is missing."""
    try:
        import detect_secrets.plugins.base  # noqa: F401
        import phonenumbers  # noqa: F401
        import stdnum.iban  # noqa: F401
    except ImportError as error:
        missing = (error.name or "phonenumbers").partition(".")[0].replace("stdnum", "python-stdnum")
        raise ValueError(
            f"Finding private data needs the package '{missing.replace('_', '-')}': pip install 'distill[private]'."
        ) from None
