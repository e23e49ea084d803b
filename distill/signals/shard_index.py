"""Index of all shards of a folder: which pairs are there, and where their bytes lie. 44 bytes a row, for any number of processes."""

import os
import zlib
from collections import OrderedDict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.signals.shards import DamagedShard, Shard, read_at, read_shard, shards_in

_OPEN = 64  # files that are kept open at once


class ShardIndex:
    """The rows of a folder's shards by their keys, as sorted arrays; the bytes stay on the disk until they are asked for.

    A key that is there several times (it was captured again with a larger `max_length`) is the row of the most positions.

    Args:
        folder: with shards.
        damaged: a list that damaged shards are put into; without one they are refused.
        words: of whose shards may lie here (`signal_folder.words_of_shards`); None: nobody asks.

    Attributes:
        paths: of the shards.
        positions: int32 `[rows]`, supervised positions of each row.

    Raises:
        ValueError: a damaged shard, one of another version, or one of another capture, by its name.
        OSError: one that cannot be opened.
    """

    def __init__(
        self, folder: Path, damaged: list[DamagedShard] | None = None, words: Collection[str] | None = None
    ) -> None:
        shards: list[Shard] = []
        self.paths: list[Path] = []
        for path in shards_in(folder):
            try:
                shards.append(read_shard(path))
            except DamagedShard as error:
                if damaged is None:
                    raise
                damaged.append(error)
            else:
                self.paths.append(path)
                if words is not None and shards[-1].whose not in words:
                    raise ValueError(
                        f"{path} is of another capture than the manifest.json beside it: of another teacher, tokenizer or encoding. It was copied here; "
                        "take it away (`distill capture` with the same settings makes what is missing), or put back what was there."
                    )
        counts = [len(shard.positions) for shard in shards]
        keys = _joined([shard.keys for shard in shards], np.uint8).reshape(-1).view("<u8").reshape(-1, 2)
        positions = _joined([shard.positions for shard in shards], np.int32)
        order = np.lexsort((positions, keys[:, 1], keys[:, 0]))
        sorted_keys = keys[order]
        last = np.ones(len(order), bool)
        last[:-1] = (sorted_keys[1:] != sorted_keys[:-1]).any(axis=1)
        order = order[last]
        self._high, self._low = (np.ascontiguousarray(keys[order, half]) for half in (0, 1))
        self.positions = positions[order]
        self._shard = np.repeat(np.arange(len(shards), dtype=np.int32), counts)[order]
        offsets = [shard.starts[:-1] + shard.offset for shard in shards]
        self._start = _joined(offsets, np.int64)[order]
        self._size = _joined([np.diff(shard.starts) for shard in shards], np.int64)[order]
        self._crc = _joined([shard.crc for shard in shards], np.uint32)[order]
        self._files: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def bytes(self) -> int:
        """Of all rows together, on the disk."""
        return int(self._size.sum())

    def find(self, keys: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The row of each of these keys (uint8 `[n, 16]`); -1 where it is not there."""
        wanted = np.ascontiguousarray(keys).reshape(-1).view("<u8").reshape(-1, 2)
        at = np.searchsorted(self._high, wanted[:, 0])
        found = np.full(len(wanted), -1, np.int64)
        open_ = np.arange(len(wanted))
        while len(open_):  # once, but for keys that are equal in their first half
            place = at[open_]
            open_ = open_[place < len(self._high)]
            open_ = open_[self._high[at[open_]] == wanted[open_, 0]]
            same = self._low[at[open_]] == wanted[open_, 1]
            found[open_[same]] = at[open_[same]]
            open_ = open_[~same]
            at[open_] += 1
        return found

    def blobs(self, rows: Sequence[int], names: Sequence[str]) -> list[NDArray[np.uint8]]:
        """The bytes of rows, uint8 each, and what was read is what was written.

        Args:
            rows: numbers that `find` gave.
            names: of their pairs, for messages.

        Raises:
            ValueError: bytes that were changed after they were written; names the shard and the pair.
        """
        found = []
        for row, name in zip(rows, names, strict=True):
            shard = int(self._shard[row])
            data = read_at(self._file(shard), int(self._start[row]), int(self._size[row]))
            if len(data) != self._size[row] or zlib.crc32(data) != self._crc[row]:
                raise DamagedShard(
                    self.paths[shard],
                    f"was changed after it was written: what it holds for {name} has not its checksum",
                )
            found.append(np.frombuffer(data, np.uint8))
        return found

    def _file(self, shard: int) -> int:
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        if len(self._files) >= _OPEN:
            os.close(self._files.popitem(last=False)[1])
        try:
            self._files[shard] = os.open(self.paths[shard], os.O_RDONLY)
        except FileNotFoundError:
            raise ValueError(
                f"{self.paths[shard]} is gone since the folder was opened: moved, removed, or set aside as damaged by a capture. Open the folder anew "
                "(StoredSignals); `distill capture` with the same settings makes what is missing."
            ) from None
        return self._files[shard]

    def __getstate__(self) -> dict[str, Any]:
        """A copy, in this process or another, opens the files for itself: a descriptor that two close is somebody else's by then."""
        return {**self.__dict__, "_files": OrderedDict()}

    def close(self) -> None:
        """Close the files; they are opened again when they are needed."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        if getattr(self, "_files", None):
            self.close()


def _joined(parts: list[NDArray], kind: type) -> NDArray:
    return np.concatenate(parts) if parts else np.zeros(0, kind)
