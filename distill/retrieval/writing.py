"""Writing facts out of documents: a teacher asks about each sentence, words each question anew and turns it round; all is verified."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from distill.basics.fingerprint import fingerprint
from distill.basics.processes import tell
from distill.generation import generate
from distill.retrieval.altering import alterations as altered_passages
from distill.retrieval.altering import silent_beside
from distill.retrieval.chunks import sentence_ends
from distill.retrieval.coverage import Coverage
from distill.retrieval.documents import Document
from distill.retrieval.passages import Passage
from distill.retrieval.row_modes import KnownFact
from distill.retrieval.rows import passages_of
from distill.retrieval.verifying import (
    ASKED,
    NO_FORM,
    NOT_SAID,
    WRONG,
    fault_of_question,
    fault_of_reverse,
    fault_of_wording,
    kind_of,
    names,
    question_and_answer,
)  # fmt: skip
from distill.retrieval.worked import to_answer, to_ask, to_reverse, to_reword
from distill.teachers.base import ConcurrentTeacher, Teacher
from distill.text.saying import says, value_words
from distill.text.words import words

# Headings, tables, rulers, code and lists' marks are no sentences to ask about.
_CODE = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n]*\n.*?^[ \t]*\1[ \t]*$", re.MULTILINE | re.DOTALL)
_UNDERLINED = re.compile(r"(?:\A|\n[ \t]*\n)[^\n]+\n[ \t]*([-=~^])\1{2,}[ \t]*(?=\n|\Z)")
_ITEM = re.compile(r"^[ \t]*(?:[-*+\u2022]|\d{1,3}[.)])[ \t]+", re.MULTILINE)
_MARKS = re.compile(r"^[ \t]*(?:#{1,6}[ \t].*|\|.*|[-=~`]{3,}.*)$", re.MULTILINE)
STAGES = {
    "questions": "Questions about sentences",
    "wordings": "Other wordings of questions",
    "reversed": "Questions turned round",
    "asked_back": "Questions asked back",
}
SHORTEST = 4  # words of a sentence that is asked about


@dataclass
class _Written:
    """A fact on its way: what was written about it so far."""

    id: str
    answer: str
    passage: Passage
    questions: list[str]
    reverse: list[tuple[str, str]] = field(default_factory=list)


def facts_of_documents(
    teacher: Teacher | ConcurrentTeacher,
    documents: Iterable[Document],
    *,
    wordings: int = 4,
    samples: int = 2,
    alterations: int = 3,
    chunks: int | None = None,
    ask_back: bool = True,
    seed: int = 0,
    temperature: float = 0.7,
    output: str | os.PathLike[str] | None = None,
    **asking: Any,
) -> tuple[list[KnownFact], Coverage]:
    """Facts of any documents, written by a teacher that reads one passage at a time, and verified against it.

    A fact is an answer in a sentence of a document: questions about one sentence with the same answer and a name in common are
    wordings of one fact, and so is a question that was written twice. Of each sentence the teacher writes questions with their answers; kept are those whose answer stands in the passage, that do not give it
    away, and that can be understood alone. Then each question is asked back with the passage in sight: it is kept if the teacher
    answers the same (round-trip filtering; Alberti et al. 2019).

    Args:
        teacher: any; a small one writes few questions that can be used.
        documents: e.g. `Documents.read("docs")`.
        wordings: questions a fact at most.
        samples: questions that are written about each sentence.
        alterations: altered passages a fact, for mixed rows.
        chunks: only so many passages, chosen by a hash of their words; None: all.
        ask_back: False: leave that last check out, for rows that a teacher answers anyway (`rows.answered` makes it).
        seed, temperature: of what is written.
        output: journals are written beside it, `.questions.jsonl` and so on, and continued.
        asking: see `generate`: `batch_size`, `progress`, `share`, `allow_refusals`.

    Returns:
        The facts, in the order of the documents, and what was written and turned down.

    Raises:
        ValueError: a number out of range; no sentence to ask about; nothing that was written can be used (with what it was turned
            down for); as `generate`.
    """
    if wordings < 1 or samples < 1 or alterations < 0 or (chunks is not None and chunks < 1):
        raise ValueError(
            f"wordings is {wordings}, samples {samples}, alterations {alterations} and chunks {chunks}; they are at least 1 (alterations 0)."
        )
    passages = [passage for document in documents for passage in passages_of(document)]
    if chunks is not None and chunks < len(passages):
        chosen = {p.chunk for p in sorted(passages, key=lambda p: fingerprint(seed, p.text, p.document))[:chunks]}
        passages = [passage for passage in passages if passage.chunk in chosen]
    coverage = Coverage()
    ask = _Asking(teacher, output, {"seed": seed, "temperature": temperature, **asking})
    taken = _Taken()
    facts = _questions(ask, passages, samples, coverage, taken)
    _words_anew(ask, facts, wordings, coverage, taken)
    _turns_round(ask, facts, coverage, taken)
    if ask_back:
        facts = _asked_back(ask, facts, coverage)
    if not facts:
        raise ValueError(
            f"Of {coverage.checked['questions']:,} questions that the teacher wrote none can be used; a larger teacher is needed.\n{coverage.table()}"
        )
    known = [_known(fact, coverage.kinds[fact.id], facts, passages, wordings, alterations) for fact in facts]
    return known, coverage


@dataclass
class _Asking:
    """How the teacher is asked at every stage, each with its own journal."""

    teacher: Teacher | ConcurrentTeacher
    output: str | os.PathLike[str] | None
    settings: dict[str, Any]

    def __call__(self, stage: str, prompts: Sequence[Any], **more: Any) -> dict[str, list[str]]:
        """What is written for each prompt, by the fingerprint of the prompt."""
        if not prompts:
            return {}
        beside = None if self.output is None else f"{os.fspath(self.output)}.{stage}.jsonl"
        unique = list({fingerprint(prompt): prompt for prompt in prompts}.values())
        if self.settings.get("progress", True):
            tell(f"{STAGES[stage]}: {len(unique):,} prompts, {more.get('samples', 1)} of each.")
        pairs = generate(self.teacher, unique, output=beside, **{**self.settings, **more})
        found: dict[str, list[str]] = {}
        for pair in pairs:
            found.setdefault(fingerprint(pair["prompt"]), []).append(pair["completion"])
        return found


class _Taken:
    """The answer of each question: a bare question that has two would teach both, whatever documents they are from."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, ...], list[str]] = {}

    def fault(self, question: str, answer: str) -> str | None:
        """Why a question cannot be asked with this answer; where it can, it is taken."""
        wanted = value_words(answer)
        return None if self._answers.setdefault(tuple(words(question)), wanted) == wanted else ASKED


