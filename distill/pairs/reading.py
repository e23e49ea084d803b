"""Read and write files of pairs (what a row may look like: `schema`); tokenise them anew."""

import json
import os
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from distill.basics.jsonl import read_jsonl
from distill.basics.processes import say
from distill.pairs.schema import COLUMNS, complete_row, complete_rows, pairs_from_rows
from distill.text.encode import Messages, encode_prompt
from distill.text.messages import read_tools, read_values, text_of


def load_pairs(
    path: str | os.PathLike[str],
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    chat: bool | None = None,
    turns: str = "last",
) -> datasets.Dataset:
    """Read pairs from a JSONL file (plain or journal) or an Arrow folder written by `save_pairs`.

    Rows that carry token ids are taken as they are. A row with only `prompt` and `completion` texts, e.g. one written
    by a person, is tokenised once if a tokenizer is given; so is a row with `messages`, a whole conversation.

    Args:
        path: a `.jsonl` file, or a folder.
        tokenizer: needed only for rows without token ids.
        chat: for those rows, as in `distill.text.encode.as_prompt`.
        turns: of a conversation, whether its `"last"` or `"all"` of the assistant's turns carry loss.

    Returns:
        A dataset with the columns of `distill.pairs.schema`, in the order of the file.

    Raises:
        ValueError: no such file, no rows, or a bad row; the message names the file and the line.

    Example:
        >>> pairs = load_pairs("runs/demo/pairs.jsonl")
        >>> pairs[0]["finish_reason"]
        'stop'
    """
    source = Path(path)
    if source.is_dir():
        if not (source / "dataset_info.json").is_file():
            raise ValueError(
                f"{source} is a folder without pairs; expected one that save_pairs wrote, or a .jsonl file."
            )
        pairs = datasets.load_from_disk(str(source))
        missing = [name for name in COLUMNS if name not in pairs.column_names]
        if missing:
            raise ValueError(f"{source} has no column {', '.join(missing)}; pairs have {', '.join(COLUMNS)}.")
        return pairs
    return pairs_from_rows(
        (pair for where, row in read_jsonl(source) for pair in complete_rows(row, where, tokenizer, chat, turns)),
        where=str(source),
    )


def pair_from_conversation(
    messages: Messages, tokenizer: PreTrainedTokenizerBase, *, turns: str = "last"
) -> dict[str, Any]:
    """One pair from a conversation that ends with the assistant; see `distill.text.rows.encode_rows`."""
    return complete_row({"messages": messages}, "The conversation", tokenizer, turns=turns)


def save_pairs(pairs: datasets.Dataset, path: str | os.PathLike[str]) -> None:
    """Write pairs as JSONL if the path ends in `.jsonl`, else as an Arrow folder; replaces nothing that exists.

    Raises:
        ValueError: the path exists already.
    """
    target = Path(path)
    if target.exists():
        raise ValueError(f"{target} exists already; give a new path, or remove it first.")
    if target.suffix != ".jsonl":
        pairs.save_to_disk(str(target))
        return
    part = target.with_suffix(".jsonl.part")
    with part.open("w", encoding="utf-8") as file:
        for row in pairs:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(part, target)


def are_tokens_of(pairs: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, rows: int = 16) -> bool:
    """Whether the pairs' ids are this tokenizer's: do they decode to the text that stands beside them?

    A chat template's tokens around the last turn are looked at, too: models of one family rename ids (151644 is
    `<|im_start|>` in Qwen2.5 and `<｜User｜>` in DeepSeek-R1-Distill-Qwen), and their ordinary text decodes the same.
    """
    for row in pairs.select(range(min(rows, len(pairs)))):
        # ids beyond the tokenizer (slots a padded head may emit) decode to nothing, on both sides
        if row["completion"] not in str(tokenizer.decode(row["completion_ids"], skip_special_tokens=True)):
            return False
        if not isinstance(row["prompt"], str) and tokenizer.chat_template is not None:
            # not the whole prompt: some templates write today's date into its beginning
            asked = text_of(row["prompt"][-1])
            there = str(tokenizer.decode(row["prompt_ids"])).rpartition(asked)
            here = str(tokenizer.decode(_asked_ids(row, tokenizer))).rpartition(asked)
            if asked and (there[0][-12:], there[2][:12]) != (here[0][-12:], here[2][:12]):
                return False
    return True


def _asked_ids(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    beside = read_tools(row.get("tools")), read_values(row.get("chat_template_kwargs"))
    return encode_prompt(row["prompt"], tokenizer, *beside)


def retokenize(pairs: datasets.Dataset, tokenizer: PreTrainedTokenizerBase) -> datasets.Dataset:
    """The same pairs in another tokenizer's tokens, made from their text; for a student that has not the teacher's tokens.

    Raises:
        ValueError: a completion without text, or a prompt the tokenizer cannot encode; pairs with a loss mask, which is one of
            tokens.
    """
    if "loss_mask" in pairs.column_names:
        raise ValueError(
            "These pairs have a loss_mask of other tokens, so they cannot be tokenised anew; load the conversations they were made "
            "from with this student's tokenizer."
        )
    rows = [_as_text(row) for row in pairs if row["completion"] or row.get("message")]
    if len(rows) < len(pairs):
        say(
            f"{len(pairs) - len(rows)} of {len(pairs)} pairs have an empty text (the teacher ended at once) and are left out."
        )
    return pairs_from_rows((complete_row(row, f"pair {row['id']}", tokenizer) for row in rows), where="the pairs")


def _as_text(row: dict[str, Any]) -> dict[str, Any]:
    """What a pair says without its tokens; a turn that is more than a text goes through the other template whole."""
    text = (
        "id", "prompt", "completion", "finish_reason", "sample", "teacher", "score", "score_error", "tools", "chat_template_kwargs",
    )  # fmt: skip
    kept = {name: row[name] for name in text if row.get(name) is not None}
    if row.get("message") is None:
        return kept
    return {**kept, "prompt": row["prompt"], "completion": [json.loads(row["message"])]}
