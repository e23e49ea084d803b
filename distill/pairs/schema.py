"""The pair: one training row. Its schema, and how pairs are read and written.

| column | type | meaning |
|---|---|---|
| `id` | str | hash of everything that decided this row: teacher, prompt, sampling settings, sample index |
| `prompt` | str, or messages | what was asked, for people; one kind a file |
| `completion` | str | what was answered, for people (without control tokens) |
| `prompt_ids` | list of int | the tokens the teacher was given |
| `completion_ids` | list of int | the tokens the teacher gave, with its EOS if it emitted one |
| `finish_reason` | `"stop"` or `"length"` | ended by itself, or cut at the limit (then there is no EOS) |
| `sample` | int | which sample of this prompt, from 0 |
| `teacher` | str | who wrote the completion |

These columns are there only where something filled them:

| column | type | meaning |
|---|---|---|
| `token_source` | `"teacher"` or `"text"` | `completion_ids` are what the teacher emitted, or were made once from its text |
| `score` | float or null | what a verifier gave; null where it raised |
| `score_error` | str or null | what the verifier raised |
| `loss_mask` | list of 0 and 1 | which of `completion_ids` carry loss (several assistant turns in one row); all without it |
| `top_logprobs` | list of `{tokens, logprobs}` | the server's most likely tokens at each place of the completion, as text |

Token ids are the truth: training uses nothing else. Text is for people, because decoding and encoding again is not the
identity.
"""

import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from distill.basics.fingerprint import fingerprint
from distill.basics.jsonl import read_jsonl
from distill.pairs.columns import OPTIONAL, optional_columns
from distill.text.conversations import conversation_row
from distill.text.encode import Messages, as_prompt, check_messages, encode_completion, encode_prompt, opens_trace
from distill.text.traces import fit_trace

COLUMNS = ("id", "prompt", "completion", "prompt_ids", "completion_ids", "finish_reason", "sample", "teacher")
FINISH_REASONS = ("stop", "length")


def features(messages: bool, optional: Collection[str] = ()) -> datasets.Features:
    """The Arrow types of pairs whose prompts are messages, or plain text, with some of the `OPTIONAL` columns."""
    text, ids = datasets.Value("string"), datasets.List(datasets.Value("int32"))
    more: dict[str, Any] = {
        "token_source": text,
        "score": datasets.Value("float64"),
        "score_error": text,
        "loss_mask": datasets.List(datasets.Value("int8")),
        "top_logprobs": datasets.List(
            {"tokens": datasets.List(text), "logprobs": datasets.List(datasets.Value("float32"))}
        ),
    }
    prompt: Any = datasets.List({"role": text, "content": text}) if messages else text
    return datasets.Features(
        {
            "id": text,
            "prompt": prompt,
            "completion": text,
            "prompt_ids": ids,
            "completion_ids": ids,
            "finish_reason": text,
            "sample": datasets.Value("int32"),
            "teacher": text,
            **{name: more[name] for name in OPTIONAL if name in optional},
        }
    )


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
        A dataset with the columns of this module, in the order of the file.

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
        (complete_row(row, where, tokenizer, chat, turns) for where, row in read_jsonl(source)), where=str(source)
    )


def pair_from_conversation(
    messages: Messages, tokenizer: PreTrainedTokenizerBase, *, turns: str = "last"
) -> dict[str, Any]:
    """One pair from a conversation that ends with the assistant; see `distill.text.conversations.conversation_row`."""
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
            asked = row["prompt"][-1]["content"]
            there = str(tokenizer.decode(row["prompt_ids"])).rpartition(asked)
            here = str(tokenizer.decode(encode_prompt(row["prompt"], tokenizer))).rpartition(asked)
            if asked and (there[0][-12:], there[2][:12]) != (here[0][-12:], here[2][:12]):
                return False
    return True


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
    text = ("id", "prompt", "completion", "finish_reason", "sample", "teacher", "score", "score_error")
    rows = [{name: row[name] for name in text if name in row} for row in pairs if row["completion"]]
    if len(rows) < len(pairs):
        print(
            f"{len(pairs) - len(rows)} of {len(pairs)} pairs have an empty text (the teacher ended at once) and are left out."
        )
    return pairs_from_rows((complete_row(row, f"pair {row['id']}", tokenizer) for row in rows), where="the pairs")


