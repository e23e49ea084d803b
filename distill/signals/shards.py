"""Shards: what a teacher said about some pairs, in one file that is there wholly or not at all.

A shard is a safetensors file of five tensors. Of each of its R rows: `keys` uint8 `[R, 16]` (`distill.pairs.signal_keys`), `positions`
int32 `[R]`, `crc` uint32 `[R]` of its bytes, and `starts` int64 `[R + 1]`, where its bytes lie in `blob`, uint8. What the bytes mean is for the
encoding to say. The first four have a checksum of their own in the metadata, beside whose signals they are: a file that was copied into
another folder is told there.
"""

import json
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from distill.basics.disk import sync_folder
from distill.pairs.signal_keys import SIZE

FORMAT = "2"
_READ = ("1", FORMAT)  # the first one does not say whose a shard is
ENDING, PART, DAMAGED = ".safetensors", ".part", ".damaged"
# what a user can do about a shard
MENDING = (
    "`distill capture` with the same settings (and --verify) sets damaged shards aside, and makes their rows again."
)
_NAME = re.compile(r"shard-(\d+)-(\d+)\.safetensors")
_TYPES = {"keys": np.uint8, "positions": np.int32, "crc": np.uint32, "starts": np.int64}


@dataclass(frozen=True)
class Row:
    """What a teacher said about one pair.

    Args:
        key: of the pair.
        positions: supervised positions that are held, the first ones of the pair.
        blob: uint8 `[bytes]`, as an encoding made it.
    """

    key: bytes
    positions: int
    blob: NDArray[np.uint8]


class DamagedShard(ValueError):
    """A shard that is torn, or was changed after it was written.

    Args:
        path: of the file.
        what: is wrong.
    """

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path} {what}. {MENDING}")
        self.path, self.what = path, what

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.what)


@dataclass(frozen=True)
class Shard:
    """A shard as it lies on the disk: its rows, without their bytes.

    Args:
        path: of the file.
        keys, positions, crc, starts: see the module.
        offset: of the first row's bytes in the file.
        whose: the word of the folder that it was written into; "": an earlier version wrote it, and it does not say.
    """

    path: Path
    keys: NDArray[np.uint8]
    positions: NDArray[np.int32]
    crc: NDArray[np.uint32]
    starts: NDArray[np.int64]
    offset: int
    whose: str = ""


def shard_name(process: int, number: int) -> str:
    """The name of a file."""
    return f"shard-{process}-{number:05}{ENDING}"


def shards_in(folder: Path) -> list[Path]:
    """The shards of a folder, in the order of their names."""
    return sorted((path for path in folder.glob(f"shard-*{ENDING}") if _NAME.fullmatch(path.name)), key=_place)


def next_number(folder: Path, process: int) -> int:
    """The number that the next shard of a process gets; those set aside count, too."""
    found = [_NAME.match(path.name) for path in folder.glob(f"shard-{process}-*")]
    return 1 + max((int(one[2]) for one in found if one), default=-1)


def _place(path: Path) -> tuple[int, int]:
    found = _NAME.fullmatch(path.name)
    assert found is not None
    return int(found[1]), int(found[2])


def write_shard(path: Path, rows: Sequence[Row], whose: str = "") -> None:
    """Write rows into a new file; after any interruption it is there wholly or not at all.

    Args:
        path: of the file, in a folder that is there.
        rows: one or more.
        whose: the word of its folder (`signal_folder.whose`).

    Raises:
        OSError: the disk is full, say; nothing is left of the file.
    """
    starts = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([row.blob.size for row in rows], out=starts[1:])
    parts: dict[str, NDArray[Any]] = {
        "keys": np.frombuffer(b"".join(row.key for row in rows), np.uint8).reshape(-1, SIZE),
        "positions": np.asarray([row.positions for row in rows], np.int32),
        "crc": np.asarray([zlib.crc32(row.blob.data) for row in rows], np.uint32),
        "starts": starts,
    }
    said = {"format": FORMAT, "whose": whose, "index_crc32": _checksum(parts, whose)}
    part = path.with_name(path.name + PART)
    try:
        save_file({**parts, "blob": np.concatenate([row.blob for row in rows])}, part, metadata=said)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except (SafetensorError, OSError) as error:
        part.unlink(missing_ok=True)
        raise as_oserror(error, path) from error
    sync_folder(path.parent)


