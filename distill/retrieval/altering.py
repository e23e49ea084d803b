"""Altered passages: the same text with another value, so that a student learns to follow what it reads."""

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from distill.retrieval.passages import Passage
from distill.retrieval.saying import as_written, says, value_words


def altered(passage: Passage, answer: str, others: Sequence[str], seed: int = 0) -> tuple[str, Passage] | None:
    """A passage in which another value stands in place of an answer: what a document says after a change.

    A number becomes another one of as many digits; anything else is replaced by another answer of the same form (as many
    words, with capitals or without).

    Args:
        passage: that says the answer.
        answer: as it stands there.
        others: answers of other facts.
        seed: another one gives another value, where there are several.

    Returns:
        The value and the passage; None where no other value is of its form, or the passage does not have the answer as written.
    """
    draw = random.Random(f"{seed} {answer} {passage.text}")
    if any(letter.isdigit() for letter in answer):
        found = [_other_number(draw, answer) for _ in range(8)]
    else:
        found = sorted({other for other in others if _form(other) == _form(answer)})
        draw.shuffle(found)
    pattern = as_written(answer)
    for value in found:
        if value_words(value) == value_words(answer) or says(passage.text, value):
            continue
        text, count = pattern.subn(value.replace("\\", r"\\"), passage.text)
        if count and not says(text, answer):
            return value, replace(passage, text=text)
    return None


def _form(answer: str) -> tuple[int, bool]:
    return len(value_words(answer)), answer[:1].isupper()


def _other_number(draw: random.Random, answer: str) -> str:
    """Each digit drawn anew, none of them leading to a zero at the beginning."""
    return re.sub(
        r"\d+",
        lambda found: "".join(str(draw.randint(i == 0, 9)) for i in range(len(found[0]))),
        answer,
    )
