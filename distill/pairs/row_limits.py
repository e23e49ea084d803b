"""Limits of a row: what models can take of it, and token ids that are none. Rows are refused by their id."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RowLimits:
    """What models can take of a row.

    Args:
        positions: tokens of a row at most; None: no limit.
        vocabulary: token ids are below it.
        labels: ids of tokens with loss are below it (two heads of different sizes share so many tokens).
        whose: for messages.

    Example:
        >>> RowLimits(positions=128).tightened(RowLimits(positions=64, vocabulary=320)).positions
        64
    """

    positions: int | None = None
    vocabulary: int | None = None
    labels: int | None = None
    whose: str = "the model"

    def tightened(self, other: "RowLimits") -> "RowLimits":
        """The smaller of each; `whose` is the other's if it tightens anything."""
        least = {name: _smaller(getattr(self, name), getattr(other, name)) for name in _LIMITS}
        unchanged = all(least[name] == getattr(self, name) for name in _LIMITS)
        return self if unchanged else RowLimits(**least, whose=other.whose)

    def check(self, where: str, ids: NDArray[Any], labels: NDArray[Any], shown: int | None = None) -> None:
        """Refuse a row beyond them.

        Args:
            where: what the row is called in messages.
            ids: `[tokens]`, as the model gets them.
            labels: the ids of those that carry loss.
            shown: tokens of the teacher's own prompt, if the row begins with that.

        Raises:
            ValueError: says which limit and the way out.
        """
        if self.positions is not None and len(ids) > self.positions:
            if shown is not None:
                raise ValueError(f"{where} {self.too_much_shown(shown, len(ids) - shown)}")
            raise ValueError(f"{where} has {len(ids)} tokens, but {self.too_long()}")
        if self.vocabulary is not None and len(ids) and ids.max() >= self.vocabulary:
            raise ValueError(f"{where} has token id {ids.max()}, but {self.unknown_token()}")
        if self.labels is not None and len(labels) and labels.max() >= self.labels:
            raise ValueError(f"{where} has token id {labels.max()} in its completion, but {self.unshared_label()}")

    def too_much_shown(self, shown: int, rest: int) -> str:
        """The end of a message about a row that is too long as the teacher is shown it; `max_length` does not cut a prompt."""
        return (
            f"has {shown} tokens in its teacher's prompt and {rest} behind it, but {self.whose} has {self.positions} positions; shorten the "
            "teacher's prompt, or remove the pair."
        )

    def too_long(self) -> str:
        """The end of a message about a row that is too long."""
        return (
            f"{self.whose} has {self.positions} positions; give max_length={self.positions} or less, which cuts the ends of such "
            "completions."
        )

    def unknown_token(self) -> str:
        """The end of a message about a token id that is too large."""
        return (
            f"{self.whose}'s vocabulary has {self.vocabulary} tokens: the pairs were made with another tokenizer. Make them anew, or "
            "load them as text with this one."
        )

    def unshared_label(self) -> str:
        """The end of a message about a label that one of two heads does not know."""
        return (
            f"student and teacher share {self.labels} tokens, and cross-entropy is over these. Remove such pairs, or leave "
            "cross_entropy out of Logits."
        )


_LIMITS = ("positions", "vocabulary", "labels")


def _smaller(one: int | None, other: int | None) -> int | None:
    return min((limit for limit in (one, other) if limit is not None), default=None)


def token_ids(pair: Mapping[str, Any], column: str, where: str) -> NDArray[Any]:
    """`[tokens]` int64 of a column of a pair: a list, an array or a tensor.

    Raises:
        ValueError: it is not there, or is no row of token ids.
    """
    if column not in pair:
        raise ValueError(
            f"{where} has no {column} (it has {', '.join(map(str, pair)) or 'nothing that a pair has'}). Rows of a list or a stream must be "
            "pairs already: distill.load_pairs(path, tokenizer) makes them from text."
        )
    try:
        ids = np.asarray(pair[column])
    except (ValueError, TypeError, OverflowError):  # lists in lists of unequal lengths
        ids = np.asarray(None)
    if ids.ndim != 1 or (len(ids) and (ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= 2**31)):
        raise ValueError(f"{where}: {column} must be a list of token ids, not {str(pair[column])[:60]}.")
    return ids.astype(np.int64)


def loss_mask(pair: Mapping[str, Any], size: int, where: str) -> NDArray[Any] | None:
    """`[size]` bool, or None for a pair that has no mask.

    Raises:
        ValueError: it is not one 0 or 1 for each of the `size` tokens of the completion.
    """
    if pair.get("loss_mask") is None:
        return None
    try:
        mask = np.asarray(pair["loss_mask"])
    except (ValueError, TypeError):
        mask = np.asarray(None)
    if mask.shape != (size,):
        raise ValueError(
            f"{where}: loss_mask has {mask.size if mask.ndim == 1 else 'no'} places, but its completion has {size} tokens; it needs one 0 "
            "or 1 for each."
        )
    if size and (mask.dtype.kind not in "iub" or not np.isin(mask, (0, 1)).all()):
        raise ValueError(f"{where}: loss_mask must be a list of 0 and 1, not {str(pair['loss_mask'])[:60]}.")
    return mask.astype(bool)
