"""Writing shards: rows are gathered, and written by a thread while the teacher goes on."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from distill.signals.shards import Row, next_number, shard_name, write_shard

SHARD_BYTES, SHARD_SECONDS = 2**26, 60.0  # a shard is written when it has so many, or is so old


class ShardWriter:
    """Rows into shards: gathered until there are enough of them, and written by a thread while the teacher goes on.

    A shard holds whole batches, so a capture that goes on after a kill runs the very batches that are missing, and ends with the
    same bytes.

    Args:
        folder: that `signal_folder.begin` has made.
        place: of this process.
        whose: the word of the folder (`signal_folder.whose`).

    Attributes:
        written: names of the shards.
    """

    def __init__(self, folder: Path, place: int, whose: str = "") -> None:
        self._folder, self._place, self._whose = folder, place, whose
        self._number = next_number(folder, place)
        self._thread = ThreadPoolExecutor(1, "shards")
        self._writing: Future[None] | None = None
        self._failed = False
        self.written: list[str] = []
        self._begin()

    def add(self, rows: list[Row]) -> None:
        """The rows of a batch.

        Raises:
            OSError: an earlier shard could not be written.
        """
        if not self._rows:
            self._begun = time.monotonic()
        self._rows += rows
        self._bytes += sum(row.blob.size for row in rows)
        if self._bytes >= SHARD_BYTES or time.monotonic() - self._begun >= SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is gathered, as soon as the last shard is on the disk."""
        self._wait()
        if self._rows:
            path = self._folder / shard_name(self._place, self._number)
            self._writing = self._thread.submit(write_shard, path, self._rows, self._whose)
            self.written.append(path.name)
            self._number += 1
            self._begin()

    def _begin(self) -> None:
        self._rows: list[Row] = []
        self._bytes, self._begun = 0, time.monotonic()

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            try:
                writing.result()
            except BaseException:
                self._failed = True
                raise

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, at: Any) -> None:
        try:
            # whatever else it was (Ctrl-C, a pair that cannot be read, a server that went), what is done is kept
            if not self._failed:
                self.flush()
                self._wait()
        finally:
            self._thread.shutdown()
