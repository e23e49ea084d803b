"""What a row may look like, and how it becomes a pair, the one training row.

| column | type | meaning |
|---|---|---|
| `id` | str | hash of everything that decided this row: teacher, prompt, sampling settings, sample index |
| `prompt` | str, or messages | what was asked, for people; one kind a file; messages with all their fields |
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
| `tools` | JSON text | the functions that the chat template was given beside the prompt |
| `chat_template_kwargs` | JSON text | the template's variables that were given beside it |
| `message` | JSON text | the assistant's turn itself, where it is more than a text: its calls, its reasoning |
| `top_logprobs` | list of `{tokens, logprobs}` | the server's most likely tokens at each place of the completion, as text |

Token ids are the truth: training uses nothing else. Text is for people, because decoding and encoding again is not the
identity.
"""

import json
from collections.abc import Collection, Iterator
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from distill.basics.fingerprint import fingerprint
from distill.text.messages import check_messages
from distill.text.rows import SAYS_A_ROW, encode_rows

COLUMNS = ("id", "prompt", "completion", "prompt_ids", "completion_ids", "finish_reason", "sample", "teacher")
OPTIONAL = (
    "token_source",
    "score",
    "score_error",
    "loss_mask",
    "tools",
    "chat_template_kwargs",
    "message",
    "top_logprobs",
)  # there only where something filled them
FINISH_REASONS = ("stop", "length")
TOKEN_SOURCES = ("teacher", "text")


def features(messages: bool, optional: Collection[str] = (), fields: bool = False) -> datasets.Features:
    """The Arrow types of pairs whose prompts are messages (with more `fields` than role and content), or plain text."""
    text, ids = datasets.Value("string"), datasets.List(datasets.Value("int32"))
    more: dict[str, Any] = {
        "token_source": text,
        "score": datasets.Value("float64"),
        "score_error": text,
        "loss_mask": datasets.List(datasets.Value("int8")),
        "tools": text,
        "chat_template_kwargs": text,
        "message": text,
        "top_logprobs": datasets.List(
            {"tokens": datasets.List(text), "logprobs": datasets.List(datasets.Value("float32"))}
        ),
    }
    message: Any = datasets.Json() if fields else {"role": text, "content": text}
    prompt: Any = datasets.List(message) if messages else text
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
    messages = not kinds.pop()
    fields = messages and any(
        m.keys() != {"role", "content"} or type(m["content"]) is not str for r in listed for m in r["prompt"]
    )
    return datasets.Dataset.from_list(listed, features=features(messages, optional, fields))


def complete_row(
    row: dict[str, Any],
    where: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    chat: bool | None = None,
    turns: str = "last",
) -> dict[str, Any]:
    """As `complete_rows`, for a row that gives one pair.

    Raises:
        ValueError: see `distill.pairs.load_pairs`.
    """
    pair, *others = complete_rows(row, where, tokenizer, chat, turns)
    if others:
        raise ValueError(f"{where}: the row gives {len(others) + 1} pairs with turns='each', where one is expected.")
    return pair


def complete_rows(
    row: dict[str, Any],
    where: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    chat: bool | None = None,
    turns: str = "last",
) -> list[dict[str, Any]]:
    """The pairs of one row with all columns, checked; token ids are made only where there are none.

    Raises:
        ValueError: see `distill.pairs.load_pairs`.
    """
    has_ids = [name in row for name in ("prompt_ids", "completion_ids")]
    missing = [name for name in ("prompt", "completion") if name not in row]
    if missing and "messages" not in row:
        raise ValueError(
            f"{where}: no {' and no '.join(missing)}; a pair has at least prompt and completion, or messages."
        )
    if (
        "completion" in row
        and not isinstance(row["completion"], str)
        and (any(has_ids) or not _is_talk(row["completion"]))
    ):
        raise ValueError(f"{where}: completion is a {type(row['completion']).__name__}, expected text.")
    if not isinstance(row.get("prompt", ""), str):
        _at(where, check_messages, row["prompt"])
    finish_reason = row.get("finish_reason", "stop")
    if finish_reason not in FINISH_REASONS:
        raise ValueError(f"{where}: finish_reason is {finish_reason!r:.60}, expected one of {FINISH_REASONS}.")
    if all(has_ids) and not missing:
        return [_checked(row, where)]
    if any(has_ids):
        raise ValueError(f"{where}: only one of prompt_ids and completion_ids; give both, or neither and a tokenizer.")
    if tokenizer is None:
        if "messages" in row:
            raise ValueError(f"{where}: A row of messages needs the student's tokenizer; pass it to load_pairs.")
        raise ValueError(
            f"{where}: no token ids; pass the student's tokenizer to load_pairs to make them from the text."
        )
    (made,) = encode_rows([row], tokenizer, chat=chat, turns=turns)
    if isinstance(made, ValueError):
        raise ValueError(f"{where}: {made}") from None
    return [_checked(beside(row, pair, number, len(made)), where) for number, pair in enumerate(made)]


