"""Where given word sequences occur in many texts: a trie walked by all positions of all texts at once, in numpy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class PhraseIndex:
    """Finds phrases (word sequences of any lengths) in texts, exactly.

    The trie is kept as one sorted array of `state * words + word` a level; a level is one `searchsorted` over the
    positions that are still alive, and after two words few are. So the time is that of splitting the texts into words.

    Args:
        phrases: words of each; the same phrase may be given several times. None may be empty.
    """

    def __init__(self, phrases: Sequence[Sequence[str]]) -> None:
        self.number: dict[str, int] = {}
        rows = [[self.number.setdefault(word, len(self.number) + 1) for word in phrase] for phrase in phrases]
        self.lengths = np.array([len(row) for row in rows], dtype=np.int64)
        assert self.lengths.all(), "an empty phrase is everywhere"
        longest = int(self.lengths.max(initial=0))
        table = np.zeros((len(rows), longest), dtype=np.int64)
        for i, row in enumerate(rows):
            table[i, : len(row)] = row
        self.base = len(self.number) + 1
        self.levels: list[NDArray[Any]] = []
        self.ends: list[tuple[NDArray[Any], NDArray[Any]]] = []  # states where phrases end, and those phrases
        alive, state = np.arange(len(rows)), np.zeros(len(rows), dtype=np.int64)
        for level in range(longest):
            keys, state = np.unique(state * self.base + table[alive, level], return_inverse=True)
            self.levels.append(keys)
            ending = self.lengths[alive] == level + 1
            order = np.argsort(state[ending], kind="stable")
            self.ends.append((state[ending][order], alive[ending][order]))
            alive, state = alive[~ending], state[~ending]

    def find(self, texts: Sequence[Sequence[str]]) -> tuple[NDArray[Any], NDArray[Any]]:
        """`(text, phrase)`, two int arrays of equal length: one entry for each occurrence."""
        get = self.number.get
        lengths = np.array([len(text) + 1 for text in texts], dtype=np.int64)
        numbers: list[int] = []
        for text in texts:
            numbers.extend([get(word, 0) for word in text])
            numbers.append(0)  # no phrase holds it: none reaches from one text into the next
        flat = np.array(numbers, dtype=np.int64)
        text_of = np.repeat(np.arange(len(texts)), lengths)
        at, state = np.flatnonzero(flat), np.zeros(int((flat != 0).sum()), dtype=np.int64)
        found: list[tuple[NDArray[Any], NDArray[Any]]] = []
        for level, (keys, (states, phrases)) in enumerate(zip(self.levels, self.ends, strict=True)):
            wanted = state * self.base + flat[at + level]
            place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            hit = (keys[place] == wanted) & (flat[at + level] != 0)
            at, state = at[hit], place[hit]
            if not len(states):
                continue
            first, last = np.searchsorted(states, state), np.searchsorted(states, state, side="right")
            count = last - first
            if count.any():
                # entries first .. last - 1 of each position, one after another
                offsets = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
                found.append((np.repeat(text_of[at], count), phrases[np.repeat(first, count) + offsets]))
        if not found:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        return np.concatenate([texts for texts, _ in found]), np.concatenate([entries for _, entries in found])