class _Names:
    """The name of the fact that a question is about: its document and answer, and a number where another fact has both."""

    def __init__(self) -> None:
        self._asked: dict[
            str, list[list[tuple[str, str]]]
        ] = {}  # of each name without its number: facts, each with sentences and questions

    def fact(self, document: str, sentence: str, question: str, answer: str) -> str:
        name = f"{document}#{' '.join(value_words(answer))}"
        facts = self._asked.setdefault(name, [])
        place = next((i for i, fact in enumerate(facts) if self._same(fact, sentence, question)), len(facts))
        if place == len(facts):
            facts.append([])
        facts[place].append((sentence, question))
        return name if place == 0 else f"{name} ({place + 1})"

    @staticmethod
    def _same(fact: list[tuple[str, str]], sentence: str, question: str) -> bool:
        """Two sails of the mill and two arches of the bridge are two facts; a mayor who built the mill has two, too."""
        if any(words(other) == words(question) for _, other in fact):
            return True
        mine = names(question)
        return any(
            there == sentence and (not mine or not names(other) or any(says(other, name) for name in mine))
            for there, other in fact
        )


def _questions(
    ask: _Asking, passages: Sequence[Passage], samples: int, coverage: Coverage, taken: _Taken
) -> list[_Written]:
    """Facts with the questions that can be used, and every fact that was asked about in the coverage."""
    sentences = {passage.chunk: sentences_of(passage.text) for passage in passages}
    about = [
        (passage, sentence, to_ask(passage, sentence)) for passage in passages for sentence in sentences[passage.chunk]
    ]
    if not about:
        raise ValueError(
            f"The documents have {len(passages)} passages and no sentence of {SHORTEST} words or more to ask about (headings, tables and code "
            "are left out)."
        )
    written = ask("questions", [prompt for *_, prompt in about], samples=samples, max_new_tokens=64)
    facts: dict[str, _Written] = {}
    names_of = _Names()
    for passage, sentence, prompt in about:
        for text in written.get(fingerprint(prompt), []):
            found = question_and_answer(text)
            question, answer = found or (text.strip().splitlines()[0] if text.strip() else "", "")
            fault = (
                NO_FORM
                if found is None
                else fault_of_question(question, answer, passage.text, passage.title, sentences[passage.chunk])
            )
            kind, name = kind_of(question), names_of.fact(passage.document, sentence, question, answer)
            if found is not None and fault != NOT_SAID:
                coverage.kinds.setdefault(name, kind)  # of what is turned down, too: a kind that is lost has a name
            if coverage.look("questions", kind, fault or taken.fault(question, answer)):
                fact = facts.setdefault(name, _Written(name, answer, passage, []))
                if not any(words(question) == words(other) for other in fact.questions):
                    fact.questions.append(question)
    return list(facts.values())