def beside(row: dict[str, Any], pair: dict[str, Any], number: int, count: int) -> dict[str, Any]:
    """A pair with what else its row says; of several pairs of one row, each has an id of its own."""
    others = {name: value for name, value in row.items() if name not in SAYS_A_ROW}
    if count > 1 and others.get("id") not in (None, ""):
        others["id"] = f"{others['id']}#{number}"
    return {**others, **pair}


def _is_talk(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _checked(row: dict[str, Any], where: str) -> dict[str, Any]:
    """A row with token ids as a pair.

    Raises:
        ValueError: ids or another column of another kind than `distill.pairs` says.
    """
    prompt_ids, completion_ids = row["prompt_ids"], row["completion_ids"]
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
        "prompt": row["prompt"],
        "completion": row["completion"],
        "prompt_ids": prompt_ids,
        "completion_ids": completion_ids,
        "finish_reason": row.get("finish_reason", "stop"),
        "sample": sample,
        "teacher": teacher,
        **_optional_columns(row, where, completion_ids),
    }


def _optional_columns(row: dict[str, Any], where: str, completion_ids: list[int]) -> dict[str, Any]:
    """Those of a row that are filled, checked.

    Raises:
        ValueError: a value of another kind or size than `distill.pairs` says.
    """
    found = {name: row[name] for name in OPTIONAL if row.get(name) is not None}
    for name in ("tools", "chat_template_kwargs", "message"):
        if name in found and not isinstance(found[name], str):
            found[name] = json.dumps(found[name], ensure_ascii=False)
    source, score, error = (found.get(name) for name in ("token_source", "score", "score_error"))
    if source is not None and source not in TOKEN_SOURCES:
        raise ValueError(f"{where}: token_source is {source!r:.60}, expected one of {TOKEN_SOURCES}.")
    if score is not None and not _is_number(score):
        raise ValueError(f"{where}: score must be a finite number, not {score!r:.60}.")
    if error is not None and not isinstance(error, str):
        raise ValueError(f"{where}: score_error must be text, not {error!r:.60}.")
    mask = found.get("loss_mask")
    if mask is not None:
        if not isinstance(mask, list) or not all(type(m) is int and m in (0, 1) for m in mask):
            raise ValueError(f"{where}: loss_mask must be a list of 0 and 1, not {str(mask)[:60]}.")
        if len(mask) != len(completion_ids) or not any(mask):
            raise ValueError(
                f"{where}: loss_mask has {len(mask)} places and {sum(mask)} of them are 1; it needs one for each of the "
                f"{len(completion_ids)} completion tokens, and at least one 1."
            )
    top = found.get("top_logprobs")
    if top is not None and not (isinstance(top, list) and all(_is_top(place) for place in top)):
        raise ValueError(f"{where}: top_logprobs must be a list of {{tokens, logprobs}}, not {str(top)[:60]}.")
    return found if score is None else {**found, "score": float(score)}


def _is_top(place: Any) -> bool:
    return (
        isinstance(place, dict)
        and place.keys() == {"tokens", "logprobs"}
        and all(isinstance(value, list) for value in place.values())
        and len(place["tokens"]) == len(place["logprobs"])
        and all(isinstance(token, str) for token in place["tokens"])
        and all(map(_is_number, place["logprobs"]))
    )


def _is_number(value: Any) -> bool:
    """Finite also as the 32-bit float that log-probabilities are kept as."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 3e38


def _at(where: str, function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
