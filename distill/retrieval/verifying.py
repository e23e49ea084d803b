"""Verifying what a teacher wrote about a passage: a question that stands alone, and an answer that stands in the passage."""

import re
from collections.abc import Iterable
from typing import Any

from distill.text.saying import says, value_words
from distill.text.words import words

LONGEST_ANSWER = 12  # words
# why a question is not used, in the order in which it is looked at; the words that a coverage is printed with
NO_FORM = "not of the form asked for"
NOT_SAID = "the answer does not stand in the passage"
LONG = f"the answer has more than {LONGEST_ANSWER} words"
WHOLE = "the answer is a whole sentence"
GIVEN_AWAY = "the question says the answer"
NO_QUESTION = "no question"
OF_THE_PASSAGE = "the question speaks of the passage"
NAMES_NOTHING = "the question names nothing of the passage"
OTHER_NAMES = "another wording leaves out a name or a number"
ASKED = "asked already, with another answer"
NOT_TURNED = "not turned round"
WRONG = "the teacher, reading the passage, answers otherwise"

_FORM = re.compile(r"\s*(?:Question:\s*)?(?P<question>[^\n]*\?)\s*\n+\s*Answer:[ \t]*(?P<answer>\S[^\n]*?)\s*(?:\n|$)")
_NAME = re.compile(r"(?<![.!?]\s)(?<!^)\b(?:[^\W\d_a-z]\w*|\w*\d\w*(?:[.,'\u2019]\d+)*)")
_PASSAGE_WORDS = {"passage", "passages", "text", "sentence", "paragraph", "document", "excerpt"}


def supported(row: dict[str, Any], completion: str) -> bool:
    """Does the completion give the row's `answer`? A verifier, as `distill.curation.verifiers` has them.

    Example:
        >>> supported({"answer": "31 metres"}, "It is 31 metres tall.")
        True
    """
    if not isinstance(row.get("answer"), str) or not value_words(row["answer"]):
        raise ValueError(f"the row's answer is {row.get('answer')!r}; it must be a text with words.")
    return says(completion, row["answer"])


def question_and_answer(written: str) -> tuple[str, str] | None:
    """What a teacher wrote as `Question: ...` and `Answer: ...`; None where it is not of this form."""
    found = _FORM.match(written)
    return None if found is None else (found["question"].strip(), found["answer"].strip().rstrip(".").strip())


def fault_of_question(
    question: str, answer: str, passage: str, title: str = "", sentences: Iterable[str] = ()
) -> str | None:
    """Why a question cannot be used, in a few words; None where it can.

    Args:
        question, answer: as written.
        passage: the text that the answer has to stand in.
        title: of the passage, whose words are names, too.
        sentences: of the passage; a small teacher gives one for an answer to whatever it asked.
    """
    if not says(passage, answer):
        return NOT_SAID
    if len(words(answer)) > LONGEST_ANSWER:
        return LONG
    if any(says(answer, sentence) for sentence in sentences):
        return WHOLE
    return fault_of_wording(question, answer) or (None if _named(question, passage, title) else NAMES_NOTHING)


def fault_of_wording(question: str, answer: str, original: str | None = None) -> str | None:
    """Why a wording of a question cannot be used; with its `original`, it must keep the names and numbers of that."""
    if not question.endswith("?") or len(words(question)) < 3 or "\n" in question:
        return NO_QUESTION
    if says(question, answer):
        return GIVEN_AWAY
    if _PASSAGE_WORDS & set(words(question)):
        return OF_THE_PASSAGE
    if original is not None and not all(says(question, name) for name in names(original)):
        return OTHER_NAMES
    return None


def fault_of_reverse(question: str, answer: str, forward: str, value: str, passage: str) -> str | None:
    """Why a question is not the forward one turned round: it says that one's answer, and its own stands in that one."""
    if not says(question, value) or not says(forward, answer):
        return NOT_TURNED
    return NOT_SAID if not says(passage, answer) else fault_of_wording(question, answer)


def names(text: str) -> list[str]:
    """Words with a capital inside a sentence, and whatever has a digit, numbers whole.

    Example:
        >>> names("Who built the mill of 31.5 metres at Oden?")
        ['31.5', 'Oden']
    """
    return _NAME.findall(text)


def kind_of(question: str) -> str:
    """The kind of a fact, from how it is asked: `who`, `how many`, `in which`, ..., else `other`.

    Example:
        >>> kind_of("How many people live in Oden?"), kind_of("In what year was it built?")
        ('how many', 'what year')
    """
    found = re.search(
        r"\b(how (?:many|much|long|old|tall|large|far|often)|(?:what|which) (?:year|date|day)|who|whose|when|where|why|how|which|what)\b",
        question.lower(),
    )
    return found[1].replace("which ", "what ") if found else "other"


def _named(question: str, passage: str, title: str) -> bool:
    """Whether it can be understood without the passage: it has a name of it, a number, or a word of its title."""
    spoken = set(words(question))
    of_title = {word for word in words(title) if len(word) > 3 or word.isdigit()}
    return bool(spoken & of_title) or any(says(passage, name) for name in names(question))
