"""E-mail, IP and MAC addresses; those that are set aside for examples are nobody's."""

import ipaddress
import re
from collections.abc import Iterator

from distill.curation.private.kinds import Found

# letters of scripts that are written with spaces; in Chinese or Japanese an address stands among words without any
_WORD = "A-Za-z0-9\u00c0-\u05ff"
_MAIL = re.compile(
    rf"(?<![{_WORD}_.+%'-])[{_WORD}_](?:[{_WORD}_.+%'-]{{0,63}}+)"
    rf"(?=@)@(?:[{_WORD}](?:[{_WORD}-]{{0,61}}[{_WORD}])?\.){{1,6}}(?:xn--[a-z0-9-]{{2,59}}|[A-Za-z\u00c0-\u05ff]{{2,24}})(?![{_WORD}-])"
)
_RESERVED = re.compile(r"(?:^|\.)(?:example\.(?:com|org|net|edu)|example|test|invalid|localhost|local)$")
_FILES = frozenset(
    (
        "png",
        "jpg",
        "jpeg",
        "gif",
        "svg",
        "webp",
        "js",
        "ts",
        "css",
        "py",
        "md",
        "json",
        "html",
        "pdf",
        "txt",
        "zip",
        "gz",
    )
)
_NOBODY = frozenset(("git", "hg", "noreply", "no-reply", "user", "username"))
_V4 = re.compile(r"(?<![A-Za-z0-9_.+-])(?:\d{1,3}\.){3}\d{1,3}(?![A-Za-z0-9_]|\.\d|-[A-Za-z0-9])")
_VERSION = re.compile(r"(?:\bv|\bver(?:sion|sión)?\.?|\brelease|[\w]/|версия|版本|バージョン)\s*$", re.IGNORECASE)
_SMALL = 16
_V6 = re.compile(r"(?<![A-Za-z0-9_:.])[23][0-9a-fA-F]{3}:[0-9a-fA-F:]{2,35}(?![A-Za-z0-9_:])")
NETS_V4 = ("192.0.2.", "198.51.100.", "203.0.113.")  # RFC 5737
_MAC = re.compile(
    r"(?<![A-Za-z0-9_:-])[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![A-Za-z0-9_]|[:-][A-Za-z0-9])"
)


def emails(text: str) -> Iterator[Found]:
    """Addresses in a text, without those of example domains and of programs (`git@`)."""
    if "@" not in text:
        return
    for match in _MAIL.finditer(text):
        name, _, domain = match[0].rpartition("@")
        domain = domain.lower()
        before = text[max(0, match.start() - 100) : match.start()]
        if "://" in before and not re.search(r"[\s/@]", before.rpartition("://")[2]):
            continue  # what is before the @ is a password: see `secrets`
        if _RESERVED.search(domain) or domain.rpartition(".")[2] in _FILES or name.lower() in _NOBODY:
            continue
        yield Found(match.start(), match.end(), "email", match[0], match[0].lower())


def is_address(text: str) -> bool:
    """Whether all of a text is an e-mail address, of an example domain or not."""
    return _MAIL.fullmatch(text) is not None


def ips(text: str) -> Iterator[Found]:
    """Public addresses: none of private networks, of this machine, or set aside for documentation."""
    for match in _V4.finditer(text):
        if _VERSION.search(text, max(0, match.start() - 12), match.start()):
            continue
        if all(
            int(part) < _SMALL for part in match[0].split(".")
        ):  # a section or a version; one address in 60,000 is so
            continue
        yield from _public(match)
    for match in _V6.finditer(text):
        yield from _public(match)


def documented(text: str) -> Iterator[str]:
    """IPv4 and MAC addresses in a text that are set aside for documentation: a stand-in must not be one that stands there already."""
    for match in _V4.finditer(text):
        if match[0].startswith(NETS_V4):
            yield match[0]
    for match in _MAC.finditer(text):
        yield re.sub("[:-]", "", match[0]).lower()


def macs(text: str) -> Iterator[Found]:
    """Addresses of devices; not those that stand for all or none, or are set aside (RFC 7042)."""
    for match in _MAC.finditer(text):
        digits = re.sub("[:-]", "", match[0]).lower()
        if (
            not digits.startswith("00005e0053")
            and len(set(digits)) > 2
            and digits not in ("0123456789ab", "001122334455", "aabbccddeeff")
        ):
            yield Found(match.start(), match.end(), "mac", match[0], digits)


def _public(match: re.Match[str]) -> Iterator[Found]:
    written = match[0].rstrip(":")
    try:
        address = ipaddress.ip_address(written)
    except ValueError:
        return
    if address.is_global and not address.is_multicast:
        yield Found(match.start(), match.start() + len(written), "ip", written, address.compressed)
