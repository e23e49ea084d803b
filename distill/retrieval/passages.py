"""Passages and the one wording of prompts: a question with what was found for it, or alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from distill.text.messages import Messages

INSTRUCTION = "Answer the question with the passages. Where they do not say it, answer from what you know."


@dataclass(frozen=True)
class Passage:
    """A piece of a document, as it is shown to a model.

    Args:
        text: its words, as they stand in the document.
        source: where the document is from: a path, an address.
        title: of the document, and the headings above the passage.
        date: of the document, as it is written there.
        document: the document's id.
        score: how well it fits the question; larger is better, and only comparable within one search.
        chunk: the id of the chunk in its index.
    """

    text: str
    source: str
    title: str = ""
    date: str | None = None
    document: str = ""
    score: float = 0.0
    chunk: str = ""

    @property
    def shown(self) -> str:
        """All that a model is shown of it: title, source and text; what one of these says is told."""
        return f"{self.title}\n{self.source}\n{self.text}"


@runtime_checkable
class Retriever(Protocol):
    """Whatever finds passages for a question: an `Index`, or an object of your own with this one method."""

    def search(self, query: str, k: int) -> list[Passage]:
        """At most `k` passages, the best first; none where nothing fits."""
        ...


def bare(question: str, *, system: str | None = None) -> Messages:
    """The prompt of a question alone: what a model answers from its weights.

    Args:
        question: its words.
        system: a system text before it.

    Raises:
        ValueError: an empty question.

    Example:
        >>> bare("What is distillation?")
        [{'role': 'user', 'content': 'What is distillation?'}]
    """
    return [*_system(system), {"role": "user", "content": _checked(question)}]


def with_passages(question: str, passages: Sequence[Passage], *, system: str | None = None) -> Messages:
    """The prompt of a question with passages before it, in the order given, numbered from 1.

    Every prompt with passages has this wording, in training rows and in answers: a student that was trained on another one than
    it is asked with answers worse. What a passage says is a quotation: its control tokens become the characters they are
    written with (`distill.text.encode.encode_prompt`). Orders in plain words ("ignore the question") are words to a model as any
    others; that none is followed cannot be promised.

    Args:
        question: its words.
        passages: at least one.
        system: a system text before all.

    Raises:
        ValueError: an empty question; no passages.
    """
    if not passages:
        raise ValueError(
            f"No passage was given for the question {question[:60]!r}; a question alone is asked with bare(...)."
        )
    quoted = "\n\n".join(f"{_head(i, passage)}\n{passage.text.strip()}" for i, passage in enumerate(passages, start=1))
    words = f"{INSTRUCTION}\n\n{quoted}\n\nQuestion: {_checked(question)}"
    return [*_system(system), {"role": "user", "content": words}]


def _head(number: int, passage: Passage) -> str:
    """`[1] Title (source, date)`, on one line whatever they hold: a line's end in a title would look like the passage."""
    where = ", ".join(_line(part) for part in (passage.source, passage.date) if part)
    title = _line(passage.title)
    return f"[{number}] {title} ({where})" if title and where else f"[{number}] {title or where}".rstrip()


def _line(text: str) -> str:
    return " ".join(text.split())


def _checked(question: Any) -> str:
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"A question is a text with words in it, not {question!r}.")
    return question


def _system(text: str | None) -> Messages:
    return [{"role": "system", "content": text}] if text else []
