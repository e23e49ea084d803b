"""What may be published of a run: values without secrets, absolute paths and names of private machines."""

import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

REMOVED = "[removed]"

_SECRET_VARIABLE = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)
_SECRET_NAME = re.compile(
    r"^(key|token)$"
    r"|(^|[_-])(api[_-]?key|secret|passw\w*|authorization|credentials?|bearer|headers|(hub|hf|access|auth|api)[_-]token)([_-]|$)",
    re.IGNORECASE,
)
SECRET_SHAPE = re.compile(
    r"\b(?:[spr]k-[\w-]{12,}|gsk_\w{12,}|(?:nvapi|xai)-[\w-]{12,}|hf_\w{12,}|gh[opsru]_\w{12,}|github_pat_\w{12,}|glpat-[\w-]{12,}|xox[a-z]-[\w-]{8,}"
    r"|AKIA[0-9A-Z]{12,}|AIza[\w-]{20,}|Bearer\s+\S+)"
)
_URL = re.compile(
    r"\b[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.%]+\][^\s'\"<>|)\]}]*|[^\s'\"<>|)\]}]+)", re.IGNORECASE
)  # the first kind has an IPv6 address in brackets
# without a scheme: an address of a private network, or a name under one of the endings of such networks, with its port
_BARE_HOST = re.compile(
    r"(?<![\w.:/-])(?:(?:(?:10|127)\.\d{1,3}|192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2}(?::\d+)?"
    r"|[\w-]+(?:\.[\w-]+)*\.(?:local|localdomain|internal|intranet|lan|corp)(?::\d+)?)(?![\w.-])"
)
_MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_HOME = re.compile(r"(?:/home|/Users|[A-Za-z]:\\Users)[/\\][^/\\\n'\"]+")  # a user's name may have spaces
_PATH = re.compile(
    r"(?<![\w/:.<\\~-])(?:~|(?=/))/(?:[\w.@+-]+/)+[\w.@+-]*"
    r"|(?<!\w)(?:[A-Za-z]:[\\/]|\\\\[\w.-]+\\(?=[\w$]))(?:[^\\/\s]+[\\/])*[^\\/\s]*"
)
# a share of a network has a host and a name behind two strokes: one stroke alone is a command of TeX or a regular expression
_BEGINS_A_PATH = re.compile(r"[/~]|[A-Za-z]:\\|\\\\[\w.-]+\\[\w$]")
_HUB_CACHE = re.compile(r"models--(.+?)[/\\]snapshots[/\\]([0-9a-f]{40})")
_PRIVATE_ENDINGS = ("local", "localdomain", "localhost", "internal", "intranet", "lan", "corp", "home", "private")


def clean(value: Any) -> Any:
    """A plain value as it may be published.

    Removed are: entries whose name says that they are secret, values of environment variables with such a name, what
    looks like a key, e-mail addresses, this machine's name, and user, query and private host of a URL. Of an absolute path
    only the last part is kept.

    Args:
        value: text, number, None, or lists and mappings of these; anything else counts as its text.

    Example:
        >>> clean({"url": "https://me:secret@api.example.com/v1?key=1", "api_key": "sk-1"})
        {'url': 'https://api.example.com/v1'}
    """
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return _distinct((clean(str(k)), clean(v)) for k, v in value.items() if not _SECRET_NAME.search(str(k)))
    if isinstance(value, list | tuple | set | frozenset):
        return [clean(item) for item in value]
    return _clean_text(str(value))


def secret_in(value: Any) -> str | None:
    """Where a secret seems to be in a plain value, in words that do not show it; None if nowhere.

    Looked for are entries whose name says that they are secret, what looks like a key, and values of environment variables
    with a secret's name.

    Example:
        >>> secret_in({"user": "me", "api_key": "abc"})
        "its entry 'api_key' seems to be a secret"
    """
    if isinstance(value, Mapping):
        named = next((str(name) for name in value if _SECRET_NAME.search(str(name))), None)
        if named is not None:
            return f"its entry {named!r} seems to be a secret"
        return next((found for one in value.values() if (found := secret_in(one))), None)
    if isinstance(value, list | tuple):
        return next((found for one in value if (found := secret_in(one))), None)
    if isinstance(value, str) and (SECRET_SHAPE.search(value) or any(secret in value for secret in _secrets())):
        return "something in it looks like a key"
    return None


def public_name(name: str | os.PathLike[str]) -> str:
    """A model's name as others may know it: embedded name, Hub id, URL without secrets, or a folder's last part.

    Example:
        >>> public_name("/data/jo/models/qwen-mine")
        'qwen-mine'
    """
    text = os.fspath(name)
    if found := hub_snapshot(text):
        return found[0]
    if "://" in text:
        return _clean_text(text)
    folder = Path(os.path.expanduser(text))  # where there is no home, ~ stays
    if text and (folder.is_dir() or folder.is_absolute() or text[0] in ".~" or text.count("/") > 1 or "\\" in text):
        absolute = os.path.abspath(folder)
        last = re.split(r"[/\\]", absolute.rstrip("/\\"))[-1]
        return _clean_text(last) if last and absolute != _home() else "a local folder"
    return _clean_text(text)


def hub_snapshot(path: str) -> tuple[str, str] | None:
    """`(Hub id, revision)` of a folder in the Hub's cache; None for any other."""
    found = _HUB_CACHE.search(path)
    return (found[1].replace("--", "/", 1), found[2]) if found else None


def _clean_text(text: str) -> str:
    for secret in _secrets():
        text = text.replace(secret, REMOVED)
    text = _URL.sub(lambda found: _public_url(found[0]), text)
    text = _MAIL.sub(REMOVED, SECRET_SHAPE.sub(REMOVED, text))
    text = _BARE_HOST.sub("private-host", text)
    home = _home()
    text = _HOME.sub("~", text if home in (None, os.sep) else text.replace(home, "~"))
    if _BEGINS_A_PATH.match(text) and (len(re.findall(r"[/\\]", text)) > 1 or Path(text).exists()):
        text = re.split(r"[/\\]", text.rstrip("/\\"))[-1]  # all of it is a path, which may have spaces
    text = _PATH.sub(lambda found: re.split(r"[/\\]", found[0].rstrip("/\\"))[-1], text)
    machine = socket.gethostname()
    if len(machine) > 3 and machine != "localhost":
        text = re.sub(rf"(?<![\w-]){re.escape(machine)}(?![\w-])", REMOVED, text)
    return text


def _home() -> str | None:
    """The home folder; None for a process that has none (no HOME, and no such user: in a container, say)."""
    try:
        return str(Path.home())
    except RuntimeError:
        return None


def _distinct(items: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """A mapping of all of them: names that are one after cleaning are numbered."""
    found: dict[Any, Any] = {}
    for name, value in items:
        number, own = 1, name
        while own in found:
            number += 1
            own = f"{name} ({number})"
        found[own] = value
    return found


def _public_url(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:  # text that only looks like an address, such as a regular expression
        return REMOVED
    if parts.scheme.lower() == "file":
        return re.split(r"[/\\]", parts.path.rstrip("/\\"))[-1]
    host = parts.hostname or ""
    place = re.sub(r"^.*@", "", parts.netloc) if _is_public(host) else "private-host"
    return f"{parts.scheme}://{place}{parts.path}"


def _is_public(host: str) -> bool:
    if "." not in host or host.rsplit(".", 1)[-1] in _PRIVATE_ENDINGS or host == socket.gethostname():
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


def _secrets() -> list[str]:
    values = {value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name) and len(value) >= 8}
    return sorted(values, key=len, reverse=True)
