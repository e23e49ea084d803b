"""An append-only JSONL file of finished pairs that survives interruption at any moment.

Beside `pairs.jsonl` lie `pairs.jsonl.settings.json`, which says whose rows these are, and `pairs.jsonl.lock`. Every line ends with a
checksum of its own (see `distill.basics.jsonl`).
"""

import json
import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from distill.basics.disk import make_folder, sync_folder, write_all, write_durably
from distill.basics.jsonl import is_intact, parse_line, sealed_id, sealed_line
from distill.pairs.schema import COLUMNS, OPTIONAL, complete_row

FORMAT = 2
SYNC_SECONDS = 0.02
INCIDENTAL = "incidental"  # in the file of settings: what decides nothing


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
            self._check_settings(settings, dict(incidental or {}))
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
            self._sync()
            if self._sync_error:
                with self._guard:
                    raise self._give_up(self._sync_error)
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

    def _check_settings(self, settings: dict[str, Any], incidental: dict[str, Any]) -> None:
        beside = settings_file(self.path)
        size = self.path.stat().st_size if self.path.exists() else 0
        if size and not beside.is_file():
            raise ValueError(
                f"{self.path} exists but {beside.name} does not, so its rows cannot be told from another run's; "
                "give another path."
            )
        there = _read_settings(beside) if size else {}
        if size and there.get("journal_format") != FORMAT:
            raise ValueError(
                f"{self.path} is a journal of format {there.get('journal_format', 1)!r}, from another version of distill; this one "
                f"reads {FORMAT}. Give another path (load_pairs reads the rows of any format), or use that version."
            )
        found = {name: value for name, value in there.items() if name != INCIDENTAL}
        wanted = {"journal_format": FORMAT, **json.loads(json.dumps(settings))}
        if found != wanted and size and _has_a_line(self.path):
            absent = "nothing"
            names = [n for n in {**found, **wanted} if found.get(n, absent) != wanted.get(n, absent)]
            differences = "; ".join(
                f"{n}: {found.get(n, absent)!r} there, {wanted.get(n, absent)!r} now" for n in names
            )
            raise ValueError(
                f"{self.path} holds pairs of another run ({differences}). Give another path, or the old settings."
            )
        more = _together(there.get(INCIDENTAL), json.loads(json.dumps(incidental)))
        whole = {**wanted, **({INCIDENTAL: more} if more else {})}
        if whole != there:
            write_durably(settings_file(self.path, old=False), json.dumps(whole, indent=1))


def settings_file(path: Path, old: bool = True) -> Path:
    """Where the settings of a journal lie: beside it, under its whole name.

    Args:
        path: of the journal.
        old: also under the name that earlier versions gave it, without the ending, if only that one is there.
    """
    beside, earlier = path.with_name(f"{path.name}.settings.json"), path.with_suffix(".settings.json")
    return earlier if old and path.suffix == ".jsonl" and earlier.is_file() and not beside.exists() else beside


def settings_there(path: str | os.PathLike[str] | None) -> dict[str, Any]:
    """The settings of a journal that is there already; nothing without one."""
    beside = None if path is None else settings_file(Path(path).resolve())
    return _read_settings(beside) if beside is not None and beside.is_file() else {}


def _together(before: Any, now: dict[str, Any]) -> dict[str, Any]:
    """What is incidental, of all calls: of lists every value, of the rest the last."""
    found = dict(before) if isinstance(before, dict) else {}
    for name, value in now.items():
        earlier = found.get(name)
        if isinstance(value, list) and isinstance(earlier, list):
            value = [*earlier, *(one for one in value if one not in earlier)]
        found[name] = value
    return found


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}), so nobody knows whose rows lie beside it.") from None
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} holds a {type(found).__name__}, not settings, so nobody knows whose rows lie beside it."
        )
    return found


def _has_a_line(path: Path) -> bool:
    """Whether there is a whole line."""
    with path.open("rb") as file:
        return file.readline().endswith(b"\n")


class JournalRows(Mapping[str, dict[str, Any]]):
    """The rows of a journal by id, read from the file when they are asked for: memory holds only where each one lies.

    A sealed line whose checksum agrees is not parsed until then; any other line is parsed and checked at once.

    Args:
        path: the journal.

    Raises:
        ValueError: a line that is no row of a journal, or two rows with one id and different contents.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._at, self.end = path, dict[str, tuple[int, int]](), 0
        self._file, self._guard = path.open("rb", buffering=0), threading.Lock()
        weakref.finalize(self, self._file.close)  # rows are still asked for when the journal is closed
        with path.open("rb", buffering=2**20) as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                if not line.isspace():
                    self._read(line, f"{path}:{number}")
                self.end += len(line)

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._row_of(self.line(key), f"{self._path}: the pair {key}", self._at[key][0])

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, key: object) -> bool:
        return key in self._at

    def line(self, key: str) -> bytes:
        """The bytes of a row's line."""
        offset, length = self._at[key]
        with self._guard:
            self._file.seek(offset)
            return self._file.read(length)

    def add(self, key: str, offset: int, length: int) -> None:
        """A row was written there."""
        self._at[key] = (offset, length)

    def forget_from(self, end: int) -> None:
        """The file ends there; rows beyond are gone."""
        self._at = {key: at for key, at in self._at.items() if at[0] < end}

    def _read(self, line: bytes, where: str) -> None:
        key = sealed_id(line) if is_intact(line) else None
        row = None if key else self._row_of(line, where, self.end)
        key = key or str(row and row["id"])
        if key not in self._at:
            self.add(key, self.end, len(line))
            return
        if self.line(key) != line and self[key] != (row or self._row_of(line, where, self.end)):
            raise ValueError(
                f"{where}: a second row with the id {key}, with another content than the first; remove one of them."
            )

    def _row_of(self, line: bytes, where: str, offset: int) -> dict[str, Any]:
        row = parse_line(line, where, first=offset == 0, sealed=True)
        strange = row.keys() - {*COLUMNS, *OPTIONAL} | set(COLUMNS) - row.keys()
        if strange:
            raise ValueError(
                f"{where}: not a line that a journal wrote (see {', '.join(sorted(strange)):.60}); remove it, and its pair "
                "is asked for again."
            )
        return complete_row(row, where)
