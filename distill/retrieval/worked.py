"""Worked examples that a teacher sees before it writes about a passage; the student is never shown them."""

from collections.abc import Sequence
from typing import NamedTuple

from distill.retrieval.passages import Passage, with_passages
from distill.text.messages import Messages


class Worked(NamedTuple):
    """A passage, a sentence of it, and all that is written about it."""

    passage: Passage
    sentence: str
    question: str
    answer: str
    reworded: str
    reverse: str
    reverse_answer: str


class Answered(NamedTuple):
    """A passage, a question and its short answer: a worked example of answering alone."""

    passage: Passage
    question: str
    answer: str


def _passage(title: str, text: str) -> Passage:
    return Passage(text=text, source=f"{title.lower().replace(' ', '_')}.txt", title=title)


WORKED = (
    Worked(
        _passage("Corran Lighthouse", "Corran Lighthouse stands on a low cliff. It is 31 metres tall. Its keeper is Ada Brewer."),
        "It is 31 metres tall.",
        "How tall is Corran Lighthouse?", "31 metres",
        "What is the height of Corran Lighthouse?",
        "Which lighthouse is 31 metres tall?", "Corran Lighthouse",
    ),
    Worked(
        _passage("The Pellworth Library", "The Pellworth Library was opened by Simon Vale. In winter it closes at four. Most of its books are maps."),
        "The Pellworth Library was opened by Simon Vale.",
        "Who opened the Pellworth Library?", "Simon Vale",
        "By whom was the Pellworth Library opened?",
        "Which library was opened by Simon Vale?", "Pellworth Library",
    ),
    Worked(
        _passage("Garnet Foods", "Garnet Foods is a small firm. Its kitchen is in Lower Marsh. It sells pickled plums, and has two vans."),
        "It sells pickled plums, and has two vans.",
        "What does Garnet Foods sell?", "pickled plums",
        "Which goods are sold by Garnet Foods?",
        "Which firm sells pickled plums?", "Garnet Foods",
    ),
    Worked(
        _passage("The Heron", "The Heron is a ferry with a red funnel. It sails from Dunmere every morning. Nobody sails at night."),
        "It sails from Dunmere every morning.",
        "Where does the Heron sail from?", "Dunmere",
        "From which place does the Heron sail?",
        "Which ferry sails from Dunmere?", "Heron",
    ),
)  # fmt: skip


ANSWERED = tuple(Answered(one.passage, one.question, one.answer) for one in WORKED)


def to_answer(question: str, passages: Sequence[Passage], examples: Sequence[Answered] = ANSWERED) -> Messages:
    """The prompt by which a teacher answers shortly: examples, then the question with its passages in their one wording."""
    turns: Messages = []
    for one in examples:
        turns += _turns(with_passages(one.question, [one.passage])[-1]["content"], one.answer)
    return [*turns, *with_passages(question, passages)]


def to_ask(passage: Passage, sentence: str) -> Messages:
    """The prompt by which a teacher writes a question about a sentence, and its answer."""
    turns: Messages = []
    for one in WORKED:
        turns += _turns(_about(one.passage, one.sentence), f"Question: {one.question}\nAnswer: {one.answer}")
    return [*turns, _user(_about(passage, sentence))]


def to_reword(question: str) -> Messages:
    """The prompt by which a teacher asks the same in other words."""
    turns: Messages = []
    for one in WORKED:
        turns += _turns(_in_other_words(one.question), one.reworded)
    return [*turns, _user(_in_other_words(question))]


def to_reverse(question: str, answer: str) -> Messages:
    """The prompt by which a teacher turns a question round."""
    turns: Messages = []
    for one in WORKED:
        written = f"Question: {one.reverse}\nAnswer: {one.reverse_answer}"
        turns += _turns(_turned(one.question, one.answer), written)
    return [*turns, _user(_turned(question, answer))]


def _about(passage: Passage, sentence: str) -> str:
    return (
        f"{passage.title}\n\n{passage.text.strip()}\n\nWrite a question about this sentence, with the names that one needs to understand "
        f"it alone, and a short answer in its words: {sentence}"
    )


def _in_other_words(question: str) -> str:
    return f"Ask the same in other words: {question}"


def _turned(question: str, answer: str) -> str:
    return f"Turn this round, so that what was asked about is the answer.\nQuestion: {question}\nAnswer: {answer}"


def _user(words: str) -> dict[str, str]:
    return {"role": "user", "content": words}


def _turns(asked: str, said: str) -> Messages:
    return [_user(asked), {"role": "assistant", "content": said}]
