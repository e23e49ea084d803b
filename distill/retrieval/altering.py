"""Altered passages: the same text with another value, so that a student learns to follow what it reads."""

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from distill.retrieval.passages import Passage
from distill.text.saying import as_written, says, value_words

# dates, times, shares, versions, addresses, names with a digit: with other digits they would be none
_NO_NUMBER = re.compile(
    r"\d[-/:]\d|\d\.\d+\.\d|%|[^\W\d_]-?\d|\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\b", re.IGNORECASE
)


def altered(passage: Passage, answer: str, others: Sequence[str], seed: int = 0) -> tuple[str, Passage] | None:
    """A passage in which another value stands in place of an answer: what a document says after a change.

    A plain number becomes another one of as many digits, a year another year; anything else (also a date, a time, a percentage, a version, an
    address) is replaced by another answer of the same form (as many words, with capitals or without, a path for a path).

    Args:
        passage: that says the answer.
        answer: as it stands there.
        others: answers of other facts.
        seed: another one gives another value, where there are several.

    Returns:
        The value and the passage; None where no other value is of its form, or the passage does not have the answer as written, or has it in
        its title or source, too.
    """
    draw = random.Random(f"{seed} {answer} {passage.text}")
    if says(f"{passage.title}\n{passage.source}", answer):
        return None
    if is_number(answer):
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


def is_number(answer: str) -> bool:
    """Whether another value of it is drawn digit by digit, and none that another fact has."""
    return any(letter.isdigit() for letter in answer) and not _NO_NUMBER.search(answer)


def alterations(
    passage: Passage,
    answer: str,
    others: Sequence[str],
    count: int,
    without: Sequence[str] = (),
    questions: Sequence[str] = (),
) -> tuple[tuple[str, Passage], ...]:
    """Up to `count` altered passages, each with its value, of which none stands twice; see `altered`.

    Args:
        passage, answer, others: of `altered`.
        count: how many are tried.
        without: values that are not taken.
        questions: of the fact; a value that one of them says is not taken either: to repeat it would be an answer.
    """
    found = (altered(passage, answer, others, seed) for seed in range(count))
    left_out = [value_words(value) for value in without]
    return tuple(
        {
            v: (v, p)
            for v, p in filter(None, found)
            if value_words(v) not in left_out and not any(says(question, v) for question in questions)
        }.values()
    )


def silent_beside(passage: Passage, answer: str, passages: Sequence[Passage], most: int = 4) -> tuple[Passage, ...]:
    """Other passages of the same document, which do not say the answer: the distractors that look most as if they did."""
    return tuple(p for p in passages if p.document == passage.document and not says(p.text, answer))[:most]


def _form(answer: str) -> tuple[int, bool, bool, str]:
    """Words, a capital, a digit anywhere, and a mark at the beginning: a path is replaced by a path."""
    first = answer[:1]
    return len(value_words(answer)), first.isupper(), any(c.isdigit() for c in answer), "" if first.isalnum() else first


def _other_number(draw: random.Random, answer: str) -> str:
    """Each digit drawn anew, none of them leading to a zero at the beginning; a year stays one."""

    def other(found: re.Match[str]) -> str:
        digits = found[0]
        if len(digits) == 4 and 1000 <= int(digits) <= 2100:
            return str(draw.randint(int(digits) - 90, min(int(digits) + 90, 2100)))
        return "".join(str(draw.randint(i == 0, 9)) for i in range(len(digits)))

    return re.sub(r"\d+", other, answer)
