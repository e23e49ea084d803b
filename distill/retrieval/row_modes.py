"""Modes of training rows: which passages a student is shown beside a question, and what it shall answer."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distill.basics.fingerprint import fingerprint
from distill.retrieval.passages import Passage, bare, with_passages
from distill.retrieval.worked import ANSWERED, Answered, to_answer
from distill.text.saying import says

MODES = ("closed", "raft", "mixed")


@dataclass(frozen=True)
class KnownFact:
    """A fact with a passage that says it: what rows are made of, whoever wrote it.

    Args:
        id, kind: tell it and its kind from others.
        answer: short, as it stands in the passage.
        questions: wordings, each understood without the passage.
        reverse: questions the other way round, each with its answer.
        passage: says the answer.
        silent: passages that look as if they said it, and do not; they come first among distractors.
        altered: the passage with another value, and this value; may be empty.
    """

    id: str
    kind: str
    answer: str
    questions: tuple[str, ...]
    reverse: tuple[tuple[str, str], ...]
    passage: Passage
    silent: tuple[Passage, ...] = ()
    altered: tuple[tuple[str, Passage], ...] = ()


@dataclass(frozen=True)
class Setting:
    """How rows are made of facts.

    Args:
        mode: `closed`: the student sees the question alone. `raft`: passages with distractors, the golden one among them in a
            share of the rows, in any order; the answer names its source (Zhang et al. 2024). `mixed`: closed rows, and beside them
            rows with an altered passage, which is followed, and rows with distractors alone, answered from memory.
        seed: of all choices.
        k: passages in a prompt at most; with `raft` so many, in mixed rows 1 to so many.
        share: of mixed rows, those with passages.
        golden: of raft rows, those whose passages say the answer.
        examples: worked examples that the teacher sees before it answers; the more they look like its passages, the better.

    Raises:
        ValueError: no such mode; a number out of range.
    """

    mode: str = "closed"
    seed: int = 0
    k: int = 3
    share: float = 0.25
    golden: float = 0.8
    examples: tuple[Answered, ...] = ANSWERED

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode is {self.mode!r}; it must be one of {', '.join(MODES)}.")
        if self.k < 1:
            raise ValueError(f"k is {self.k}; a prompt with passages has at least 1.")
        if not 0 < self.share < 1 or not 0 <= self.golden <= 1:
            raise ValueError(
                f"share is {self.share} (above 0, below 1) and golden is {self.golden} (from 0 to 1); both are shares of the rows."
            )


def rows_of_facts(facts: Sequence[KnownFact], setting: Setting) -> list[dict[str, Any]]:
    """Training rows with the answers that are right: ordinary pairs in words.

    Args:
        facts: at least one.
        setting: how.

    Returns:
        Rows: `id`, `prompt` (what the student is shown, messages), `completion`, `teacher_prompt` (what the teacher is shown:
        worked examples and the passage that says it), `fact`, `kind`, `wording` (`forward-0`, ..., `reverse-0`, ...), `mode`
        (`closed`, `golden`, `no golden`, `counterfactual`, `distractors`), `answer`, `source` of the passage.

    Raises:
        ValueError: no facts; two of one id.
    """
    if not facts:
        raise ValueError("There are no facts; rows are made of at least one.")
    if len({fact.id for fact in facts}) < len(facts):
        raise ValueError("Two facts have one id; rows are counted per fact.")
    make: Callable[[Sequence[KnownFact], Setting], Iterator[dict[str, Any]]] = (
        _raft if setting.mode == "raft" else _closed
    )
    if setting.mode == "raft" and not any(
        _distractors(fact, facts, fact.answer, 1, random.Random(0)) for fact in facts
    ):
        raise ValueError(
            f"raft shows other passages beside the one that says the answer, and {len(facts)} facts have none; give more documents, or take "
            "another mode."
        )
    rows = [*make(facts, setting)]
    if setting.mode == "mixed":
        rows += _beside(facts, setting, round(len(rows) * setting.share / (1 - setting.share)))
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        first.setdefault(row["id"], row)
    return list(first.values())


def _asked(fact: KnownFact) -> Iterator[tuple[str, str, str]]:
    """Wording, question and answer of everything that is asked about a fact."""
    for number, question in enumerate(fact.questions):
        yield f"forward-{number}", question, fact.answer
    for number, (question, answer) in enumerate(fact.reverse):
        yield f"reverse-{number}", question, answer


def _closed(facts: Sequence[KnownFact], setting: Setting) -> Iterator[dict[str, Any]]:
    for fact in facts:
        for wording, question, answer in _asked(fact):
            yield _row(fact, wording, "closed", bare(question), answer, question, fact.passage, setting)


def _raft(facts: Sequence[KnownFact], setting: Setting) -> Iterator[dict[str, Any]]:
    draw = random.Random(f"raft {setting.seed}")
    for fact in facts:
        for wording, question, answer in _asked(fact):
            there = draw.random() < setting.golden
            shown = _distractors(fact, facts, answer, setting.k - there, draw) + [fact.passage] * there
            draw.shuffle(shown)
            prompt = with_passages(question, shown) if shown else bare(question)
            # only what was read has a source
            said = f"{answer} ({fact.passage.source})" if there else answer
            yield _row(
                fact, wording, "golden" if there else "no golden", prompt, said, question, fact.passage, setting, answer
            )


def _beside(facts: Sequence[KnownFact], setting: Setting, count: int) -> list[dict[str, Any]]:
    """Rows with passages beside the closed ones: each fact as often as any other, by turns altered and with distractors."""
    draw = random.Random(f"mixed {setting.seed}")
    made: list[dict[str, Any]] = []
    for turn in range(count):  # all facts once in each
        for place in draw.sample(range(len(facts)), len(facts)):
            if len(made) == count:
                return made
            fact = facts[place]
            number, k = draw.randrange(len(fact.questions)), draw.randint(1, setting.k)
            wording, question = f"forward-{number}", fact.questions[number]
            beside = _distractors(fact, facts, fact.answer, k, draw)
            if fact.altered and ((turn + place) % 2 == 0 or not beside):
                value, passage = fact.altered[turn // 2 % len(fact.altered)]
                shown = [passage, *_distractors(fact, facts, value, k - 1, draw, fact.answer)]
                mode, answer = "counterfactual", value
            else:
                passage, shown = fact.passage, beside
                mode, answer = "distractors", fact.answer
            if not shown:
                continue  # a fact that every passage says
            draw.shuffle(shown)
            made.append(_row(fact, wording, mode, with_passages(question, shown), answer, question, passage, setting))
    return made


def _distractors(
    fact: KnownFact, facts: Sequence[KnownFact], answer: str, count: int, draw: random.Random, also: str | None = None
) -> list[Passage]:
    """Passages that do not say the answer: those that look as if, then those of other facts."""
    found: dict[tuple[str, str], Passage] = {}

    def add(passage: Passage) -> None:
        if not says(passage.shown, answer) and not (also and says(passage.shown, also)):
            found.setdefault((passage.document, passage.text), passage)

    for passage in draw.sample(fact.silent, len(fact.silent)):
        add(passage)
    for _ in range(8 * count):
        if len(found) >= count:
            break
        add(draw.choice(facts).passage)
    return list(found.values())[: max(count, 0)]


def _row(
    fact: KnownFact, wording: str, mode: str, prompt: Any, said: str, question: str, passage: Passage, setting: Setting, answer: str | None = None
) -> dict[str, Any]:  # fmt: skip
    shown = to_answer(question, [passage], setting.examples)
    return {
        "id": fingerprint("row of a fact", fact.id, wording, mode, prompt, said, shown),
        "prompt": prompt,
        "completion": said,
        "teacher_prompt": shown,
        "fact": fact.id,
        "kind": fact.kind,
        "wording": wording,
        "mode": mode,
        "answer": said if answer is None else answer,
        "source": passage.source,
    }
