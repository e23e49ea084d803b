"""Pairs of a data set held against what models can take: read once, however many models ask."""

import logging
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import datasets
import numpy as np
import pyarrow.compute as pc

from distill.pairs.batches import batches, counted, flat, row_of
from distill.pairs.row_limits import RowLimits

logger = logging.getLogger(__name__)


def check_pairs(
    pairs: datasets.Dataset, name: str, max_length: int | None, limits: RowLimits, say_what_is_cut: bool = True
) -> None:
    """Refuse pairs that cannot be learned from, and log what `max_length` will cut. Vectorised: 1e6 rows in a second.

    Raises:
        ValueError: a missing column, an empty completion, a row left without supervised token, a `loss_mask` that does not fit,
            a row beyond the limits.
    """
    missing = [column for column in ("prompt_ids", "completion_ids") if column not in pairs.column_names]
    if missing:
        raise ValueError(
            f"{name} has no column {' and '.join(missing)} (it has {', '.join(pairs.column_names)}); these are not pairs. "
            "Make pairs with distill.generate, or read them with distill.load_pairs(path, tokenizer)."
        )
    if len(pairs) == 0:
        raise ValueError(f"{name} has no rows.")
    facts = facts_of_pairs(pairs, name, max_length)
    if limits.positions is not None and facts.kept > limits.positions:
        raise ValueError(f"{name} has a row of {facts.longest} tokens, but {limits.too_long()}")
    if say_what_is_cut and facts.cut:
        logger.warning(
            "%s: %d of %d pairs are longer than max_length=%d and lose the end of their completion, %d of %d completion "
            "tokens in all (no EOS is put in its place).",
            name, facts.cut, len(pairs), max_length, facts.lost, facts.completion,
        )  # fmt: skip
    if limits.vocabulary is not None and max(facts.highest) >= limits.vocabulary:
        raise ValueError(f"{name} has token id {max(facts.highest)}, but {limits.unknown_token()}")
    if limits.labels is not None and facts.highest[1] >= limits.labels:
        raise ValueError(f"{name} has token id {facts.highest[1]} in a completion, but {limits.unshared_label()}")


@dataclass(frozen=True)
class PairFacts:
    """Of pairs that can be learned from, in tokens.

    Args:
        longest: of the longest row; `kept`: what `max_length` leaves of it.
        cut: rows that lose something; `lost`: completion tokens in all; `completion`: of how many.
        highest: token id of the prompts, and of the completions.
    """

    longest: int
    kept: int
    cut: int
    lost: int
    completion: int
    highest: tuple[int, int]


# limits of student, teacher and labels come one after the other: rows are read for the first of them
_known: WeakKeyDictionary[datasets.Dataset, dict[int | None, PairFacts]] = WeakKeyDictionary()


def known_length(pairs: datasets.Dataset) -> int | None:
    """Tokens of the longest row, if these pairs were read before."""
    return next((facts.longest for facts in _known.get(pairs, {}).values()), None)


def facts_of_pairs(pairs: datasets.Dataset, name: str, max_length: int | None) -> PairFacts:
    """What limits are held against; the pairs are read once.

    Raises:
        ValueError: see `check_pairs`.
    """
    known = _known.setdefault(pairs, {})
    if max_length in known:
        return known[max_length]
    found = counted(pairs, ("prompt_ids", "completion_ids"), "looking at rows")
    for column, (sizes, _) in found.items():
        if len(empty := np.flatnonzero(sizes < 0)):
            raise ValueError(
                f"{name}: {len(empty)} of {len(pairs)} pairs have no {column}, the first is row {empty[0]}; remove them, or make their "
                "tokens with distill.load_pairs(path, tokenizer)."
            )
    prompt, completion = (one.sizes for one in found.values())
    length, limit = prompt + completion, max_length if max_length is not None else np.inf
    supervised = np.minimum(length, limit) - np.maximum(prompt, 1)
    if "loss_mask" in pairs.column_names:
        supervised = np.minimum(supervised, _unmasked(pairs, prompt, completion, limit, name))
    useless = np.flatnonzero(supervised <= 0)
    if len(useless):
        row = int(useless[0])
        raise ValueError(
            f"{name}: {len(useless)} of {len(pairs)} pairs have no token to learn from, the first is row {row} "
            f"({prompt[row]} prompt tokens, {completion[row]} completion tokens, max_length {max_length}). "
            "Remove them, or raise max_length."
        )
    cut, longest = length > limit, int(length.max())
    known[max_length] = PairFacts(
        longest,
        int(min(longest, limit)),
        int(cut.sum()),
        int((length - limit)[cut].sum()) if cut.any() else 0,
        int(completion.sum()),
        (found["prompt_ids"].highest, found["completion_ids"].highest),
    )
    return known[max_length]


def _unmasked(pairs: datasets.Dataset, prompt: Any, completion: Any, limit: float, name: str) -> Any:
    """`[rows]`: how many tokens of each row its mask leaves with loss; all of a row without a mask."""
    counts, first = [], 0
    for table in batches(pairs, ["loss_mask"], "looking at loss masks"):
        mask, sizes = flat(table["loss_mask"])
        here = slice(first, first + len(sizes))
        given = np.asarray(pc.is_valid(table["loss_mask"]))
        wrong = np.flatnonzero(given & (sizes != completion[here]))
        if len(wrong):
            row = int(wrong[0])
            raise ValueError(
                f"{name}: loss_mask of row {first + row} has {sizes[row]} places, but its completion has {completion[first + row]} "
                "tokens; it needs one 0 or 1 for each."
            )
        rows = row_of(sizes)
        place = prompt[here][rows] + np.arange(len(rows)) - (sizes.cumsum() - sizes)[rows]
        carries = (mask != 0) & (place >= 1) & (place < limit)
        counts.append(np.where(given, np.bincount(rows[carries], minlength=len(sizes)), completion[here]))
        first += len(sizes)
    return np.concatenate(counts)
