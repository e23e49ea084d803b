"""Borders of turns: tokens after which a completion should have ended."""

from typing import Any

from transformers import PreTrainedTokenizerBase

from distill.models.eos import eos_ids
from distill.text.encode import turn_end_id, user_header_ids
from distill.text.rows import encode_rows

_ASK, _SAY = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


def turn_borders(tokenizer: PreTrainedTokenizerBase, model: Any = None) -> set[int]:
    """Tokens that end a turn, or begin another speaker's, and stand nowhere inside a turn of this template.

    A control token alone says nothing: gpt-oss writes channels into every turn.
    """
    ends = {i for i in (*eos_ids(model, tokenizer), turn_end_id(tokenizer)) if i is not None}
    if tokenizer.chat_template is None:
        return ends
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    try:
        begin = special & set(user_header_ids(tokenizer))
    except ValueError:
        begin = set()
    turns = encode_rows([{"messages": [_ASK, said]} for said in (_SAY, {**_SAY, "reasoning_content": "c"})], tokenizer)
    inside = {i for pairs in turns if not isinstance(pairs, ValueError) for i in pairs[0]["completion_ids"][:-1]}
    return ends | begin - inside
