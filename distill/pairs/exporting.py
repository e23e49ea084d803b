"""Pairs in the forms of other tools: messages, ShareGPT, Parquet; and what each form has no place for, said in a sentence."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets

from distill.pairs.blocks import BLOCK_ROWS, rows_of_table
from distill.pairs.columns import COLUMNS, OPTIONAL
from distill.pairs.writing import PACKED, output_kind, save_pairs

FORMS = ("messages", "sharegpt", "parquet", "hub")
_FROM = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}
_TOKENS = ("prompt_ids", "completion_ids", "teacher_prompt_ids", "loss_mask", "token_source", "top_logprobs")
_SAID = ("prompt", "completion", "message")
_NOTES = {
    "tokens": "token ids are left out: whoever trains on {count} rows makes their own from the messages, with their own template",
    "plain": "{count} prompts are plain text, which was continued and not asked; here each is a user's turn",
    "cut": "{count} completions were cut at the limit; `finish_reason` says which, and a tool that does not look at it teaches them as whole",
    "opened": "{count} completions began inside a trace that the prompt had opened; <think> stands before them now",
    "field": "{field} of {count} turns have no place in this form and are left out",
}


def export_pairs(
    pairs: datasets.Dataset, form: str, output: str | os.PathLike[str], *, private: bool = True
) -> list[str]:
    """Write pairs in another tool's form; replaces nothing that exists.

    Ids and the user's own columns go along. Parquet and the Hub take pairs as they are, with their tokens.

    Args:
        pairs: see `distill.pairs.columns`.
        form: `"messages"` (`{"id", "messages": [{"role", "content"}]}`), `"sharegpt"` (`{"id", "conversations": [{"from", "value"}]}`),
            `"parquet"`, or `"hub"`.
        output: the file; for the Hub, the dataset's id there (`you/name`).
        private: on the Hub, for nobody but its owner.

    Returns:
        What the form has no place for, in sentences; none where nothing is lost.

    Raises:
        ValueError: no such form, a path that exists or is of another format; pairs whose completion has several turns, which stand
            there as one text.

    Example:
        >>> export_pairs(pairs, "messages", "messages.jsonl")
    """
    if form not in FORMS:
        raise ValueError(f"to is {form!r}; it must be one of {', '.join(FORMS)}.")
    if form == "hub":
        if os.fspath(output).count("/") != 1:
            raise ValueError(f"{output} is no id of a dataset on the Hub; give one such as you/name.")
        pairs.push_to_hub(os.fspath(output), private=private)
        return []
    wanted = "Parquet" if form == "parquet" else "JSON Lines"
    if output_kind(output) != wanted:
        raise ValueError(
            f"{output}: {form} is written as {'.parquet' if form == 'parquet' else '.jsonl'}; give such a name."
        )
    if form == "parquet":
        save_pairs(pairs, output)
        return []
    return _write_talks(pairs, form, Path(output))


def _write_talks(pairs: datasets.Dataset, form: str, target: Path) -> list[str]:
    if target.exists():
        raise ValueError(f"{target} exists already; give a new path, or remove it first.")
    notes: Counter[str] = Counter()
    fields: Counter[str] = Counter()
    translate = _as_messages if form == "messages" else _as_sharegpt
    part = target.with_name(target.name + ".part")
    try:
        with _opened(part, target.suffix) as file:
            for row in _rows(pairs):
                file.write((json.dumps(translate(row, notes, fields), ensure_ascii=False, default=str) + "\n").encode())
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    os.replace(part, target)
    notes["tokens"] = len(pairs)
    said = [_NOTES[name].format(count=count) for name, count in notes.items() if count]
    return [*said, *(_NOTES["field"].format(field=field, count=count) for field, count in fields.items())]


def _opened(path: Path, suffix: str) -> Any:
    opener: Callable[[Path], Any] = PACKED.get(suffix.lower(), lambda path: path.open("wb"))
    return opener(path)


def _rows(pairs: datasets.Dataset) -> Iterator[dict[str, Any]]:
    for table in pairs.with_format("arrow").iter(BLOCK_ROWS):
        yield from rows_of_table(table)


def _talk(row: dict[str, Any], notes: Counter[str]) -> list[dict[str, Any]]:
    """The whole conversation of a pair."""
    mask = row.get("loss_mask")
    if mask is not None and 0 in mask:
        raise ValueError(
            f"Pair {row['id']} has several turns in its completion, of which some carry no loss; they stand there as one text, so they "
            "cannot be told apart. Export the conversations they were made from, or load those with turns='each'."
        )
    prompt = row["prompt"]
    if isinstance(prompt, str):
        notes["plain"] += 1
        prompt = [{"role": "user", "content": prompt}]
    if row.get("message"):
        return [*prompt, json.loads(row["message"])]
    said = row["completion"]
    if "</think>" in said and "<think>" not in said.partition("</think>")[0]:
        notes["opened"] += 1
        said = f"<think>\n{said}"
    notes["cut"] += row["finish_reason"] == "length"
    return [*prompt, {"role": "assistant", "content": said}]


def _others(row: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in row.items() if name not in (*_TOKENS, *_SAID, "id")}
    for name in ("tools", "chat_template_kwargs"):
        if isinstance(kept.get(name), str):
            kept[name] = json.loads(kept[name])
    return {name: value for name, value in kept.items() if value is not None or name not in (*COLUMNS, *OPTIONAL)}


def _as_messages(row: dict[str, Any], notes: Counter[str], fields: Counter[str]) -> dict[str, Any]:
    return {"id": row["id"], "messages": _talk(row, notes), **_others(row)}


def _as_sharegpt(row: dict[str, Any], notes: Counter[str], fields: Counter[str]) -> dict[str, Any]:
    turns: list[dict[str, Any]] = []
    for message in _talk(row, notes):
        role, content, calls = message["role"], message.get("content"), message.get("tool_calls")
        fields.update(name for name in message if name not in ("role", "content", "tool_calls"))
        if content or not calls:
            turns.append({"from": _FROM.get(role, role), "value": content or ""})
        if calls:
            listed = [call.get("function", call) for call in calls]
            value = listed[0] if len(listed) == 1 else listed
            turns.append({"from": "function_call", "value": json.dumps(value, ensure_ascii=False)})
    return {"id": row["id"], "conversations": turns, **_others(row)}
