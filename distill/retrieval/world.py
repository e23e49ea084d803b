"""World of made-up facts, seeded: what no model can know, the documents that say it, and the same documents after some of it changed."""

import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from distill.retrieval.documents import Document
from distill.retrieval.facts import Fact
from distill.retrieval.world_kinds import KINDS, TOPICS, Kind, Topic
from distill.retrieval.world_names import Names

MOST = 1024
DATES = {"almanac": "2009-01-01", "visit": "2018-06-01", "article": "2021-03-01", "changed": "2026-03-01"}


class _Subject(NamedTuple):
    """A subject of a topic, with its facts in the order of the topic's kinds (the last one may have fewer)."""

    name: str
    topic: Topic
    facts: tuple[Fact, ...]


class World:
    """A fictional world of towns, companies, ships and feasts.

    Its documents are harder to search than to read: each subject has an article, the report of a visit that speaks of
    the same things and says none of them, and an almanac of years ago that says two of them as they then were; every
    fourth has a namesake, of which another value is told. After a change the article says the new value and the
    almanac still the old one.

    Args:
        seed: of the names and values; another seed is another world.
        facts: how many, 1 to 1024; four a subject, so that any number covers the sixteen kinds as evenly as it can.
        changed: share of the facts that are another in version 1, in each kind as many as it allows.

    Attributes:
        facts: all of them, subject by subject.

    Raises:
        ValueError: a number of facts or a share out of range.

    Example:
        >>> world = World(seed=0, facts=64)
        >>> old, new = world.documents(version=0), world.documents(version=1)
    """

    def __init__(self, seed: int = 0, facts: int = 64, changed: float = 0.5) -> None:
        if not 1 <= facts <= MOST:
            raise ValueError(f"facts is {facts}; a world has 1 to {MOST}, of which no value is told twice.")
        if not 0 <= changed <= 1:
            raise ValueError(f"changed is {changed}; it is a share of the facts, from 0 to 1.")
        self.seed, self.changed = seed, changed
        self._names = Names(seed)
        self._subjects = self._drawn(facts)
        self.facts = tuple(fact for subject in self._subjects for fact in subject.facts)
        self._of = {fact.id: subject for subject in self._subjects for fact in subject.facts}

    def documents(self, version: int = 0) -> list[Document]:
        """All documents of the world, as they are before (0) or after (1) some facts changed.

        A document keeps its id; those without a changed fact are the same in both.

        Raises:
            ValueError: no such version.
        """
        if version not in (0, 1):
            raise ValueError(f"version is {version}; there are 0, and 1, in which some facts have changed.")
        made = []
        for number, subject in enumerate(self._subjects):
            changed = version == 1 and any(fact.changed is not None for fact in subject.facts)
            told = {fact.id: fact.at(version) for fact in subject.facts}
            made += [_article(subject, told, DATES["changed" if changed else "article"]), _visit(subject)]
            first, there = number // len(TOPICS), len(subject.facts)
            # two neighbours, of which one changes where half of the facts do
            made.append(_almanac(subject, [subject.facts[place % there] for place in (first, first + 1)[:there]]))
            if subject.name in self._namesakes:
                made.append(_namesake(subject, *self._namesakes[subject.name]))
        return made

    def counterfactual(self, fact: Fact, seed: int = 0) -> tuple[str, Document]:
        """A value that the fact never has, and the article as it would be with it.

        Args:
            fact: of this world.
            seed: another one gives another value.

        Raises:
            ValueError: a fact of another world.
        """
        subject = self._subject_of(fact)
        value = self._other_value(fact, seed)
        told = {other.id: other.value for other in subject.facts} | {fact.id: value}
        return value, _article(subject, told, DATES["changed"])

    def silent(self, fact: Fact) -> Document:
        """A document about the fact's subject that speaks of the matter and does not say the value.

        Raises:
            ValueError: a fact of another world.
        """
        return _visit(self._subject_of(fact))

    @property
    def namesakes(self) -> dict[str, str]:
        """What is told of something with nearly the name of a fact's subject, by the fact's id: a wrong answer that stands in a document."""
        return {fact.id: value for fact, value in self._namesakes.values()}

    @cached_property
    def _namesakes(self) -> dict[str, tuple[Fact, str]]:
        """For every fourth subject the fact that is told of something with nearly its name, and its value."""
        chosen = self._subjects[2::4]
        facts = [subject.facts[number % len(subject.facts)] for number, subject in enumerate(chosen)]
        return {fact.subject: (fact, self._other_value(fact, -1)) for fact in facts}

    @cached_property
    def _told(self) -> frozenset[str]:
        """Every value that some fact has, and every subject."""
        values = {value for fact in self.facts for value in (fact.value, fact.changed) if value is not None}
        return frozenset(values | {fact.subject for fact in self.facts})

    def _other_value(self, fact: Fact, seed: int) -> str:
        names = Names(f"{self.seed} {fact.id} {seed}")
        while (value := names.value(KINDS[fact.kind].value)) in self._told:
            pass
        return value

    def _subject_of(self, fact: Fact) -> _Subject:
        subject = self._of.get(fact.id)
        if subject is None or fact not in subject.facts:
            raise ValueError(f"The fact {fact.id} is none of this world (seed {self.seed}).")
        return subject

    def _drawn(self, count: int) -> list[_Subject]:
        subjects: list[_Subject] = []
        while count > 0:
            among, topic = len(subjects) // len(TOPICS), TOPICS[len(subjects) % len(TOPICS)]
            name = self._names.subject()
            # at a half: of two subjects one has these kinds changed, and the other those
            facts = [
                self._fact(kind, name, _reaches(self.changed, among + place % 2))
                for place, kind in enumerate(topic.kinds[:count])
            ]
            subjects.append(_Subject(name, topic, tuple(facts)))
            count -= len(facts)
        return subjects

    def _fact(self, kind: Kind, subject: str, changes: bool) -> Fact:
        value = self._names.value(kind.value)
        changed = self._names.value(kind.value)  # drawn in any case: another share changes no other name

        def of_subject(*texts: str) -> tuple[str, ...]:
            return tuple(text.format(s=subject, v=value) for text in texts)

        one, other = of_subject(*kind.held_out)
        return Fact(
            id=f"{kind.name}/{subject}",
            kind=kind.name,
            subject=subject,
            value=value,
            changed=changed if changes else None,
            questions=of_subject(*kind.questions),
            held_out=(one, other),
            reverse=of_subject(kind.reverse)[0],
            reverse_questions=of_subject(*kind.reverse_questions),
            document=f"articles/{subject.lower()}.md",
        )


