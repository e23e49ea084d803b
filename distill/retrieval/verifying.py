"""Verifying what a teacher wrote about a passage: a question that stands alone, and an answer that stands in the passage."""

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from distill.text.saying import says, value_words
from distill.text.words import NO_SPACES, words

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

# Marks of a question: Latin, of full width, Arabic, Greek, Ethiopic; in Greek it may be written as a semicolon.
_ASKING, _GREEK = "?\uff1f\u061f\u037e\u1367", re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]")
_FORM = re.compile(
    rf"\s*(?:Question[:\uff1a]\s*)?(?P<question>[^\n]*[{_ASKING};])\s*\n+\s*Answer[:\uff1a][ \t]*(?P<answer>\S[^\n]*?)\s*(?:\n|$)"
)
# Where words have no spaces between them a number stands by itself, and not with the characters around it.
_LETTER = rf"[^\W{NO_SPACES}]"
_WORD = re.compile(rf"(?P<number>{_LETTER}*\d{_LETTER}*(?:[.,'\u2019]\d+)*)|{_LETTER}+")
_NO_SPACE = re.compile(f"[{NO_SPACES}]")
_BEGINNING = re.compile(
    r"(?:\A|[.!?]\s)[^\w\s]*\Z"
)  # of a sentence, where any word has a capital; "¿" may stand before it
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
    if found is None or not _asks(found["question"].strip()):
        return None
    return found["question"].strip(), found["answer"].strip().rstrip(".\u3002").strip()


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
    if not _asks(question) or len(words(question)) < 3 or "\n" in question:
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

    In German every noun is one; scripts without capitals (Chinese, Arabic, Hindi, ...) have numbers alone.

    Example:
        >>> names("Who built the mill of 31.5 metres at Oden?")
        ['31.5', 'Oden']
    """
    return [
        found[0]
        for found in _WORD.finditer(text)
        if found["number"] or (found[0][0].isupper() and not _BEGINNING.search(text, 0, found.start()))
    ]


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


def _asks(text: str) -> bool:
    """Whether it ends with a mark of a question."""
    return text.endswith(tuple(_ASKING)) or (text.endswith(";") and _GREEK.search(text) is not None)


def _named(question: str, passage: str, title: str) -> bool:
    """Whether it can be understood without the passage: it has a name of it, a number, or a word of its title.

    Where letters have no capitals names cannot be told; there it is enough that a word of some length is the passage's or the title's.
    """
    spoken = _long(question)
    without_capitals = not any(letter.isupper() or letter.islower() for letter in question)
    if spoken & _long(title) or (without_capitals and spoken & _long(passage)):
        return True
    return any(says(passage, name) for name in names(question))


def _long(text: str) -> set[str]:
    """Numbers, words of more than three letters, and two characters together where words have no spaces between them."""
    found = words(text)
    pairs = {a + b for a, b in pairwise(found) if _NO_SPACE.match(a) and _NO_SPACE.match(b)}
    return pairs | {word for word in found if word.isdigit() or (len(word) > 3 and not _NO_SPACE.match(word))}
