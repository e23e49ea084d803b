"""Whose tokens pairs are, and the same pairs in another tokenizer's."""

import json
from typing import TYPE_CHECKING, Any

import datasets

from distill.basics.processes import say
from distill.pairs.blocks import BLOCK_ROWS, rows_of_table
from distill.pairs.checking import checked_row
from distill.pairs.schema import encoded
from distill.pairs.shown_forms import refuse_without_words
from distill.pairs.storing import Store
from distill.pairs.tables import table_of
from distill.text.encode import encode_prompt
from distill.text.messages import read_tools, read_values, text_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OWN = ("system", "functions", "messages")  # said something where there were no ids yet


def are_tokens_of(pairs: datasets.Dataset, tokenizer: "PreTrainedTokenizerBase", rows: int = 16) -> bool:
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


def _asked_ids(row: dict[str, Any], tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    beside = read_tools(row.get("tools")), read_values(row.get("chat_template_kwargs"))
    return encode_prompt(row["prompt"], tokenizer, *beside)


def retokenize(pairs: datasets.Dataset, tokenizer: "PreTrainedTokenizerBase") -> datasets.Dataset:
    """The same pairs in another tokenizer's tokens, made from their text; for a student that has not the teacher's tokens.

    What stands beside a pair is kept, but `top_logprobs`, which are of the teacher's tokens. A pair's `prompt` and `tools` are all that
    was asked: a column `system` beside token ids is somebody's own, and no turn.

    Raises:
        ValueError: a completion without text, or a prompt the tokenizer cannot encode; pairs with a loss mask, which is one of
            tokens; pairs that say in tokens alone what the teacher was shown.
    """
    if "loss_mask" in pairs.column_names:
        raise ValueError(
            "These pairs have a loss_mask of other tokens, so they cannot be tokenised anew; load the conversations they were made "
            "from with this student's tokenizer."
        )
    store = Store()
    for table in pairs.with_format("arrow").iter(BLOCK_ROWS):
        rows = [row for row in rows_of_table(table) if row["completion"] or row.get("message")]
        made = encoded([_text_of(row) for row in rows], tokenizer)
        if rows:
            store.add(table_of([_checked(row, found) for row, found in zip(rows, made, strict=True)]))
    if own := [name for name in _OWN if name in pairs.column_names]:
        say(
            f"Carried along, and not shown to the chat template: {', '.join(own)}. What was asked is in prompt and tools."
        )
    if store.rows < len(pairs):
        say(
            f"{len(pairs) - store.rows} of {len(pairs)} pairs have an empty text (the teacher ended at once) and are left out."
        )
    if not store.rows:
        raise ValueError("None of the pairs has a text to tokenise.")
    return store.dataset()


def _text_of(row: dict[str, Any]) -> dict[str, Any]:
    """What a pair says without its tokens; a turn that is more than a text goes through the other template whole."""
    refuse_without_words(row, "nobody knows its words, which another tokenizer would take")
    tokens = ("prompt_ids", "completion_ids", "teacher_prompt_ids", "top_logprobs", "token_source", "message")
    kept = {name: value for name, value in row.items() if name not in tokens and name not in _OWN}
    return kept if row.get("message") is None else {**kept, "completion": [json.loads(row["message"])]}


def _checked(row: dict[str, Any], found: Any) -> dict[str, Any]:
    if isinstance(found, ValueError):
        raise ValueError(f"pair {row['id']}: {found}")
    own = {name: row[name] for name in _OWN if name in row}
    return checked_row({**found[0], **own}, f"pair {row['id']}")
