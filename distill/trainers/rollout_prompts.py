"""Prompts of rollouts: token ids of whatever a user gave, and whether what is made of them fits into the models."""

from collections.abc import Iterable, Mapping
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from distill.pairs.columns import TEACHER_PROMPT
from distill.pairs.labels import EMPTY
from distill.pairs.packing import PackedPairs
from distill.pairs.row_limits import RowLimits, token_ids
from distill.text.chat import chat_of
from distill.text.encode import as_prompt, encode_prompt
from distill.text.messages import read_tools, read_values
from distill.text.teacher_prompts import teachers_prompt

_NOT_CARRIED = ("completion", "completion_ids", "loss_mask", "finish_reason")


def prompt_rows(prompts: Any, tokenizer: PreTrainedTokenizerBase, chat: bool | None = None) -> list[dict[str, Any]]:
    """Rows with `prompt_ids`, perhaps `teacher_prompt_ids`, and further columns as they were given.

    Args:
        prompts: see `distill.trainers.rollouts.Rollouts`.
        tokenizer: of the student.
        chat: of bare texts.

    Raises:
        ValueError: there are none; one that is none of the shapes, has no token, or cannot be asked (its number is named).
    """
    if not isinstance(prompts, Iterable) or isinstance(prompts, str | bytes | Mapping):
        raise ValueError(
            f"prompts is a {type(prompts).__name__}; give a list of prompts, or a dataset with a column prompt."
        )
    rows = []
    for number, prompt in enumerate(prompts.with_format(None) if isinstance(prompts, datasets.Dataset) else prompts):
        try:
            rows.append(_row(prompt, tokenizer, chat))
        except (ValueError, TypeError) as error:
            raise ValueError(f"Prompt {number} of the rollouts: {error}") from None
    if not rows:
        raise ValueError(
            "Rollouts have no prompts; give at least one, or leave prompts out: each row's own prompt is taken."
        )
    return rows


def _row(prompt: Any, tokenizer: PreTrainedTokenizerBase, chat: bool | None) -> dict[str, Any]:
    given: Mapping[str, Any] = prompt if isinstance(prompt, Mapping) else {"prompt": prompt}
    asked, ids = given.get("prompt"), given.get("prompt_ids")
    tools, values = read_tools(given.get("tools")), read_values(given.get("chat_template_kwargs"))
    if ids is None and _are_ids(asked):
        ids = asked
    if ids is None:
        if not isinstance(asked, str | list) or not len(asked):
            raise ValueError(
                f"it is {str(asked)[:60]!r}; a prompt is a text, messages, a list of token ids, or a row with prompt or prompt_ids."
            )
        ids = encode_prompt(as_prompt(asked, tokenizer, chat, tools, values), tokenizer, tools, values)
    row = {name: value for name, value in given.items() if name not in _NOT_CARRIED}
    if _are_ids(asked):
        del row["prompt"]  # words are what a teacher with another tokenizer is asked with
    row["prompt_ids"] = token_ids({"prompt_ids": ids}, "prompt_ids", "it")
    if not len(row["prompt_ids"]):
        raise ValueError("it has no token; the student needs at least one to continue from.")
    if given.get("teacher_prompt") is not None and given.get("teacher_prompt_ids") is None:
        shown, _ = teachers_prompt(
            given["teacher_prompt"], given.get("system"), chat_of(tokenizer), chat, tools, values
        )
        row["teacher_prompt_ids"] = encode_prompt(shown, tokenizer, tools, values)
    return row


def _are_ids(value: Any) -> bool:
    return (
        not isinstance(value, str)
        and hasattr(value, "__len__")
        and len(value) > 0
        and not isinstance(value[0], Mapping | str)
    )


def prompt_lengths(rows: Any, column: str = "prompt_ids") -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Tokens of each prompt of a dataset, of bins or of a list; none of a stream, whose rows are met when they come. Null counts as 0."""
    pairs = rows.pairs if isinstance(rows, PackedPairs) else rows
    if isinstance(pairs, datasets.Dataset):
        if column not in pairs.column_names:
            return np.zeros(0, np.int64)
        lengths = [
            pc.fill_null(pc.list_value_length(table[column]), 0).to_numpy()
            for table in pairs.select_columns([column]).with_format("arrow").iter(10_000)
        ]
        return np.concatenate(lengths).astype(np.int64) if lengths else np.zeros(0, np.int64)
    if isinstance(pairs, list | tuple):
        found = [pair.get(column) for pair in pairs if isinstance(pair, Mapping) and pair.get("id") != EMPTY["id"]]
        return np.asarray([0 if ids is None else len(ids) for ids in found], np.int64)
    return np.zeros(0, np.int64)


def check_lengths(rows: Any, name: str, new: int, limits: RowLimits, shown: RowLimits, max_length: int | None) -> None:
    """Refuse prompts behind which a whole completion has no room.

    Args:
        rows: with `prompt_ids`.
        name: what they are called in messages.
        new: tokens of the longest completion.
        limits: of the student's rows.
        shown: of the rows that the teacher is shown.
        max_length: of the training: behind a prompt of so many tokens nothing would be left.

    Raises:
        ValueError: says how long it is, and the way out.
    """
    lengths, theirs = prompt_lengths(rows), prompt_lengths(rows, *TEACHER_PROMPT[1:])
    if not len(lengths):
        return
    if (lengths < 1).any():
        raise ValueError(
            f"Row {int(lengths.argmin())} of {name} has a prompt without a token; the student needs at least one to continue from."
        )
    own, longest = int(lengths.argmax()), int(lengths.max())
    for who, positions in ((limits.whose, limits.positions), (shown.whose, shown.positions)):
        if positions is not None and longest + new > positions:
            raise ValueError(
                f"The prompt of row {own} of {name} has {longest} tokens and max_new_tokens of the rollouts is {new}, but {who} has {positions} "
                f"positions. {_way(positions - longest)}"
            )
    if max_length is not None and longest >= max_length:
        raise ValueError(
            f"The prompt of row {own} of {name} has {longest} tokens and max_length is {max_length}: nothing is left of a rollout behind it. "
            "Raise max_length, or leave such prompts out."
        )
    if len(theirs) and shown.positions is not None and int(theirs.max()) + new > shown.positions:
        raise ValueError(
            f"The teacher's prompt of row {int(theirs.argmax())} of {name} has {theirs.max()} tokens and max_new_tokens of the rollouts is {new}, "
            f"but {shown.whose} has {shown.positions} positions. {_way(shown.positions - int(theirs.max()))}"
        )


def _way(room: int) -> str:
    return (
        f"Take max_new_tokens={room} or less, or leave such prompts out."
        if room > 0
        else "Leave such prompts out, or cut them."
    )
