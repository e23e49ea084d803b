"""Key of what was read: all that decides the rows made of some files, so that they are found again and never mistaken."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from distill.basics.fingerprint import fingerprint
from distill.pairs.tokenizer_state import tokenizer_state

_ROOMS = ("basics", "text", "pairs")  # whose code makes rows of files
_LIBRARIES = ("transformers", "tokenizers", "datasets", "pyarrow", "jinja2", "regex", "pyyaml")
LARGE = 16 * 2**20  # bytes of files from which on it pays to keep what was read


def key_of(paths: Sequence[Path | None], tokenizer: Any, settings: list[Any]) -> str | None:
    """A name for what is made of these files with these settings; None if that is made quickly, or some are no files.

    In it are the tokenizer with its template and the day that it writes, this package's code and the versions of the libraries.
    """
    files = [path for path in paths if path is not None]
    if len(files) < len(paths):
        return None
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    if sum(size for _, size, _ in facts) < LARGE:
        return None
    told = None if tokenizer is None else tokenizer_state(tokenizer)
    return fingerprint(facts, told, settings, program())


@lru_cache(maxsize=1)
def program() -> str:
    """A hash of the code that makes rows of files: other code keeps other rows."""
    package = Path(__file__).parent.parent
    code = b"".join(file.read_bytes() for room in _ROOMS for file in sorted((package / room).rglob("*.py")))
    return hashlib.sha256(code + repr([(name, _version(name)) for name in _LIBRARIES]).encode()).hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
