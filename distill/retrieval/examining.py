"""Examining a model about facts: questions, its most likely answers with or without passages, and which of them are right.

Grading and intervals are in `distill.retrieval.grading`.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.retrieval.grading import by_chance, first_said
from distill.retrieval.passages import Passage, Retriever, bare, with_passages
from distill.teachers.base import Sampling
from distill.teachers.local import LocalTeacher
from distill.text.saying import said_at

NEW_TOKENS = 32  # an answer cut at 16 was wrong in looks only
TOGETHER = 8192  # tokens of prompts at once, padding counted


@dataclass(frozen=True)
class Question:
    """One question of an examination.

    Args:
        id: its own.
        fact: which fact it is about; the unit that intervals count.
        column: under which heading its answer counts, such as `"stable"`.
        text: its words.
        expected: the value that is right.
        old: the value that was right before, and is wrong now.
        traps: other wrong values to look out for, where a passage that is shown says them and the question does not.
        kind: of the fact; chance is counted among facts of one kind.
        only_distractors: passages that say the expected value are left out, so that what is found is never the answer.

    Raises:
        ValueError: no words in the question or in its value.
    """

    id: str
    fact: str
    column: str
    text: str
    expected: str
    old: str | None = None
    traps: tuple[str, ...] = ()
    kind: str = ""
    only_distractors: bool = False

    def __post_init__(self) -> None:
        for name, value in (("text", self.text), ("expected", self.expected)):
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"The {name} of the question {self.id!r} is {value!r}; it must have words.")
        if self.old is not None and said_at(self.old, self.expected) == 0 == said_at(self.expected, self.old):
            raise ValueError(f"The question {self.id!r} expects {self.expected!r}, which is its old value, too.")


@dataclass(frozen=True)
class Examined:
    """What was answered to a question.

    Args:
        question: which.
        text: the answer; empty where it was not asked, because nothing was found.
        right: it says the expected value, and none of the wrong ones before it.
        took_old: it says the old value (or a trap), and not the expected one before it.
        tokens_read: tokens of the prompt.
        seconds: of the search, and its share of its batch.
        found: a passage says the expected value; None: nothing was searched.
        passages: how many were shown.
    """

    question: Question
    text: str
    right: bool
    took_old: bool
    tokens_read: int
    seconds: float
    found: bool | None = None
    passages: int = 0

    @property
    def asked(self) -> bool:
        """Whether the model was asked at all: where nothing is found, or nothing but the answer where only distractors are shown, it is not."""
        return self.tokens_read > 0

    @property
    def counts(self) -> bool:
        """Whether it counts: a question to which nothing is found is not answered, but one without distractors has not been put to anybody."""
        return self.asked or not self.question.only_distractors

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `Examined.of` takes them back."""
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Examined":
        """What `as_dict` gave."""
        asked = {**values["question"], "traps": tuple(values["question"]["traps"])}
        return cls(**{**values, "question": Question(**asked)})


def graded(question: Question, text: str) -> tuple[bool, bool]:
    """Whether an answer is right, and whether it took a wrong value that was looked out for; the value it says first counts.

    Example:
        >>> graded(Question("1", "f", "changed", "How long?", "90", old="84"), "It is 90 km long, and was 84.")
        (True, False)
    """
    wrong = [value for value in (question.old, *question.traps) if value is not None]
    # a wrong value that is part of the right one (Osk, Lake Osk), or has it in it, cannot be told from it by its words
    wrong = [v for v in wrong if said_at(v, question.expected) is None]
    first = first_said(text, [question.expected, *wrong])
    return first == question.expected, first is not None and first != question.expected


