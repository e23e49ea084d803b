"""Rows of a teacher: what it is shown of each pair, which of it is stored, and in which batches it is run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distill.pairs.batches import batches, flat
from distill.pairs.packing import PackedPairs
from distill.pairs.row_limits import RowLimits
from distill.pairs.signal_keys import SIZE, digest
from distill.pairs.teachers_tokens import check_teachers_tokens

COLUMNS = ("prompt_ids", "completion_ids", "loss_mask", "teacher_prompt_ids", "id")
_IDS = datasets.List(datasets.Value("int64"))
FEATURES = datasets.Features({**dict.fromkeys(COLUMNS[:-1], _IDS), "id": datasets.Value("string")})
WINDOW = 4096  # pairs that are sorted by length together


@dataclass(frozen=True)
class Rows:
    """Pairs as a teacher is shown them.

    Args:
        keys: uint8 `[n, 16]`; see `distill.pairs.signal_keys`.
        positions: int32 `[n]`, supervised positions of each.
        lengths: int32 `[n]`, tokens of the teacher's row.
    """

    keys: NDArray[np.uint8]
    positions: NDArray[np.int32]
    lengths: NDArray[np.int32]

    def distinct(self) -> NDArray[np.bool_]:
        """`[n]`: one of all that have one key, that of the most positions."""
        halves = self.keys.reshape(-1).view("<u8").reshape(-1, 2)
        order = np.lexsort((-self.positions, halves[:, 1], halves[:, 0]))
        ordered, chosen = halves[order], np.zeros(len(order), bool)
        first = np.ones(len(order), bool)
        first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        chosen[order[first]] = True
        return chosen


@dataclass(frozen=True)
class _Table:
    """A table of pairs, taken apart: for each column its ids one behind the other, and where each row begins."""

    ids: dict[str, NDArray[Any]]
    starts: dict[str, NDArray[np.int64]]
    shown: NDArray[np.bool_]  # the teacher was shown a prompt of its own
    masked: NDArray[np.bool_]  # the pair has a loss_mask
    names: list[str]

    def of(self, column: str, row: int) -> NDArray[Any]:
        starts = self.starts[column]
        return self.ids[column][starts[row] : starts[row + 1]]

    def prompts(self, row: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """What the student and what the teacher is shown."""
        own = self.of("prompt_ids", row)
        return own, self.of("teacher_prompt_ids", row) if self.shown[row] else own

    def mask(self, row: int) -> NDArray[Any] | None:
        """Which tokens of the whole completion carry loss, 0 or 1; None: all. A token that nothing precedes carries none."""
        size = int(self.starts["completion_ids"][row + 1] - self.starts["completion_ids"][row])
        mask = self.of("loss_mask", row) if self.masked[row] else None
        if self.shown[row] and self.starts["prompt_ids"][row] == self.starts["prompt_ids"][row + 1]:
            mask = np.ones(size, np.uint8) if mask is None else mask.copy()
            mask[:1] = 0
        return mask


def rows_of(pairs: Any, max_length: int | None, limits: RowLimits, doing: str = "") -> Rows:
    """What a teacher is shown of each pair.

    Args:
        pairs: see `distill.pairs.columns`.
        max_length: of the training: longest row of the student in tokens; what is cut off there is not stored.
        limits: of the teacher, for its own rows; `whose` it is called in messages.
        doing: what a progress bar says, if it takes long.

    Raises:
        ValueError: no pairs; a pair without ids, without any token to learn from, with a teacher's prompt in words alone, or beyond the
            limits (its id is named).
    """
    dataset = check_pairs(pairs)
    check_teachers_tokens(dataset, "the pairs")
    keys, first = np.zeros((len(dataset), SIZE), np.uint8), 0
    positions, lengths = (np.zeros(len(dataset), np.int32) for _ in range(2))
    for table in batches(dataset, _columns(dataset), doing):
        taken = _take_apart(table, range(first, first + len(table)))
        _check_ids(taken, limits)
        for row in range(len(taken.names)):
            own, shown = taken.prompts(row)
            completion, mask = taken.of("completion_ids", row), taken.mask(row)
            if mask is not None and len(mask) != len(completion):
                raise ValueError(
                    f"Pair {taken.names[row]}: loss_mask has {len(mask)} places, but its completion has {len(completion)} tokens; it "
                    "needs one 0 or 1 for each."
                )
            kept = len(completion) if max_length is None else min(len(completion), max(0, max_length - len(own)))
            number = kept if mask is None else int(mask[:kept].sum())
            # nothing precedes the first token of a row
            number -= bool(not len(shown) and kept and (mask is None or mask[0]))
            if number < 1 or (not len(shown) and len(own)):
                raise ValueError(_no_use(taken, row, len(own), len(shown), len(completion), max_length))
            length = len(shown) + kept
            if limits.positions is not None and length > limits.positions:
                raise ValueError(_too_long(taken, row, len(shown), kept, limits))
            whole = mask is None or bool(mask.all())
            keys[first + row] = np.frombuffer(digest(shown, completion, None if whole else mask), np.uint8)
            positions[first + row], lengths[first + row] = number, length
        first += len(taken.names)
    return Rows(keys, positions, lengths)


def check_pairs(pairs: Any) -> datasets.Dataset:
    """The pairs as a dataset.

    Raises:
        ValueError: something else.
    """
    found = pairs.pairs if isinstance(pairs, PackedPairs) else pairs
    way = "distill.load_pairs(path, tokenizer) reads pairs, and distill.generate makes them."
    if not isinstance(found, datasets.Dataset):
        raise ValueError(f"These are no pairs but a {type(found).__name__}; {way}")
    if missing := [name for name in COLUMNS[:2] if name not in found.column_names]:
        raise ValueError(
            f"These are no pairs: there is no column {' and '.join(missing)} (they have {', '.join(found.column_names)}); {way}"
        )
    if not len(found):
        raise ValueError("There are no pairs.")
    return found


def layout(lengths: NDArray[np.int32], batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """The numbers of the pairs of each batch: as many rows of like lengths as fit, with their padding, into so many tokens.

    Pairs of a window are sorted by length, the longest first; windows stay in the order of the pairs. A row that is longer than a batch may be
    has one of its own.
    """
    for begin in range(0, len(lengths), WINDOW):
        order = begin + np.argsort(-lengths[begin : begin + WINDOW], kind="stable")
        first = 0
        while first < len(order):
            count = max(1, batch_tokens // max(1, int(lengths[order[first]])))
            yield order[first : first + count]
            first += count


def as_tables(pairs: datasets.Dataset) -> datasets.Dataset:
    """The pairs, of which `teachers_pairs` reads some."""
    return pairs.select_columns(_columns(pairs)).with_format("arrow")


def teachers_pairs(
    tables: datasets.Dataset, numbers: NDArray[np.int64], max_length: int | None
) -> list[dict[str, Any]]:
    """Some pairs as a collator makes the teacher's rows of them: its prompt, the tokens that `max_length` leaves, and which carry loss."""
    taken, made = _take_apart(tables[numbers.tolist()], numbers.tolist()), []
    for row, name in enumerate(taken.names):
        own, shown = taken.prompts(row)
        completion, mask = taken.of("completion_ids", row), taken.mask(row)
        kept = len(completion) if max_length is None else max(0, max_length - len(own))
        pair = {"id": name, "prompt_ids": shown, "completion_ids": completion[:kept]}
        made.append(pair if mask is None else {**pair, "loss_mask": mask[:kept]})
    return made


