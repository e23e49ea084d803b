"""Labels of a pair: the ONE place that decides which of its tokens carry loss; arrays of numpy, without torch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.pairs.row_limits import loss_mask, token_ids

IGNORE = -100

# A row that fills up the batch of a process when there are no rows left for it; the only one that may have no loss.
EMPTY: dict[str, Any] = {"id": "(no row)", "prompt_ids": [0], "completion_ids": [0], "loss_mask": [0]}


def ids_and_labels(
    pair: Mapping[str, Any], max_length: int | None = None, place: str = "the row"
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Token ids of a pair and, aligned with them, its labels (`[tokens]` each): the ids that carry loss, `IGNORE` elsewhere.

    Labels are the completion's ids; with a `loss_mask`, those of them where it is 1. The first token is never one, because
    nothing precedes it.

    Args:
        pair: see `distill.pairs.schema`.
        max_length: a longer row loses its end; `None` cuts none.
        place: what the pair is called in messages if it has no id.

    Raises:
        ValueError: no mapping, ids or a mask of another kind, or no token is left that carries loss.

    Example:
        >>> ids_and_labels({"prompt_ids": [5, 6], "completion_ids": [7, 2]})[1].tolist()
        [-100, -100, 7, 2]
    """
    if not isinstance(pair, Mapping):
        raise ValueError(
            f"{place[0].upper()}{place[1:]} is a {type(pair).__name__}, and a pair is a mapping of columns."
        )
    where = f"Pair {pair.get('id', place)}"
    prompt, completion = (token_ids(pair, column, where) for column in ("prompt_ids", "completion_ids"))
    mask = loss_mask(pair, len(completion), where)
    ids = np.concatenate([prompt, completion])[:max_length]
    carries = completion if mask is None else np.where(mask, completion, IGNORE)
    labels = np.concatenate([np.full(len(prompt), IGNORE), carries])[:max_length]
    labels[:1] = IGNORE
    if not (labels != IGNORE).any() and pair.get("id") != EMPTY["id"]:
        masked = "" if mask is None else f", {mask.sum()} of them with loss"
        raise ValueError(
            f"{where} has no token to learn from: {len(prompt)} prompt tokens, {len(completion)} "
            f"completion tokens{masked}, max_length {max_length}. Raise max_length, or remove the pair."
        )
    return ids, labels


def shown_to_teacher(
    pair: Mapping[str, Any], ids: NDArray[Any], labels: NDArray[Any], place: str = "the row"
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The pair's row as its teacher is shown it: other tokens before the completion, the same of it with the same labels.

    What `max_length` cut from the student's row is cut here, too, and what carries no loss there carries none here: both sides have the
    same supervised tokens in the same order, each at the place it has in its own row.

    Args:
        pair: see `distill.pairs.columns`.
        ids, labels: of `ids_and_labels`, `[tokens]` each.
        place: what the pair is called in messages if it has no id.

    Returns:
        Ids and labels; those of the student where the teacher was shown the prompt.

    Raises:
        ValueError: ids of another kind, or none at all.

    Example:
        >>> pair = {"prompt_ids": [5], "completion_ids": [7, 2], "teacher_prompt_ids": [8, 9]}
        >>> shown_to_teacher(pair, *ids_and_labels(pair))[1].tolist()
        [-100, -100, 7, 2]
    """
    where = f"Pair {pair.get('id', place)}"
    if pair.get("teacher_prompt_ids") is None:
        if pair.get("teacher_prompt") is not None:
            raise ValueError(
                f"{where} has a teacher_prompt without teacher_prompt_ids, its tokens, so the teacher would be shown the prompt alone; "
                "load_pairs(path, tokenizer) makes them."
            )
        return ids, labels
    shown = token_ids(pair, "teacher_prompt_ids", where)
    if not len(shown):
        raise ValueError(
            f"{where}: teacher_prompt_ids has no token, so nothing stands before the first token that the teacher is asked for; give at "
            "least one, or null where the teacher was shown the prompt."
        )
    start = len(pair["prompt_ids"])
    return np.concatenate([shown, ids[start:]]), np.concatenate([np.full(len(shown), IGNORE), labels[start:]])
