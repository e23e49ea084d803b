"""Changing documents: facts get another value, and all else that is asked stays as it is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from distill.basics.processes import tell
from distill.retrieval.altering import altered
from distill.retrieval.documents import Document
from distill.retrieval.facts import Fact
from distill.retrieval.passages import Passage
from distill.text.saying import as_written, says, value_words

_AFTERWARDS = 1_000_003  # the seed of changes: other values than those of altered passages in training rows
_TRIES = 8


class Changing:
    """Documents as they change, fact by fact.

    Args:
        documents: by their ids.
        facts: all that are asked about.
        given: values for afterwards, by the fact's id.
        spare: answers of facts that nobody asks about, for those that have none.

    Attributes:
        documents: as they are now.
    """

    def __init__(
        self, documents: Mapping[str, Document], facts: Sequence[Fact], given: Mapping[str, str], spare: Sequence[str]
    ) -> None:
        self.documents = dict(documents)
        self._facts, self._given, self._spare = facts, given, spare
        self._values = {fact.id: fact.value for fact in facts}

    def every_second(self, taught: Sequence[Fact]) -> list[Fact]:
        """The facts, of which every second one has changed; one that cannot leaves its turn to the next."""
        found, changes = [], 0
        for place, fact in enumerate(taught):
            if changes < (place + 2) // 2 and (value := self._change(fact)) is not None:
                changes += 1
                fact = replace(fact, changed=value)
            found.append(fact)
        return found

    def _change(self, fact: Fact) -> str | None:
        """Change its document; the new value, or None where it must stay."""
        if why := self._fixed(fact):
            if fact.id in self._given:
                tell(f"{fact.id} cannot change to {self._given[fact.id]!r}: {why}.")
            return None
        document = self.documents[fact.document]
        beside = [one for one in self._facts if one.id != fact.id and one.document == fact.document]
        for value, text in self._versions(fact, document):
            if all(says(text, self._values[one.id]) for one in beside):
                self.documents[fact.document] = replace(document, text=text)
                self._values[fact.id] = value
                return value
        return None

    def _fixed(self, fact: Fact) -> str | None:
        """Why a fact cannot change."""
        document = self.documents[fact.document]
        if len(as_written(fact.value).findall(document.text)) != 1:
            return "its answer does not stand once in its document, letter by letter"
        if says(_without(document.text, fact.value), fact.value):
            return "its document says its answer once more, in other letters"
        if says(f"{document.title}\n{document.source}", fact.value):
            return "the title or the source of its document says its answer"
        if other := next(
            (d for d in self.documents.values() if d.id != document.id and says(d.text, fact.value)), None
        ):
            return f"{other.id} says its answer, too"
        for one in self._facts:
            if one.id != fact.id and any(says(text, fact.value) for text in (*_asked(one), one.subject)):
                return f"{one.id} speaks of its answer"
        return None

    def _versions(self, fact: Fact, document: Document) -> Iterator[tuple[str, str]]:
        """Values that it may have afterwards, each with the text of the document."""
        if (given := self._given.get(fact.id)) is not None:
            if not self._is_new(fact, given):
                why = "that is another fact's value, or its own question says it"
            elif there := next((d for d in self.documents.values() if says(d.text, given)), None):
                why = f"{there.id} says that already"
            else:
                yield given, as_written(fact.value).sub(lambda _: given, document.text)
                return
            tell(f"{fact.id} cannot change to {given!r}: {why}.")
            return
        passage = Passage(document.text, document.source)
        for seed in range(_AFTERWARDS, _AFTERWARDS + _TRIES):
            made = altered(passage, fact.value, self._spare, seed)
            if made and self._is_new(fact, made[0]) and not any(says(d.text, made[0]) for d in self.documents.values()):
                yield made[0], made[1].text

    def _is_new(self, fact: Fact, value: str) -> bool:
        """Whether no asked fact has or had it, and the fact's own questions do not say it."""
        taken = [v for one in self._facts for v in (one.value, self._values[one.id])]
        return not any(value_words(value) == value_words(v) for v in taken) and not any(
            says(q, value) for q in _asked(fact)
        )


def _without(text: str, value: str) -> str:
    """A text with a mark where it has a value letter by letter."""
    return as_written(value).sub("\ufffd", text)


def _asked(fact: Fact) -> tuple[str, ...]:
    return (*fact.questions, *fact.held_out, fact.reverse)
