"""Course of facts: which are taught, which documents change afterwards and what is asked then; of a made-up world, or documents of one's own."""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from distill.basics.processes import tell
from distill.retrieval.altering import alterations, is_number, silent_beside
from distill.retrieval.asked_facts import AskedFact
from distill.retrieval.changing import Changing
from distill.retrieval.documents import Document
from distill.retrieval.examination import examination
from distill.retrieval.examining import Question
from distill.retrieval.facts import Fact
from distill.retrieval.passages import Passage
from distill.retrieval.row_modes import KnownFact, Setting
from distill.retrieval.rows import Rows, examples_like, known_facts, known_rows, passages_of
from distill.retrieval.worked import ANSWERED, Answered
from distill.retrieval.world import World
from distill.text.saying import says, value_words
from distill.text.words import words

CLEAR = 0.8  # of the points of the best passage: another document with as many may be the one that is meant


@dataclass(frozen=True)
class Course:
    """Facts that are taught, others that are not, and the documents before and after some facts changed.

    Args:
        taught: facts that training rows ask about.
        untrained: facts that none asks about: in a made-up world of other subjects; in documents of one's own a passage of a mixed row may say
            them.
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
        return known_rows(self.known(altered), Setting(mode, examples=self.examples, **setting))

    def examination(self, *, held_out: int = 2, searched: bool) -> list[Question]:
        """What is asked after the change; see `distill.retrieval.examination.examination`."""
        return examination(self.taught, self.untrained, held_out=held_out, searched=searched, namesakes=self.namesakes)


def course_of_world(seed: int, facts: int, untrained: int, wordings: int) -> Course:
    """A course in a made-up world: facts that no model can know.

    Args:
        seed: of the world.
        facts: asked in training rows; half of them change.
        untrained: asked in none; of other subjects, which stand in other documents.
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
    """A course in documents of one's own. Half of the taught facts change: their documents then say the value that the fact has for it
    (`AskedFact.changed`), else another number of as many digits, or the answer of a fact that is not in the course.

    A fact can change whose answer stands once in the documents, where nothing else that is asked speaks of it.

    Args:
        documents: as they are.
        asked: facts of them.
        facts: asked in training rows at most, 2 or more.
        untrained: asked in none, at most, 1 or more; where there are fewer facts than both, both are cut alike.
        wordings: training questions a fact at most; further ones are held out, at least one.
        held_out: wordings that are asked, at most.
        seed: which facts are taken.

    Raises:
        ValueError: fewer than three facts; an answer that no document says, or several do; no fact that could change.
    """
    if facts < 2 or untrained < 1:
        raise ValueError(
            f"facts is {facts} (at least 2, of which one changes) and untrained is {untrained} (at least 1)."
        )
    there = {document.id: document for document in documents}
    passages = [passage for document in there.values() for passage in passages_of(document)]
    placed = _distinct(_placed(asked, passages, there))
    count = min(facts + untrained, len(placed))
    if count < 3:
        raise ValueError(
            f"There are {len(placed)} facts with an answer of their own; two or more are taught and one or more are not, so at least three are needed. "
            "Give more with --questions; where the model wrote them, a larger one writes more that can be used."
        )
    apart = min(untrained, max(1, count * untrained // (facts + untrained)))
    if count < facts + untrained:
        tell(
            f"{len(placed)} facts in all: {count - apart} are taught (of {facts} asked for), {apart} are not (of {untrained})."
        )
    chosen = random.Random(f"course {seed}").sample(placed, count)
    taken = {fact.where for fact, _ in chosen}
    made = [_fact(fact, passage, wordings, held_out) for fact, passage in chosen]
    taught, others = made[: count - apart], made[count - apart :]
    spare = [fact.answer for fact, _ in placed if fact.where not in taken]
    changing = Changing(
        there, made, {fact.where: fact.changed for fact, _ in chosen if fact.changed is not None}, spare
    )
    changed = changing.every_second(taught)
    if not any(fact.changed for fact in changed):
        raise ValueError(
            "No document can be changed: a fact's answer must stand once in the documents, and must be a number, or have a value for afterwards "
            "(`changed` in its row), or a fact beyond those asked for of the same form (as many words, capital or not). Give such facts."
        )
    of = {fact.id: passage for fact, (_, passage) in zip(made, chosen, strict=True)}
    return Course(
        tuple(changed), tuple(others), tuple(there.values()), tuple(changing.documents.values()), partial(_known, changed, others, spare, of, passages)
    )  # fmt: skip


def _placed(
    asked: Sequence[AskedFact], passages: Sequence[Passage], documents: Mapping[str, Document]
) -> list[tuple[AskedFact, Passage]]:
    """Each fact with the passage that says its answer.

    Raises:
        ValueError: of some facts nobody knows which; all are counted, and the first named.
    """
    rarity = _rarity(passages)
    found, faults = [], []
    for fact in asked:
        passage = _passage_of(fact, passages, documents, rarity)
        if isinstance(passage, str):
            faults.append(f"{fact.where}: {passage}")
        else:
            found.append((fact, passage))
    if faults:
        more = f" And {len(faults) - 3} more such facts." if len(faults) > 3 else ""
        raise ValueError(" ".join(faults[:3]) + more)
    return found


def _passage_of(
    fact: AskedFact, passages: Sequence[Passage], documents: Mapping[str, Document], rarity: Mapping[str, float]
) -> Passage | str:
    """That says the answer and shares most of the questions' words, rare ones more; or why none can be told."""
    if fact.document is not None and fact.document not in documents:
        return f"there is no document {fact.document!r}; there are {len(documents)}, such as {', '.join(list(documents)[:3])}."
    saying = [p for p in passages if fact.document in (None, p.document) and says(p.text, fact.answer)]
    if not saying:
        where = "No document" if fact.document is None else f"The document {fact.document}"
        return f"{where} says the answer {fact.answer!r} in these words; give it as it stands there."
    spoken = {word for question in fact.questions for word in words(question)}
    points = [sum(rarity.get(word, 0.0) for word in spoken & {*words(p.text), *words(p.title)}) for p in saying]
    best = max(points)
    first = saying[points.index(best)]
    near = [p for p, n in zip(saying, points, strict=True) if p.document != first.document and n >= CLEAR * best]
    if near:
        return f"{first.document} and {near[0].document} both say {fact.answer!r} and speak of the question; name the one that is meant in `document`."
    return first


def _rarity(passages: Sequence[Passage]) -> dict[str, float]:
    """Of each word how much it tells: the logarithm of the share of passages without it, as in BM25."""
    count = Counter(word for p in passages for word in {*words(p.text), *words(p.title)})
    return {word: math.log1p((len(passages) - n + 0.5) / (n + 0.5)) for word, n in count.items()}


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


def _known(
    taught: Sequence[Fact], untrained: Sequence[Fact], spare: Sequence[str], passages_of: Mapping[str, Passage], passages: Sequence[Passage],
    altered: int,
) -> list[KnownFact]:  # fmt: skip
    """As rows are made of them. No altered passage has a value that will come, which was not to be known beforehand, nor that of an untrained fact.

    A drawn number is no taught value either; a name must be somebody's, and is that of another taught fact where there is no spare one.
    """
    kept = [*(fact.changed for fact in taught if fact.changed is not None), *(fact.value for fact in untrained)]
    made = []
    for fact in taught:
        passage = passages_of[fact.id]
        others = [*spare, *(one.value for one in taught if one.id != fact.id)]
        without = [*kept, *others] if is_number(fact.value) else kept
        more = alterations(passage, fact.value, others, altered, without, (*fact.questions, *fact.held_out))
        silent = silent_beside(passage, fact.value, passages)
        made.append(KnownFact(fact.id, fact.kind, fact.value, fact.questions, (), passage, silent, more))
    return made
