"""Teacher's prompts of rows that have token ids: their words never stand there without their tokens."""

from collections.abc import Mapping
from typing import Any

from distill.text.messages import check_messages
from distill.text.teacher_prompts import EMPTY


def check_shown_forms(found: Mapping[str, Any], where: str) -> None:
    """Raise `ValueError` where a row says in words and not in tokens what its teacher was shown, or either is of another kind.

    Tokens alone are well: then nobody knows the words, and whatever goes by words (an export, another tokenizer) refuses the row.
    """
    words, ids = found.get("teacher_prompt"), found.get("teacher_prompt_ids")
    if words is None and ids is None:
        return
    if ids is None:
        raise ValueError(
            f"{where}: teacher_prompt without teacher_prompt_ids, its tokens; pass the tokenizer to load_pairs to make them."
        )
    if not isinstance(ids, list) or not ids or not all(type(i) is int and 0 <= i < 2**31 for i in ids):
        raise ValueError(
            f"{where}: teacher_prompt_ids must be a list of one non-negative integer or more, not {str(ids)[:60]}; null where the "
            "teacher was shown the prompt."
        )
    if words == "":
        raise ValueError(f"{where}: teacher_prompt: {EMPTY}")
    if words is not None and not isinstance(words, str):
        try:
            check_messages(words)
        except ValueError as error:
            raise ValueError(f"{where}: teacher_prompt: {error}") from None


def refuse_without_words(row: Mapping[str, Any], why: str) -> None:
    """Raise `ValueError` where only the tokens are known of what a pair's teacher was shown, and `why` words are needed."""
    if row.get("teacher_prompt") is None and row.get("teacher_prompt_ids") is not None:
        raise ValueError(
            f"Pair {row['id']} says in tokens alone what its teacher was shown (teacher_prompt_ids without teacher_prompt), and {why}. "
            "Give it a teacher_prompt, or take the column teacher_prompt_ids away."
        )
