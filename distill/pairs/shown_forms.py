"""Teacher's prompts of rows that have token ids: in words and in tokens, or in neither."""

from collections.abc import Mapping
from typing import Any

from distill.text.messages import check_messages


def check_both_forms(found: Mapping[str, Any], where: str) -> None:
    """Raise `ValueError` unless a row says in words and in tokens what its teacher was shown, or neither."""
    words, ids = found.get("teacher_prompt"), found.get("teacher_prompt_ids")
    if words is None and ids is None:
        return
    if words is None:
        raise ValueError(
            f"{where}: teacher_prompt_ids without teacher_prompt, the same for people; give both, or pass the tokenizer to load_pairs."
        )
    if ids is None:
        raise ValueError(
            f"{where}: teacher_prompt without teacher_prompt_ids, its tokens; pass the tokenizer to load_pairs to make them."
        )
    if not isinstance(ids, list) or not ids or not all(type(i) is int and 0 <= i < 2**31 for i in ids):
        raise ValueError(
            f"{where}: teacher_prompt_ids must be a list of one non-negative integer or more, not {str(ids)[:60]}; null where the "
            "teacher was shown the prompt."
        )
    if not isinstance(words, str):
        try:
            check_messages(words)
        except ValueError as error:
            raise ValueError(f"{where}: teacher_prompt: {error}") from None
