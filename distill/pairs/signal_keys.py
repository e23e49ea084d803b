"""Signal keys: one name for all that decides what a teacher says about a pair, whatever file the pair lies in."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.pairs.row_limits import loss_mask as mask_of
from distill.pairs.row_limits import token_ids

_VERSION = b"\x01"  # of the recipe below: what was stored under another one is not found by mistake
SIZE = 16  # bytes of a key


def signal_key(
    prompt_ids: Sequence[int] | NDArray[Any],
    completion_ids: Sequence[int] | NDArray[Any],
    loss_mask: Sequence[int] | NDArray[Any] | None = None,
) -> bytes:
    """A hash of the tokens of a pair as its teacher was shown them.

    Two pairs have one key exactly if the teacher's prompt, the completion and the positions that carry loss are the same. Neither
    their text, their id nor their place in a file is part of it; nor is who the teacher was.

    Args:
        prompt_ids: what the teacher was shown, `[tokens]`: `teacher_prompt_ids` where the pair has them, else its `prompt_ids`.
        completion_ids: the whole completion, `[tokens]`, before `max_length` cuts it.
        loss_mask: 0 or 1 for each token of the completion; `None` is the same as all ones.

    Returns:
        16 bytes.

    Raises:
        ValueError: ids that are none, or a mask of another length.

    Source: SHA-256, its first 128 bits: among 10^9 pairs, two different ones share a key with a probability of 1.5e-21.

    Example:
        >>> signal_key([5, 6], [7, 2]) == signal_key([5, 6], [7, 2], [1, 1])
        True
    """
    prompt, completion = _ids(prompt_ids, "prompt"), _ids(completion_ids, "completion")
    return digest(prompt, completion, None if loss_mask is None else _mask(loss_mask, len(completion)))


def digest(prompt: NDArray[Any], completion: NDArray[Any], mask: NDArray[Any] | None) -> bytes:
    """As `signal_key`, for whoever has checked many pairs at once: ids as numbers, and a mask only where some of it is 0."""
    said = b"" if mask is None else mask.astype(np.uint8).tobytes()
    lengths = np.asarray([len(prompt), len(completion), len(said)], "<i8").tobytes()
    ids = (part.astype("<i4", copy=False).tobytes() for part in (prompt, completion))
    return hashlib.sha256(b"".join([_VERSION, lengths, *ids, said])).digest()[:SIZE]


def key_of_pair(pair: Mapping[str, Any], place: str = "the row") -> bytes:
    """The key of what a teacher says about a pair; see `signal_key`.

    A student without any prompt has no loss on the first token of the completion, because nothing precedes it; then a teacher that was
    shown a prompt is not asked for it either, and the key says so, as a mask would.

    Args:
        pair: see `distill.pairs.columns`.
        place: what it is called in messages if it has no id.

    Raises:
        ValueError: ids or a mask of another kind; a teacher's prompt in words alone.
    """
    where = f"Pair {pair.get('id', place)}"
    if pair.get("teacher_prompt") is not None and pair.get("teacher_prompt_ids") is None:
        raise ValueError(
            f"{where} has a teacher_prompt without teacher_prompt_ids, its tokens; load_pairs(path, tokenizer) makes them."
        )
    prompt, completion = (token_ids(pair, column, where) for column in ("prompt_ids", "completion_ids"))
    mask = mask_of(pair, len(completion), where)
    if pair.get("teacher_prompt_ids") is None:
        return signal_key(prompt, completion, mask)
    if not len(prompt):
        mask = np.ones(len(completion), bool) if mask is None else mask
        mask[:1] = False
    return signal_key(token_ids(pair, "teacher_prompt_ids", where), completion, mask)


def _ids(values: Any, name: str) -> NDArray[Any]:
    ids = np.asarray(values)
    if ids.ndim != 1 or (len(ids) and (ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= 2**31)):
        raise ValueError(f"The {name} must be a list of token ids, not {str(values)[:60]}.")
    return ids.astype("<i4")


def _mask(values: Any, size: int) -> NDArray[Any] | None:
    """The mask; none where all of it is 1."""
    mask = np.asarray(values)
    if mask.shape != (size,) or (size and (mask.dtype.kind not in "iub" or not np.isin(mask, (0, 1)).all())):
        raise ValueError(
            f"loss_mask must have one 0 or 1 for each of the {size} tokens of the completion, not {str(values)[:60]}."
        )
    return None if mask.all() else mask