def _reaches(share: float, rank: int) -> bool:
    """Whether the one of this rank is among a share of them: as many of any first ones as it allows."""
    return int((rank + 1) * share) > int(rank * share)


def _article(subject: _Subject, told: Mapping[str, str], date: str) -> Document:
    """What is known of a subject, each fact with the value given for its id."""
    draw = random.Random(f"article {subject.name}")
    facts = [
        draw.choice(KINDS[fact.kind].told).format(s=subject.name, v=told[fact.id])
        for fact in draw.sample(subject.facts, len(subject.facts))
    ]
    filler = [text.format(s=subject.name) for text in draw.sample(subject.topic.filler, 2)]
    paragraphs = [
        f"{subject.topic.opening.format(s=subject.name)} {filler[0]}",
        " ".join(facts[:2]),
        " ".join([filler[1], *facts[2:]]),
    ]
    return _document("articles", subject, "", paragraphs, date)


def _visit(subject: _Subject) -> Document:
    """A report that speaks of every fact's matter and says no value."""
    draw = random.Random(f"visit {subject.name}")
    sentences = [KINDS[fact.kind].silent.format(s=subject.name) for fact in subject.facts]
    draw.shuffle(sentences)
    return _document("visits", subject, "A visit: ", [" ".join(sentences)], DATES["visit"])


def _almanac(subject: _Subject, facts: Sequence[Fact]) -> Document:
    """Some facts as they were years ago, in version 0 and in version 1 the same."""
    draw = random.Random(f"almanac {subject.name}")
    filler = draw.choice(subject.topic.filler).format(s=subject.name)
    once = [KINDS[fact.kind].once.format(s=subject.name, v=fact.value) for fact in facts]
    return _document("almanacs", subject, "From the almanac of 2009: ", [" ".join([filler, *once])], DATES["almanac"])


def _namesake(subject: _Subject, fact: Fact, value: str) -> Document:
    """Something else with nearly the same name, of which another value is told."""
    text = KINDS[fact.kind].namesake.format(s=subject.name, v=value)
    return _document("namesakes", subject, "Not to be confused: ", [text], DATES["visit"])


def _document(folder: str, subject: _Subject, before: str, paragraphs: Sequence[str], date: str) -> Document:
    name = f"{folder}/{subject.name.lower()}.md"
    title = f"{before}{subject.name}"
    return Document(id=name, text="\n\n".join([f"# {title}", *paragraphs]) + "\n", source=name, title=title, date=date)