def pairs_from_rows(rows: Iterator[dict[str, Any]] | list[dict[str, Any]], where: str) -> datasets.Dataset:
    """A dataset of complete rows.

    Raises:
        ValueError: there are none, or some prompts are messages and others plain text.
    """
    listed = list(rows)
    if not listed:
        raise ValueError(f"{where} has no pairs.")
    kinds = {isinstance(row["prompt"], str) for row in listed}
    if len(kinds) > 1:
        raise ValueError(f"{where}: some prompts are text and others are messages; keep the two kinds in two files.")
    optional = [name for name in OPTIONAL if any(row.get(name) is not None for row in listed)]
    listed = [{name: row.get(name) for name in (*COLUMNS, *optional)} for row in listed]
    return datasets.Dataset.from_list(listed, features=features(not kinds.pop(), optional))


def complete_row(
    row: dict[str, Any],
    where: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    chat: bool | None = None,
    turns: str = "last",
) -> dict[str, Any]:
    """One row with all columns, checked; token ids are made only where there are none.

    Raises:
        ValueError: see `load_pairs`.
    """
    if "messages" in row and "completion" not in row:
        row = {**_at(where, conversation_row, row, tokenizer, turns), "token_source": "text"}
    missing = [name for name in ("prompt", "completion") if name not in row]
    if missing:
        raise ValueError(
            f"{where}: no {' and no '.join(missing)}; a pair has at least prompt and completion, or messages."
        )
    if not isinstance(row["completion"], str):
        raise ValueError(f"{where}: completion is a {type(row['completion']).__name__}, expected text.")
    if not isinstance(row["prompt"], str):
        _at(where, check_messages, row["prompt"])
    finish_reason = row.get("finish_reason", "stop")
    if finish_reason not in FINISH_REASONS:
        raise ValueError(f"{where}: finish_reason is {finish_reason!r:.60}, expected one of {FINISH_REASONS}.")

    prompt, has_ids = row["prompt"], [name in row for name in ("prompt_ids", "completion_ids")]
    if all(has_ids):
        prompt_ids, completion_ids = row["prompt_ids"], row["completion_ids"]
    elif any(has_ids):
        raise ValueError(f"{where}: only one of prompt_ids and completion_ids; give both, or neither and a tokenizer.")
    elif tokenizer is None:
        raise ValueError(
            f"{where}: no token ids; pass the student's tokenizer to load_pairs to make them from the text."
        )
    elif not row["completion"]:
        raise ValueError(f"{where}: the completion is empty, so there is nothing to learn from this pair; remove it.")
    else:
        prompt = _at(where, as_prompt, prompt, tokenizer, chat)
        prompt_ids = _at(where, encode_prompt, prompt, tokenizer)
        # a trace that was written under another prompt may have one <think> too many or too few for this one
        said = fit_trace(row["completion"], opened=opens_trace(prompt_ids, tokenizer), finish_reason=finish_reason)
        completion_ids = _at(where, encode_completion, said, tokenizer, finish_reason)
        row = {**row, "completion": said, "token_source": "text"}
    for name, ids in (("prompt_ids", prompt_ids), ("completion_ids", completion_ids)):
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < 2**31 for i in ids):
            raise ValueError(f"{where}: {name} must be a list of non-negative integers, not {str(ids)[:60]}.")
    if not completion_ids:
        raise ValueError(f"{where}: no completion token, so there is nothing to learn from this pair; remove it.")
    sample, teacher = row.get("sample", 0), row.get("teacher", "unknown")
    if type(sample) is not int or not 0 <= sample < 2**31 or not isinstance(teacher, str):
        raise ValueError(
            f"{where}: sample must be an integer from 0 and teacher text, not {sample!r:.60} and {teacher!r:.60}."
        )
    key = row.get("id")
    if isinstance(key, bool) or not isinstance(key, str | int | None):
        raise ValueError(f"{where}: id must be text, not {str(key)[:60]}.")
    return {
        "id": str(key) if key not in (None, "") else fingerprint(prompt_ids, completion_ids, sample, teacher),
        "prompt": prompt,
        "completion": row["completion"],
        "prompt_ids": prompt_ids,
        "completion_ids": completion_ids,
        "finish_reason": finish_reason,
        "sample": sample,
        "teacher": teacher,
        **optional_columns(row, where, completion_ids),
    }


def _at(where: str, function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
