"""Alignment of two tokenizers: where one token of each covers the very same bytes, and which tokens both know."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.basics.fingerprint import fingerprint
from distill.text.token_bytes import TokenBytes

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class SharedTokens:
    """The tokens that two vocabularies have in common; all others of a side are its rest.

    Args:
        student, teacher: `[S]` int64: the same token in both, in the order of the student's ids; none stands twice on a side.
        sizes: tokens of the two tokenizers, without what their heads are padded with.
    """

    student: Ids
    teacher: Ids
    sizes: tuple[int, int]

    def __len__(self) -> int:
        return len(self.student)

    def within(self, student: int, teacher: int) -> "SharedTokens":
        """Those that both heads, of so many rows, have."""
        both = (self.student < student) & (self.teacher < teacher)
        return SharedTokens(self.student[both], self.teacher[both], self.sizes)

    def described(self) -> dict[str, Any]:
        """What a run is held against when it is resumed, as plain values."""
        pairs = fingerprint([self.student.tolist(), self.teacher.tolist()])
        return {"shared": len(self), "tokens": list(self.sizes), "pairs": pairs}


def shared_tokens(student: TokenBytes, teacher: TokenBytes) -> SharedTokens:
    """Pair the tokens of two vocabularies.

    Ends are paired with ends, whatever they are called: that of a turn with that of a turn, then that of a text. Other control tokens
    are the same where they are called the same and are control tokens in both; they never are a text's bytes. All others are the same
    where their bytes are. Where a vocabulary has several tokens of the same bytes (`A` and `<0x41>`), the first in the order of
    their names, bytes by name last, is paired with the other's first, the second with the second.

    Args:
        student, teacher: both vocabularies.
    """
    pairs = {} if not (student.ends and teacher.ends) else {student.ends[0]: teacher.ends[0]}
    if len(student.ends) > 1 and len(teacher.ends) > 1:
        pairs[student.ends[1]] = teacher.ends[1]
    taken = set(pairs.values())
    for name, number in student.control.items():
        if number not in pairs and (other := teacher.control.get(name)) is not None and other not in taken:
            pairs[number] = other
            taken.add(other)
    ours, theirs = _by_bytes(student), _by_bytes(teacher)
    for said, numbers in ours.items():
        if said in theirs:
            pairs.update(zip(numbers, theirs[said], strict=False))
    order = sorted(pairs)
    return SharedTokens(
        np.asarray(order, np.int64),
        np.asarray([pairs[number] for number in order], np.int64),
        (len(student), len(teacher)),
    )


def _by_bytes(side: TokenBytes) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = defaultdict(list)
    for number, said in enumerate(side.of):
        if said:
            found[said].append(number)
    several = [numbers for numbers in found.values() if len(numbers) > 1]
    if several:
        names = side.tokenizer.convert_ids_to_tokens([number for numbers in several for number in numbers])
        called = dict(zip((number for numbers in several for number in numbers), names, strict=True))
        for numbers in several:
            numbers.sort(key=lambda number: (number in side.fallback, called[number]))
    return found


def one_to_one(ours: Ids, theirs: Ids) -> tuple[Ids, Ids]:
    """Where one token of each side covers the very same bytes.

    Between two neighbouring borders that both sides have, one token of each stands there, and what stands before them is the same text.

    Args:
        ours, theirs: bytes of each token, `[n]` and `[m]`, above 0, from the same place of the same text on. One of them may end before the other.

    Returns:
        Places in the first and in the second, `[a]` each.

    Example:
        >>> one_to_one(np.array([3, 4, 2]), np.array([3, 1, 3, 2]))
        (array([0, 2]), array([0, 3]))
    """
    ends, others = ours.cumsum(), theirs.cumsum()
    place = np.searchsorted(others, ends)
    found = np.flatnonzero(place < len(others))
    found = found[others[place[found]] == ends[found]]  # both end here
    at = place[found]
    same = ours[found] == theirs[at]  # and have begun together
    return found[same], at[same]
