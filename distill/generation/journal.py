"""An append-only JSONL file of finished pairs that survives interruption at any moment.

Beside `pairs.jsonl` lie `pairs.jsonl.settings.json`, which says whose rows these are, and `pairs.jsonl.lock`. Every line ends with a
checksum of its own (see `distill.basics.jsonl`).
"""

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from distill.basics.disk import make_folder, sync_folder, write_all
from distill.basics.jsonl import parse_line, sealed_line
from distill.generation.journal_rows import JournalRows
from distill.generation.journal_settings import check_settings
from distill.pairs.schema import complete_row

SYNC_SECONDS = 0.02


class Journal:
    """Rows of one generation run, on disk as soon as they are finished.

    Opening it reads what an earlier run left, cuts off a torn last line, and takes a lock. A small file beside it
    (`pairs.jsonl.settings.json`) says which settings its rows belong to; rows of other settings are never mixed in.

    An appended row is in the hands of the operating system when `append` returns, so that no end of this process can
    lose it. It is on the disk itself at most `sync_seconds` and one flush of the disk later: only a power cut in between
    can lose it, and then it is asked for again. The rows that arrive within this time share one flush.

    Args:
        path: the JSONL file; its folder is made.
        settings: plain values that decide the rows (teacher, sampling); compared with those on disk.
        incidental: plain values that decide nothing (where the teacher is reached), for the record: not compared; of a list
            every value is kept that ever was in it.
        sync_seconds: longest wait before rows are flushed to the disk; 0 flushes every append before it returns.

    Attributes:
        rows: those there are, by id.
        torn: bytes of a torn last line that was cut off, 0 without one.

    Raises:
        ValueError: the file holds rows of other settings or of another version, is damaged before its last line, or
            another process has it.
        OSError: the disk is full, say.

    Example:
        >>> with Journal("runs/demo/pairs.jsonl", {"teacher": "smollm2-135m", "seed": 0}) as journal:
        ...     journal.append([row])
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: dict[str, Any],
        *,
        incidental: Mapping[str, Any] | None = None,
        sync_seconds: float = SYNC_SECONDS,
    ) -> None:
        # a link is followed first: two names of one file must find the same lock
        self.path = Path(path).resolve() if Path(path).is_symlink() else Path(path)
        if self.path.is_dir():
            raise ValueError(f"{self.path} is a folder; give the path of a .jsonl file.")
        make_folder(self.path.parent)
        self._lock = FileLock(f"{self.path}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"{self.path} is being written by another process; wait for it or give another path."
            ) from None
        try:
            check_settings(self.path, settings, dict(incidental or {}))
            if not self.path.exists():
                self.path.touch()
                sync_folder(self.path.parent)
            self.rows = JournalRows(self.path)
            self._end = self._safe = self.rows.end
            self.torn = self.path.stat().st_size - self._end
            if self.torn:
                os.truncate(self.path, self._end)  # a torn last line never counted
            self._file: BinaryIO = self.path.open("ab", buffering=0)
        except BaseException:
            self._lock.release()
            raise
        self._closed = False
        self._sync_seconds = sync_seconds
        self._guard = threading.Lock()
        self._unsynced, self._closing = threading.Event(), threading.Event()
        self._syncer: threading.Thread | None = None
        self._sync_error: OSError | None = None

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write finished rows, all of them as whole lines or none; a row that is there already is not written again.

        May be called from several threads.

        Raises:
            ValueError: a row that is no pair, or one that differs from a row with the same id; nothing was written.
            OSError: the disk is full, say; what was written before stays whole, and a later run goes on from there.
        """
        with self._guard:
            lines = self._lines_of(rows)
            if not lines:
                return
            if self._sync_error:
                raise self._give_up(self._sync_error)
            self._check_untouched()
            try:
                write_all(self._file, b"".join(lines.values()))
                end = self._end
                for key, line in lines.items():
                    self.rows.add(key, end, len(line))
                    end += len(line)
                self._end = end
            except BaseException as error:  # also Ctrl-C: whoever catches it may append again
                self.rows.forget_from(self._end)
                os.ftruncate(self._file.fileno(), self._end)
                if isinstance(error, OSError):
                    raise self._unwritten(error) from error
                raise
        self._request_sync()

    def flush(self) -> None:
        """All rows so far are on the disk itself when this returns.

        Raises:
            OSError: the disk could not take them.
        """
        self._sync()
        if self._sync_error:
            with self._guard:
                raise self._give_up(self._sync_error)

    def close(self) -> None:
        """Flush what is not on the disk yet, give up the file and the lock.

        Raises:
            OSError: the disk could not take the last rows.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._closing.set()
            self._unsynced.set()
            if self._syncer:
                self._syncer.join()
            if self._sync_error:
                raise self._give_up(self._sync_error)
        finally:
            self._file.close()
            self._lock.release()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _lines_of(self, rows: Iterable[dict[str, Any]]) -> dict[str, bytes]:
        """The lines of the rows that are not there yet, checked: what could not be read again is not written."""
        lines: dict[str, bytes] = {}
        for given in rows:
            row = complete_row(given, f"The pair {given.get('id')!r}")
            line, key = sealed_line(row), row["id"]
            there = lines.get(key) or (self.rows.line(key) if key in self.rows else None)
            if there is None:
                lines[key] = line
            elif there != line and complete_row(parse_line(there, key), key) != row:
                raise ValueError(f"The pair {key} is in {self.path} already, with another content.")
        return lines

    def _check_untouched(self) -> None:
        found = os.fstat(self._file.fileno())
        if found.st_size != self._end or found.st_nlink == 0:
            raise ValueError(
                f"{self.path} was changed or deleted by another program while it was being written; "
                "start again, and leave the file alone meanwhile."
            )

    def _request_sync(self) -> None:
        if self._sync_seconds == 0:
            self.flush()
            return
        if self._syncer is None:
            self._syncer = threading.Thread(target=self._keep_syncing, name="journal", daemon=True)
            self._syncer.start()
        self._unsynced.set()

    def _keep_syncing(self) -> None:
        while not self._sync_error and not (self._closing.is_set() and self._safe == self._end):
            self._unsynced.wait()
            self._closing.wait(self._sync_seconds)  # the appends of this time share one flush
            self._unsynced.clear()
            self._sync()

    def _sync(self) -> None:
        with self._guard:
            end = self._end
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self._sync_error = error  # told by the next append, or by close
        else:
            self._safe = end

    def _give_up(self, error: OSError) -> OSError:
        """After a failed flush nobody knows what the disk took: cut back to what it surely has."""
        self.rows.forget_from(self._safe)
        os.ftruncate(self._file.fileno(), self._safe)
        self._end = self._safe
        return self._unwritten(error)

    def _unwritten(self, error: OSError) -> OSError:
        return OSError(
            error.errno,
            f"could not write to {self.path} ({error.strerror}); the {len(self.rows)} pairs written before are safe",
        )
