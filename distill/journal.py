"""An append-only JSONL file of finished pairs that survives interruption at any moment."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from distill.pairs import complete_row, read_jsonl


class Journal:
    """Rows of one generation run, on disk as soon as they are finished.

    Opening it reads what an earlier run left, cuts off a torn last line, and takes a lock. A small file beside it
    (`pairs.settings.json`) says which settings its rows belong to; rows of other settings are never mixed in.

    Args:
        path: the JSONL file; its folder is made.
        settings: plain values that decide the rows (teacher, sampling); compared with those on disk.

    Raises:
        ValueError: the file holds rows of other settings, is damaged before its last line, or another process has it.
    """

    def __init__(self, path: str | os.PathLike[str], settings: dict[str, Any]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{self.path}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"{self.path} is being written by another process; wait for it or give another path."
            ) from None
        try:
            self._check_settings(settings)
            self._cut_torn_line()
            exists = self.path.exists()
            read = [complete_row(row, where) for where, row in read_jsonl(self.path)] if exists else []
            self.rows: dict[str, dict[str, Any]] = {row["id"]: row for row in read}
            self._file: BinaryIO = self.path.open("ab", buffering=0)
        except BaseException:
            self._lock.release()
            raise

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write finished rows, whole lines only, and hand them to the disk.

        Raises:
            OSError: the disk is full, say; what was written before stays whole.
        """
        listed = list(rows)
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in listed).encode()
        size = os.fstat(self._file.fileno()).st_size
        try:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:]) or 0
            os.fsync(self._file.fileno())
        except OSError as error:
            os.ftruncate(self._file.fileno(), size)
            raise OSError(
                error.errno,
                f"could not write to {self.path} ({error.strerror}); the {len(self.rows)} pairs written before are safe",
            ) from error
        self.rows.update((row["id"], row) for row in listed)

    def close(self) -> None:
        """Give up the file and the lock."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _check_settings(self, settings: dict[str, Any]) -> None:
        beside = self.path.with_suffix(".settings.json")
        wanted = json.loads(json.dumps(settings))
        if self.path.exists() and self.path.stat().st_size > 0:
            if not beside.is_file():
                raise ValueError(
                    f"{self.path} exists but {beside.name} does not, so its rows cannot be told from another run's; "
                    "give another path."
                )
            found = json.loads(beside.read_text(encoding="utf-8"))
            if found != wanted:
                names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
                differences = "; ".join(
                    f"{name}: {found.get(name)!r} there, {wanted.get(name)!r} now" for name in names
                )
                raise ValueError(
                    f"{self.path} holds pairs of another run ({differences}). Give another path, or the old settings."
                )
            return
        part = beside.with_suffix(".part")
        part.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
        os.replace(part, beside)

    def _cut_torn_line(self) -> None:
        """A process killed while writing leaves a last line without its newline: it never counted, so drop it."""
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            data = file.read()
            if data and not data.endswith(b"\n"):
                file.truncate(data.rfind(b"\n") + 1)
