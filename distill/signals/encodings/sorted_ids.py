"""Sorted tokens in few bits: a fixed number of tokens a position, whose order says nothing, in the same number of bytes each.

Elias and Fano: the low bits of each token as they are, of the high ones how far each goes beyond the last, in unary. 32 tokens take 50 bytes
of a vocabulary of 49,152 and 57 of one of 151,936, where two and three bytes a token were 64 and 96.

Source: Elias 1974, Fano 1971.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray


class SortedIds:
    """Rows of `count` tokens below `vocabulary`, in ascending order; some may be equal.

    Args:
        vocabulary: at most 2^24.
        count: tokens a row.

    Raises:
        ValueError: a larger vocabulary.
    """

    def __init__(self, vocabulary: int, count: int) -> None:
        if vocabulary > 2**24:
            raise ValueError(f"The vocabulary has {vocabulary:,} tokens; stored tokens can be of {2**24:,} at most.")
        self.vocabulary, self.count = vocabulary, count
        self.low = max(0, (vocabulary // max(count, 1)).bit_length() - 1)
        self._low_bytes = -(-count * self.low // 8)
        self._high_bytes = -(-(count + (max(vocabulary - 1, 0) >> self.low)) // 8)

    @property
    def bytes(self) -> int:
        """Of a row."""
        return self._low_bytes + self._high_bytes

    def pack(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """`[n, bytes]` uint8 of `[n, count]`."""
        low = (ids[:, :, None] >> np.arange(self.low) & 1).astype(np.uint8)
        high = np.zeros((len(ids), 8 * self._high_bytes), np.uint8)
        np.put_along_axis(high, (ids >> self.low) + np.arange(self.count), 1, axis=1)
        both = low.reshape(len(ids), self.count * self.low), high
        return np.concatenate([np.packbits(bits, axis=1, bitorder="little") for bits in both], axis=1)

    def unpack(self, rows: NDArray[np.uint8]) -> NDArray[np.int64]:
        """`[n, count]` of what `pack` gave.

        Raises:
            ValueError: it gave something else.
        """
        bits = np.unpackbits(rows[:, self._low_bytes :], axis=1, bitorder="little")
        places = bits.nonzero()[1]
        if len(places) != len(rows) * self.count:
            raise ValueError(
                f"Stored tokens of {len(rows)} positions are not {self.count} each: their bytes were changed."
            )
        ids = (places.reshape(len(rows), self.count) - np.arange(self.count)) << self.low
        if self.low:
            first, shift = self._where
            low = np.pad(rows[:, : self._low_bytes], ((0, 0), (0, 3))).astype(np.int64)
            word = low[:, first] | low[:, first + 1] << 8 | low[:, first + 2] << 16 | low[:, first + 3] << 24
            ids |= word >> shift & (1 << self.low) - 1
        return ids

    @cached_property
    def _where(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """In which byte the low bits of each token begin, and at which of its bits."""
        begin = np.arange(self.count) * self.low
        return begin // 8, begin % 8
