"""Storing many rows: tables one after another, in memory while they are few, else in a file that is mapped into memory.

The file lies where `datasets` keeps its own (HF_DATASETS_CACHE, in `distill`). With a key it stays there, and the next process that
asks for the same rows maps it and reads nothing; without one it goes with this process.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import datasets
import pyarrow as pa
from datasets.arrow_writer import ArrowWriter

from distill.pairs.tables import PROMPTS, MixedPrompts, dataset_of, in_schema, merged

IN_MEMORY = 64 * 2**20
_FILE, _SAID = "rows.arrow", "said.txt"


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
        self._folder: Path | None = None
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
        self._grow(table.schema)
        self.rows += table.num_rows
        if self._folder is None:
            self._tables.append(table)
            self._bytes += table.nbytes
            if self._bytes < self._most:
                return
            self._folder = _folder_of(self._key)
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
            part = self._folder / f"{os.getpid()}.whole"
            with _writer(part, self._schema) as writer:
                for one in self._parts:
                    for batch in _batches(one):
                        writer.write_table(in_schema(batch, self._schema))
                    one.unlink()
                writer.finalize()
        (self._folder / _SAID).write_text(said, encoding="utf-8")
        os.replace(part, self._folder / _FILE)
        return datasets.Dataset.from_file(str(self._folder / _FILE))

    def _grow(self, schema: pa.Schema) -> None:
        if self._schema is None:
            self._schema = schema
            return
        for name in PROMPTS:
            kinds = {pa.types.is_string(s.field(name).type) for s in (self._schema, schema) if name in s.names}
            if len(kinds) > 1:
                raise MixedPrompts(name)
        grown = merged(self._schema, schema)
        if grown != self._schema:
            self._close()
            self._schema = grown

    def _write(self, table: pa.Table) -> None:
        assert self._schema is not None, "a table was added"
        assert self._folder is not None, "and there are many"
        if self._writer is None:
            self._parts.append(self._folder / f"{os.getpid()}.{len(self._parts)}")
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


def _folder_of(key: str | None) -> Path:
    try:
        _root().mkdir(parents=True, exist_ok=True)
        if key is not None:
            (_root() / key).mkdir(exist_ok=True)
            return _root() / key
        made = Path(tempfile.mkdtemp(dir=_root()))
    except OSError:  # no home, or one that cannot be written to
        made = Path(tempfile.mkdtemp(prefix="distill-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def _writer(path: Path, schema: pa.Schema) -> ArrowWriter:
    return ArrowWriter(path=str(path), features=datasets.Features.from_arrow_schema(schema))


def _batches(path: Path) -> list[pa.Table]:
    table = datasets.Dataset.from_file(str(path)).data.table
    return [pa.Table.from_batches([batch]) for batch in table.to_batches()]
