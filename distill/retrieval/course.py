"""Course of facts: which are taught, which documents change afterwards and what is asked then; of a made-up world, or documents of one's own."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from distill.basics.processes import tell
from distill.retrieval.altering import alterations, altered, silent_beside
from distill.retrieval.asked_facts import AskedFact
from distill.retrieval.coverage import Coverage
from distill.retrieval.documents import Document
from distill.retrieval.examination import examination
from distill.retrieval.examining import Question
from distill.retrieval.facts import Fact
from distill.retrieval.passages import Passage
from distill.retrieval.row_modes import KnownFact, Setting, rows_of_facts
from distill.retrieval.rows import Rows, examples_like, known_facts, passages_of
from distill.retrieval.saying import says, value_words
from distill.retrieval.worked import ANSWERED, Answered
from distill.retrieval.world import World
from distill.text.words import words

_AFTERWARDS = 1_000_003  # the seed of changes: other values than those of altered passages in training rows


@dataclass(frozen=True)
class Course:
    """Facts that are taught, others of the same documents that are not, and the documents before and after some facts changed.

    Args:
        taught: facts in training rows.
        untrained: in none.
        before, after: the documents; one that changed keeps its id.
        known: gives the taught facts as rows are made of them, each with so many altered passages at most.
        examples: worked examples that a teacher is shown.
        namesakes: wrong values that stand in documents, by fact (`World.namesakes`).
    """

    taught: tuple[Fact, ...]
    untrained: tuple[Fact, ...]
    before: tuple[Document, ...]
    after: tuple[Document, ...]
    known: Callable[[int], list[KnownFact]]
    examples: tuple[Answered, ...] = ANSWERED
    namesakes: Mapping[str, str] = field(default_factory=dict)

    @property
    def changed(self) -> tuple[Fact, ...]:
        """Those taught facts that the documents say otherwise afterwards."""
        return tuple(fact for fact in self.taught if fact.changed is not None)

    def rows(self, mode: str, *, altered: int = 0, **setting: Any) -> Rows:
        """Training rows of the taught facts, with the known answers; no fact is asked in reverse.

        Args:
            mode: `closed`, `raft` or `mixed`.
            altered: other values a fact, in altered passages.
            setting: further fields of `Setting`.
        """
        known = self.known(altered)
        rows = rows_of_facts(known, Setting(mode, examples=self.examples, **setting))
        coverage = Coverage({fact.id: fact.kind for fact in known})
        coverage.count(rows)
        return Rows(rows, coverage)

    def examination(self, *, held_out: int = 2, searched: bool) -> list[Question]:
        """What is asked after the change; see `distill.retrieval.examination.examination`."""
        return examination(self.taught, self.untrained, held_out=held_out, searched=searched, namesakes=self.namesakes)


def course_of_world(seed: int, facts: int, untrained: int, wordings: int) -> Course:
    """A course in a made-up world: facts that no model can know.

    Args:
        seed: of the world.
        facts: in training rows; half of them change.
        untrained: in none.
        wordings: training questions a fact.
    """
    world = World(seed, facts=facts + untrained)
    taught = world.facts[:facts]
    return Course(
        taught, world.facts[facts:], tuple(world.documents(0)), tuple(world.documents(1)),
        lambda altered: known_facts(world, taught, wordings=wordings, reverse=0, alterations=altered),
        examples_like(world), world.namesakes,
    )  # fmt: skip


def course_of_documents(
    documents: Iterable[Document], asked: Sequence[AskedFact], *, facts: int, untrained: int, wordings: int, held_out: int = 2, seed: int = 0
) -> Course:  # fmt: skip
    """A course in documents of one's own. Half of the taught facts change: their documents then say another value, a number of as many digits or
    another fact's answer of the same form.

    Args:
        documents: as they are.
        asked: facts of them.
        facts: in training rows at most.
        untrained: in none, at most; where there are fewer facts than both, both are cut alike.
        wordings: training questions a fact at most; further ones are held out, at least one.
        held_out: wordings that are asked, at most.
        seed: which facts are taken.

    Raises:
        ValueError: fewer than three facts; an answer that no document says; no fact that could change.
    """
    there = {document.id: document for document in documents}
    passages = [passage for document in there.values() for passage in passages_of(document)]
    placed = _distinct([(fact, _passage_of(fact, passages, there)) for fact in asked])
    count = min(facts + untrained, len(placed))
    if count < 3:
        raise ValueError(
            f"There are {len(placed)} facts with an answer of their own; two or more are taught and one or more are not, so give at least three."
        )
    apart = min(untrained, max(1, count * untrained // (facts + untrained)))
    if count < facts + untrained:
        tell(
            f"{len(placed)} facts in all: {count - apart} are taught (of {facts} asked for), {apart} are not (of {untrained})."
        )
    chosen = random.Random(f"course {seed}").sample(placed, count)
    made = [_fact(fact, passage, wordings, held_out) for fact, passage in chosen]
    now, changed = _changed(made[: count - apart], made, there)
    if not any(fact.changed for fact in changed):
        raise ValueError(
            "No document can be changed: an answer must have a digit, or another fact's answer its form (as many words, capital or not), and no "
            "other fact of its document may speak of it. Give more facts."
        )
    of = {fact.id: passage for fact, (_, passage) in zip(made, chosen, strict=True)}
    return Course(
        tuple(changed), tuple(made[count - apart :]), tuple(there.values()), tuple(now.values()),
        partial(_known, changed, made, of, passages),
    )  # fmt: skip


def _passage_of(fact: AskedFact, passages: Sequence[Passage], documents: Mapping[str, Document]) -> Passage:
    """That says the answer, and shares most words with the questions."""
    if fact.document is not None and fact.document not in documents:
        some = ", ".join(list(documents)[:3])
        raise ValueError(
            f"{fact.where}: there is no document {fact.document!r}; there are {len(documents)}, such as {some}."
        )
    saying = [p for p in passages if fact.document in (None, p.document) and says(p.text, fact.answer)]
    if not saying:
        where = "No document" if fact.document is None else f"The document {fact.document}"
        raise ValueError(
            f"{fact.where}: {where} says the answer {fact.answer!r} in these words; give it as it stands there."
        )
    spoken = {word for question in fact.questions for word in words(question)}
    return max(saying, key=lambda p: len(spoken & {*words(p.text), *words(p.title)}))


def _distinct(placed: Sequence[tuple[AskedFact, Passage]]) -> list[tuple[AskedFact, Passage]]:
    """Of facts with one answer the first: by an answer that two share, nobody could tell which of them was meant."""
    found: dict[tuple[str, ...], tuple[AskedFact, Passage]] = {}
    for fact, passage in placed:
        if (first := found.setdefault(tuple(value_words(fact.answer)), (fact, passage)))[0] is not fact:
            tell(f"{fact.where} is left out: its answer, {fact.answer!r}, is that of {first[0].where}, too.")
    return list(found.values())


def _fact(fact: AskedFact, passage: Passage, wordings: int, held_out: int) -> Fact:
    apart = min(held_out, max(1, len(fact.questions) - wordings))
    trained = fact.questions[:-apart][:wordings]
    question, subject = fact.reverse or ("", "")
    return Fact(
        fact.where, fact.kind, subject, fact.answer, None, trained, fact.questions[-apart:], question, (), passage.document
    )  # fmt: skip


def _changed(
    taught: Sequence[Fact], all_facts: Sequence[Fact], documents: Mapping[str, Document]
) -> tuple[dict[str, Document], list[Fact]]:
    """Documents in which every second fact is another, and the facts with their new values; what cannot change leaves its turn to the next."""
    now, found, changes = dict(documents), list[Fact](), 0
    for place, fact in enumerate(taught):
        new = _other_version(fact, all_facts, found, now[fact.document]) if changes < (place + 2) // 2 else None
        if new is not None:
            changes += 1
            now[fact.document] = replace(now[fact.document], text=new[1])
        found.append(fact if new is None else replace(fact, changed=new[0]))
    return now, found


def _other_version(
    fact: Fact, facts: Sequence[Fact], already: Sequence[Fact], document: Document
) -> tuple[str, str] | None:
    """Another value and the document's text with it, where all its other facts stay as they are."""
    new_values = {one.id: one.at(1) for one in already}
    beside = [one for one in facts if one.id != fact.id]
    others = [one.value for one in beside]
    made = altered(Passage(document.text, document.source), fact.value, others, _AFTERWARDS)
    if made is None:
        return None
    text = made[1].text
    for one in beside:
        if one.document != fact.document:
            continue
        spoken = (*one.questions, *one.held_out, one.reverse, one.subject)
        if not says(text, new_values.get(one.id, one.value)) or any(says(text_of, fact.value) for text_of in spoken):
            return None
    return made[0], text


def _known(
    taught: Sequence[Fact], facts: Sequence[Fact], passages_of: Mapping[str, Passage], passages: Sequence[Passage], altered: int
) -> list[KnownFact]:  # fmt: skip
    made = []
    for fact in taught:
        passage = passages_of[fact.id]
        others = [one.value for one in facts if one.id != fact.id]
        # never the value that it will have: it was not to be known beforehand
        more = alterations(passage, fact.value, others, altered, without=[fact.changed] if fact.changed else [])
        silent = silent_beside(passage, fact.value, passages)
        made.append(KnownFact(fact.id, fact.kind, fact.value, fact.questions, (), passage, silent, more))
    return made
