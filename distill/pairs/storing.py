"""Storing many rows: tables one after another, in memory while they are few, else in a file that is mapped into memory.

The file lies where `datasets` keeps its own (HF_DATASETS_CACHE, in `distill`). With a key it stays there, and the next process that
asks for the same rows maps it and reads nothing; without one it goes with this process. What is being written has a folder of its own, whose
name no other process of any machine has, and which its process holds a lock on: what a killed one left is removed by the next on that machine.
"""

import atexit
import os
import re
import shutil
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets.arrow_writer import ArrowWriter
from filelock import FileLock, Timeout

from distill.pairs.tables import EXACT, PROMPTS, MixedPrompts, dataset_of, in_schema, merged

IN_MEMORY = 64 * 2**20
_FILE, _SAID, _LOCK = "rows.arrow", "said.txt", "lock"


class Store:
    """Tables that become one dataset, whatever their columns: a type grows to hold all values (`tables.wider`).

    Args:
        key: names the rows for the processes to come; None: they are for this one.
        in_memory: bytes from which on they go to a file.

    Example:
        >>> store = Store()
        >>> store.add(table_of(rows))
        >>> store.dataset()
    """

    def __init__(self, key: str | None = None, in_memory: int = IN_MEMORY) -> None:
        self.rows, self._bytes, self._most = 0, 0, in_memory
        self._key, self._tables = key, list[pa.Table]()
        self._schema: pa.Schema | None = None
        self._beyond = frozenset[str]()  # columns with integers that no float can hold
        self._folder: _Folder | None = None
        self._parts: list[Path] = []
        self._writer: ArrowWriter | None = None

    def add(self, table: pa.Table) -> None:
        """Add some rows.

        Raises:
            ValueError: messages among prompts that are text, or the other way round.
            OSError: the disk is full, say.
        """
        if not table.num_rows:
            return
        self._grow(table)
        self.rows += table.num_rows
        if self._folder is None:
            self._tables.append(table)
            self._bytes += table.nbytes
            if self._bytes < self._most:
                return
            self._folder = _Folder()
            waiting, self._tables = self._tables, []
        else:
            waiting = [table]
        for one in waiting:
            self._write(one)

    def dataset(self, said: str = "") -> datasets.Dataset:
        """All rows, in their order.

        Args:
            said: kept beside rows that have a key, for `stored`.
        """
        assert self._schema is not None, "an empty store is told by whoever knows its name"
        if self._folder is None:
            return dataset_of([in_schema(table, self._schema) for table in self._tables])
        self._close()
        part = self._parts[0]
        if len(self._parts) > 1:  # types have grown on the way
            part = self._folder.path / "whole"
            with _writer(part, self._schema) as writer:
                for one in self._parts:
                    for batch in _batches(one):
                        writer.write_table(in_schema(batch, self._schema))
                    one.unlink()
                writer.finalize()
        return datasets.Dataset.from_file(str(self._folder.keep(part, said, self._key)))

    def _grow(self, table: pa.Table) -> None:
        schema = table.schema
        self._beyond |= _beyond_floats(table)
        if self._schema is None:
            self._schema = schema
            return
        for name in PROMPTS:
            kinds = {pa.types.is_string(s.field(name).type) for s in (self._schema, schema) if name in s.names}
            if len(kinds) > 1:
                raise MixedPrompts(name)
        grown = merged(self._schema, schema, self._beyond)
        if grown != self._schema:
            self._close()
            self._schema = grown

    def _write(self, table: pa.Table) -> None:
        assert self._schema is not None, "a table was added"
        assert self._folder is not None, "and there are many"
        if self._writer is None:
            self._parts.append(self._folder.path / str(len(self._parts)))
            self._writer = _writer(self._parts[-1], self._schema)
        self._writer.write_table(in_schema(table, self._schema))

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.finalize()
            self._writer = None


def stored(key: str) -> tuple[datasets.Dataset, str] | None:
    """The rows that a process before kept under this key, and what was said of them; None if there are none."""
    folder = _root() / key
    try:
        return datasets.Dataset.from_file(str(folder / _FILE)), (folder / _SAID).read_text(encoding="utf-8")
    except (OSError, pa.ArrowException):
        return None


def _root() -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE) / "distill"


class _Folder:
    """A folder that one process writes in, beside those of others."""

    def __init__(self) -> None:
        try:
            _root().mkdir(parents=True, exist_ok=True)
            _sweep(_root())
            self.path = _root() / f"{_here()}{uuid4().hex}"
            self.path.mkdir()
        except OSError:  # no home, or one that cannot be written to
            self.path = Path(tempfile.mkdtemp(prefix="distill-"))
        self._lock = FileLock(self.path / _LOCK)
        with suppress(OSError, NotImplementedError):  # a disk without locks: then nobody removes anything
            self._lock.acquire(timeout=0)
        atexit.register(self._remove)

    def keep(self, part: Path, said: str, key: str | None) -> Path:
        """Where the rows stay: under their key, whole or not at all, or here as long as this process."""
        if key is None or self.path.parent != _root():
            os.replace(part, self.path / _FILE)
            return self.path / _FILE
        kept = _root() / key
        kept.mkdir(exist_ok=True)
        told = self.path / _SAID
        told.write_text(said, encoding="utf-8")
        os.replace(told, kept / _SAID)  # first: rows that are there have been told of
        os.replace(part, kept / _FILE)
        self._remove()
        return kept / _FILE

    def _remove(self) -> None:
        with suppress(OSError):
            self._lock.release()
        shutil.rmtree(self.path, ignore_errors=True)


def _here() -> str:
    return "writing-" + re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname()) + "-"


def _sweep(root: Path) -> None:
    """Remove what killed processes of this machine left; locks say who lives, and those of other machines may not be seen from here."""
    for folder in root.glob(f"{_here()}*"):
        if not (folder / _LOCK).exists():
            continue  # just made
        lock = FileLock(folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError, NotImplementedError):
            continue
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def _beyond_floats(table: pa.Table) -> frozenset[str]:
    """Columns of integers, or of lists of them, of which a float would round some."""
    found = set()
    for field in table.schema:
        column = table[field.name]
        flat = (
            pc.list_flatten(column)
            if pa.types.is_list(field.type) and pa.types.is_integer(field.type.value_type)
            else column
        )
        if pa.types.is_integer(flat.type) and flat.type.bit_width == 64 and len(flat):
            ends = pc.min_max(flat).as_py()
            if ends["min"] is not None and (ends["min"] < -EXACT or ends["max"] > EXACT):
                found.add(field.name)
    return frozenset(found)


def _writer(path: Path, schema: pa.Schema) -> ArrowWriter:
    return ArrowWriter(path=str(path), features=datasets.Features.from_arrow_schema(schema))


def _batches(path: Path) -> list[pa.Table]:
    table = datasets.Dataset.from_file(str(path)).data.table
    return [pa.Table.from_batches([batch]) for batch in table.to_batches()]