def read_shard(path: Path) -> Shard:
    """The rows of a shard, without their bytes.

    Raises:
        DamagedShard: it is torn, or what is read here was changed.
        ValueError: another version of distill wrote it.
        OSError: it cannot be opened.
    """
    check_opens(path)
    try:
        with safe_open(path, "numpy") as file:
            said = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in _TYPES}
            size = file.get_slice("blob").get_shape()
        offset = _offset_of_blob(path)
    except (SafetensorError, ValueError, KeyError, UnicodeError) as error:
        raise DamagedShard(path, f"is damaged ({error})") from None
    if (version := said.get("format", "")) not in _READ:
        if not version.isdigit():
            raise DamagedShard(path, "is damaged (it does not say of which format it is)")
        raise ValueError(
            f"{path} is of format {version!r}, from another version of distill; this one reads {FORMAT!r}. Use that version, or "
            "capture anew into another folder."
        )
    count, starts = len(found["positions"]), found["starts"]
    fits = (
        all(found[name].dtype == kind for name, kind in _TYPES.items())
        and (found["keys"].shape, found["crc"].shape, starts.shape) == ((count, SIZE), (count,), (count + 1,))
        and size == [int(starts[-1])]
        and not starts[0]
        and (np.diff(starts) >= 0).all()
    )
    if not fits or said.get("index_crc32") != _checksum(found, said.get("whose", "")):
        raise DamagedShard(path, "was changed after it was written (its index has not the checksum that stands in it)")
    return Shard(path, found["keys"], found["positions"], found["crc"], starts, offset, said.get("whose", ""))


def check_opens(path: Path) -> None:
    """Raise the system's own error of a file that cannot be opened: safetensors says of each that there is no such file."""
    os.close(os.open(path, os.O_RDONLY))


def read_at(file: int, start: int, size: int) -> bytes:
    """Bytes of an open file, without moving in it: forked processes share the place.

    Not through a memory map: where a file is cut off while it is mapped, the process is killed (SIGBUS); here it is told.
    """
    parts = []
    while size and (part := os.pread(file, min(size, 2**30), start)):
        parts.append(part)
        start, size = start + len(part), size - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def damaged_rows(shard: Shard) -> list[int]:
    """The rows whose bytes were changed after they were written; reads the whole file."""
    file, wrong = os.open(shard.path, os.O_RDONLY), []
    try:
        for row, (start, end) in enumerate(zip(shard.starts[:-1].tolist(), shard.starts[1:].tolist(), strict=True)):
            if zlib.crc32(read_at(file, shard.offset + start, end - start)) != shard.crc[row]:
                wrong.append(row)
    finally:
        os.close(file)
    return wrong


def _checksum(parts: dict[str, NDArray[Any]], whose: str) -> str:
    found = zlib.crc32(whose.encode())
    for name in _TYPES:
        found = zlib.crc32(np.ascontiguousarray(parts[name]).data, found)
    return f"{found:08x}"


def _offset_of_blob(path: Path) -> int:
    """safetensors has read the header by now, and found it good."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return 8 + size + int(json.loads(file.read(size))["blob"]["data_offsets"][0])


def as_oserror(error: Exception, path: Path) -> OSError:
    """What went wrong with a file, with its number: safetensors tells a full disk in an exception of its own, `... (os error 28)`."""
    told = re.search(r"\(os error (\d+)\)", str(error))
    number = error.errno if isinstance(error, OSError) else int(told[1]) if told else 0
    return OSError(number, f"could not write {path} ({os.strerror(number or 0) if number else error})")