def _words_anew(ask: _Asking, facts: Sequence[_Written], wordings: int, coverage: Coverage, taken: _Taken) -> None:
    """Other wordings of first questions, as many as are missing; twice as many are drawn, because some cannot be used."""
    short = [fact for fact in facts if len(fact.questions) < wordings]
    if not short:
        return
    written = ask("wordings", [to_reword(fact.questions[0]) for fact in short], samples=2 * wordings, max_new_tokens=48)
    for fact in short:
        first = fact.questions[0]
        for text in written.get(fingerprint(to_reword(first)), []):
            wording = text.strip()
            fault = fault_of_wording(wording, fact.answer, first) or taken.fault(wording, fact.answer)
            known = any(words(wording) == words(other) for other in fact.questions)
            if coverage.look("wordings", coverage.kinds[fact.id], fault) and not known:
                fact.questions.append(wording)


def _turns_round(ask: _Asking, facts: Sequence[_Written], coverage: Coverage, taken: _Taken) -> None:
    """The same fact asked the other way round."""
    written = ask("reversed", [to_reverse(fact.questions[0], fact.answer) for fact in facts], max_new_tokens=64)
    for fact in facts:
        first = fact.questions[0]
        for text in written.get(fingerprint(to_reverse(first, fact.answer)), []):
            found = question_and_answer(text)
            fault = NO_FORM if found is None else fault_of_reverse(*found, first, fact.answer, fact.passage.text)
            fault = fault or taken.fault(*(found or ("", "")))
            if coverage.look("turned round", coverage.kinds[fact.id], fault) and found is not None:
                fact.reverse.append(found)


def _asked_back(ask: _Asking, facts: Sequence[_Written], coverage: Coverage) -> list[_Written]:
    """Only what the teacher, reading the passage, answers as it was written."""
    asked = [(fact, question) for fact in facts for question in [*fact.questions, *(one for one, _ in fact.reverse)]]
    prompts = [to_answer(question, [fact.passage]) for fact, question in asked]
    written = ask("asked_back", prompts, temperature=0.0, max_new_tokens=32)

    def holds(fact: _Written, question: str, answer: str) -> bool:
        said = written.get(fingerprint(to_answer(question, [fact.passage])), [])
        right = any(says(text, answer) for text in said)
        return coverage.look("asked back", coverage.kinds[fact.id], None if right else WRONG)

    for fact in facts:
        fact.questions = [question for question in fact.questions if holds(fact, question, fact.answer)]
        fact.reverse = [(question, answer) for question, answer in fact.reverse if holds(fact, question, answer)]
    return [fact for fact in facts if fact.questions]


def _known(
    fact: _Written,
    kind: str,
    facts: Sequence[_Written],
    passages: Sequence[Passage],
    wordings: int,
    alterations: int,
) -> KnownFact:
    others = [other.answer for other in facts if other is not fact]
    return KnownFact(
        id=fact.id,
        kind=kind,
        answer=fact.answer,
        questions=tuple(fact.questions[:wordings]),
        reverse=tuple(dict.fromkeys(fact.reverse)),
        passage=fact.passage,
        silent=silent_beside(fact.passage, fact.answer, passages),
        altered=altered_passages(fact.passage, fact.answer, others, alterations, questions=fact.questions),
    )


def sentences_of(text: str) -> list[str]:
    """Sentences of a passage that can be asked about: no headings, no tables, no fenced code, none of few words; an item of a list is one.

    Example:
        >>> sentences_of("# Oden\\n\\nOden has a mill that is old. Yes.")
        ['Oden has a mill that is old.']
    """
    plain = text
    for one in (_CODE, _UNDERLINED, _MARKS, _ITEM):
        plain = one.sub("\n\n", plain)
    found = []
    for paragraph in re.split(r"\n[ \t]*\n", plain):
        ends = [0, *sentence_ends(paragraph, 0, len(paragraph)), len(paragraph)]
        found += [" ".join(paragraph[start:end].split()) for start, end in pairwise(ends)]
    return [one for one in found if len(words(one)) >= SHORTEST]
