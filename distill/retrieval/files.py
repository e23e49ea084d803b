"""Files of a folder of documents, with a word about whatever is none; and the text of a file."""

import codecs
import fnmatch
import os
from collections.abc import Collection
from pathlib import Path

from distill.basics.processes import tell
from distill.pairs.kinds import PACKED_SUFFIXES, READ_ERRORS, open_bytes

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class NoText(ValueError):
    """A file has no words, and why."""


def files_in(folder: Path, exclude: Collection[str], aside: list[tuple[str, str]]) -> list[Path]:
    """Files below a folder in a fixed order.

    Hidden ones, and those that a pattern names, are left out without a word; a pattern that names nothing is told.

    Args:
        folder: with all folders in it. Links to files are files; links to folders are not followed, since they may lead around in a circle.
        exclude: patterns of paths below the folder.
        aside: gets the name of each entry that is no file and no folder, of each link to a folder and of each folder that cannot be read,
            with why.

    Example:
        >>> files_in(Path("docs"), ["old/*"], aside := [])  # doctest: +SKIP
        [PosixPath('docs/a.md'), PosixPath('docs/sub/b.txt')]
    """
    unread: dict[str, str] = {}

    def note(error: OSError) -> None:
        unread[str(error.filename)] = f"it cannot be read ({error.strerror})"

    entries = []
    for top, folders, names in os.walk(folder, onerror=note):
        folders[:] = [name for name in folders if not name.startswith(".")]
        entries += [Path(top, name) for name in (*folders, *names) if not name.startswith(".")]
    found, used = [], set[str]()
    if why := unread.get(str(folder)):
        aside.append((".", why))
    for entry in sorted(entries):
        name = entry.relative_to(folder).as_posix()
        named = [pattern for pattern in exclude if fnmatch.fnmatch(name, pattern)]
        if entry.is_dir() and not entry.is_symlink():  # its files come by themselves
            if (why := unread.get(str(entry))) and not named:
                aside.append((name, why))
        elif named:
            used.update(named)
        elif entry.is_file():
            found.append(entry)
        else:
            aside.append((name, _no_file(entry)))
    for pattern in exclude:
        if pattern not in used:
            tell(f"{folder}: the pattern {pattern!r} leaves nothing out; patterns are of whole paths, as old/*.")
    return found


def _no_file(entry: Path) -> str:
    """Why there is nothing to read."""
    if entry.is_dir():
        return "a link to a folder, which is not followed; name that folder itself"
    return "a link to nothing" if entry.is_symlink() else "no file"


def suffix_of(file: Path) -> str:
    """What kind of file it is, under its packing: `.md` of `a.md.gz`, in small letters."""
    name = file.with_suffix("") if file.suffix.lower() in PACKED_SUFFIXES else file
    return name.suffix.lower()


def text_of(file: Path) -> str:
    """The words of a file, lines ended by a line feed alone.

    Raises:
        NoText: it cannot be read, is binary, or has another encoding.
    """
    try:
        with open_bytes(file) as opened:
            data = opened.read()
    except READ_ERRORS as error:
        raise NoText(f"it cannot be read ({error})") from None
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if b"\0" in data:
            raise NoText("binary") from None
        raise NoText(f"its byte {error.start} is no UTF-8; save it as UTF-8") from None
    if "\0" in text:
        raise NoText("binary")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def is_text(file: Path) -> bool:
    """Whether a file begins as text does; the rest of it is not read."""
    try:
        with open_bytes(file) as opened:
            start = opened.read(4096)
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except (UnicodeDecodeError, *READ_ERRORS):
        return False
    return b"\0" not in start