def _columns(pairs: datasets.Dataset) -> list[str]:
    return [name for name in COLUMNS if name in pairs.column_names]


def _take_apart(table: pa.Table, numbers: Sequence[int]) -> _Table:
    """A table of the pairs with these numbers."""
    ids, starts, there = {}, {}, {}
    for name in COLUMNS[:-1]:
        if name in table.column_names:
            ids[name], sizes = flat(table[name])
            there[name] = pc.is_valid(table[name]).to_numpy()
        else:
            ids[name], sizes = np.zeros(0, np.int32), np.zeros(len(table), np.int64)
            there[name] = np.zeros(len(table), bool)
        starts[name] = np.concatenate([[0], np.cumsum(sizes)])
    if "id" in table.column_names:
        names = [str(name) for name in table["id"].to_pylist()]
    else:
        names = [f"number {number}" for number in numbers]
    for name in COLUMNS[:2]:
        if not there[name].all():
            lacking = names[int(np.argmin(there[name]))]
            raise ValueError(
                f"Pair {lacking} has no {name} (null); every pair has its tokens. Remove it, or load it as text with load_pairs."
            )
    return _Table(ids, starts, there["teacher_prompt_ids"], there["loss_mask"], names)


def _check_ids(taken: _Table, limits: RowLimits) -> None:
    """Ids are ids, and the teacher knows them; looked at for all rows at once."""
    for column in ("prompt_ids", "completion_ids", "teacher_prompt_ids"):
        ids = taken.ids[column]
        if len(ids) and (ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= 2**31):
            raise ValueError(f"{column} must be lists of token ids, 0 or more, without a null among them.")
        # of a pair with a prompt for the teacher, it never sees the student's
        known = (
            np.repeat(~taken.shown, np.diff(taken.starts[column]))
            if column == "prompt_ids"
            else np.ones(len(ids), bool)
        )
        if limits.vocabulary is not None and len(ids) and (wrong := known & (ids >= limits.vocabulary)).any():
            place = int(np.flatnonzero(wrong)[0])
            row = int(np.searchsorted(taken.starts[column], place, side="right")) - 1
            raise ValueError(f"Pair {taken.names[row]} has token id {ids[place]}, but {limits.unknown_token()}")
    mask = taken.ids["loss_mask"]
    if len(mask) and (mask.dtype.kind not in "iub" or not np.isin(mask, (0, 1)).all()):
        raise ValueError("loss_mask must be lists of 0 and 1.")


def _no_use(taken: _Table, row: int, own: int, shown: int, completion: int, max_length: int | None) -> str:
    if own and not shown:
        return f"Pair {taken.names[row]} has an empty teacher_prompt_ids: nothing precedes its completion there. Leave the column null, or remove the pair."
    masked = ", not all of them with loss" if taken.masked[row] else ""
    return (
        f"Pair {taken.names[row]} has no token to learn from: {own} prompt tokens, {completion} completion tokens{masked}, max_length "
        f"{max_length}. Raise max_length, or remove the pair."
    )


def _too_long(taken: _Table, row: int, shown: int, kept: int, limits: RowLimits) -> str:
    if not taken.shown[row]:
        return f"Pair {taken.names[row]} has {shown + kept} tokens, but {limits.too_long()}"
    return f"Pair {taken.names[row]} {limits.too_much_shown(shown, kept)}"
