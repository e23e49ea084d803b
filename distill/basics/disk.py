"""Writing so that a power cut loses nothing that was promised: whole files, new folders, new names in a folder."""

import errno
import os
from pathlib import Path
from typing import BinaryIO


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; their names are on the disk when this returns."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder; a new file is not safe before its name is."""
    if os.name == "nt":  # Windows opens no folders, and keeps names by itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks flush no folders
            raise
    finally:
        os.close(descriptor)


def write_durably(path: Path, text: str) -> None:
    """Write a file that is, after any interruption, either the old one or the whole new one.

    Raises:
        OSError: the disk is full, say; the old file is as it was.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(error.errno, f"could not write {path} ({error.strerror})") from error
    os.replace(part, path)
    sync_folder(path.parent)


def write_all(file: BinaryIO, data: bytes) -> None:
    """Write to an unbuffered file until everything is written; a disk that fills up takes a part first."""
    written = 0
    while written < len(data):
        written += file.write(data[written:]) or 0