def examine(
    model: PreTrainedModel | Any,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    *,
    retriever: Retriever | None = None,
    k: int = 3,
    system: str | None = None,
    max_new_tokens: int = NEW_TOKENS,
    batch_size: int = 64,
    bare_if_nothing: bool = False,
    progress: bool = True,
) -> list[Examined]:
    """Ask a model all questions, in batches, and grade its most likely answers.

    Args:
        model, tokenizer: who answers.
        questions: each with an id of its own.
        retriever: whoever finds passages for each question; None asks the question alone (closed-book).
        k: passages shown.
        system: a system text before every prompt.
        max_new_tokens: longest answer.
        batch_size: prompts at once, and no more than 8,192 tokens of them.
        bare_if_nothing: where nothing is found the question is asked alone; else it counts as not answered.
        progress: show a progress bar.

    Returns:
        In the order of the questions.

    Raises:
        ValueError: no questions, an id that stands twice, k below 1; a prompt that the model's context cannot hold.
    """
    _check(questions, k)
    speaker = LocalTeacher(model, tokenizer)
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=0)
    asked = [_Asked.of(one, speaker, retriever, k, system, bare_if_nothing) for one in questions]
    for one in asked:
        if one.ids and (refusal := speaker.refusal_of(one.ids, sampling)):
            raise ValueError(
                f"The question {one.question.id!r} cannot be asked: {refusal.reason}. Show fewer passages (k is {k}) or shorter ones."
            )
    texts = [""] * len(asked)
    seconds = [one.seconds for one in asked]
    with tqdm(total=len(asked), desc="Examining", unit="question", disable=not progress, leave=False) as bar:
        for rows in _batches([len(one.ids) for one in asked], batch_size):
            begun = time.monotonic()
            said = speaker.complete([asked[i].ids for i in rows], sampling, seed=0)
            took = (time.monotonic() - begun) / len(rows)
            for i, completion in zip(rows, said, strict=True):
                texts[i], seconds[i] = completion.text.strip(), seconds[i] + took
            bar.update(len(rows))
    return [
        Examined(one.question, text, *graded(one.asked, text), len(one.ids), took, one.found, one.passages)
        for one, text, took in zip(asked, texts, seconds, strict=True)
    ]


def shares(examined: Iterable[Examined], what: str = "right") -> dict[str, float]:
    """Of each fact the share of its questions whose answer is `right` (or `took_old`); the input of `over_facts`."""
    found: dict[str, list[bool]] = {}
    for one in examined:
        found.setdefault(one.question.fact, []).append(bool(getattr(one, what)))
    return {fact: sum(values) / len(values) for fact, values in found.items()}


def chance_of(examined: Sequence[Examined]) -> float:
    """Share of answers that say another fact's value: `by_chance` of an examination. Raises as it does."""
    return by_chance([(one.question.kind, one.question.expected, one.text) for one in examined])


@dataclass(frozen=True)
class _Asked:
    """A question with its prompt; without ids it is not asked."""

    question: Question
    ids: list[int]
    seconds: float
    found: bool | None
    passages: int
    asked: Question  # with those traps alone that a shown passage says, and the question does not

    @classmethod
    def of(
        cls,
        question: Question,
        speaker: LocalTeacher,
        retriever: Retriever | None,
        k: int,
        system: str | None,
        bare_if_nothing: bool,
    ) -> "_Asked":
        begun = time.monotonic()
        passages = [] if retriever is None else _search(retriever, question, k)
        took = time.monotonic() - begun
        if retriever is not None and not passages and not bare_if_nothing:
            return cls(question, [], took, False, 0, question)
        prompt = (
            with_passages(question.text, passages, system=system) if passages else bare(question.text, system=system)
        )
        found = None if retriever is None else any(said_at(p.text, question.expected) is not None for p in passages)
        traps = tuple(
            value
            for value in question.traps
            if said_at(question.text, value) is None and any(said_at(p.shown, value) is not None for p in passages)
        )
        asked = replace(question, traps=traps) if passages else question
        return cls(question, speaker.resolve_prompt(prompt)[1], took, found, len(passages), asked)


def _search(retriever: Retriever, question: Question, k: int) -> list[Passage]:
    if not question.only_distractors:
        return list(retriever.search(question.text, k))[:k]
    # more are asked for, so that k are left
    found = retriever.search(question.text, 4 * k)
    true = [question.expected, *([question.old] if question.old else [])]
    return [p for p in found if all(said_at(p.shown, value) is None for value in true)][:k]


def _batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Rows of like length together; those of length 0 are in none."""
    batches: list[list[int]] = []
    for row in sorted((i for i, length in enumerate(lengths) if length), key=lambda i: -lengths[i]):
        longest = lengths[batches[-1][0]] if batches else 0
        if not batches or len(batches[-1]) >= batch_size or longest * (len(batches[-1]) + 1) > TOGETHER:
            batches.append([])
        batches[-1].append(row)
    return batches


def _check(questions: Sequence[Question], k: int) -> None:
    if not questions:
        raise ValueError("There are no questions to examine a model with.")
    if k < 1:
        raise ValueError(f"k is {k}; at least one passage is shown, or no retriever is given.")
    seen: set[str] = set()
    for one in questions:
        if one.id in seen:
            raise ValueError(f"Two questions have the id {one.id!r}; each has its own.")
        seen.add(one.id)
