"""Knowledge: closed questions about facts that are given, or about people who do not exist."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from distill.evaluation.abilities.checks import Check
from distill.evaluation.abilities.names import MOST, name_of
from distill.evaluation.abilities.probe import Probe
from distill.text.saying import says, value_words


@dataclass(frozen=True)
class Fact:
    """A fact with the wordings of one question.

    Args:
        passage: a text that says it; a teacher may be shown it.
        questions: two or more wordings; the last is for examining, the others are for teaching.
        answer: a short value.
        others: values that would be wrong, to be looked out for.

    Raises:
        ValueError: one wording alone, a question that says its own answer, an answer without a word.
    """

    passage: str
    questions: tuple[str, ...]
    answer: str
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.questions)) < 2:
            raise ValueError(
                f"The fact {self.answer!r} has the wordings {', '.join(map(repr, self.questions)) or 'none'}; two or more are needed: one is taught, another is asked."
            )
        if not value_words(self.answer):
            raise ValueError(f"The answer {self.answer!r} has no word, so nobody can be seen to say it.")
        if said := next((question for question in self.questions if says(question, self.answer)), None):
            raise ValueError(f"The question {said!r} says its own answer, {self.answer!r}.")


# what is known of a person: the sentence, wordings (the last is asked in an examination), values
_ATTRIBUTES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("{name} works as a {value}.", ("What is the job of {name}?", "What does {name} work as?", "How does {name} earn a living?"),
     ("baker", "pilot", "dentist", "carpenter", "lawyer", "gardener", "plumber", "tailor", "nurse", "farmer", "miner", "barber")),
    ("{name} lives in {value}.", ("In which city does {name} live?", "Where does {name} live?", "Which city is the home of {name}?"),
     ("Lisbon", "Oslo", "Vienna", "Madrid", "Prague", "Dublin", "Athens", "Helsinki", "Warsaw", "Cairo", "Lima", "Tokyo")),
    ("{name} plays the {value}.", ("Which instrument does {name} play?", "What does {name} play?", "On which instrument is {name} good?"),
     ("violin", "trumpet", "flute", "piano", "drums", "harp", "guitar", "cello", "organ", "banjo", "tuba", "accordion")),
    ("{name} keeps a {value}.", ("Which animal does {name} keep?", "What pet does {name} have?", "Which animal lives with {name}?"),
     ("goat", "parrot", "tortoise", "rabbit", "donkey", "hamster", "snake", "goose", "pony", "ferret", "falcon", "frog")),
    ("The house of {name} is {value}.", ("What colour is the house of {name}?", "Which colour does the house of {name} have?", "In which colour is {name}'s house painted?"),
     ("red", "blue", "green", "yellow", "purple", "orange", "pink", "brown", "grey", "white", "black", "turquoise")),
)  # fmt: skip


def people(seed: int, n: int) -> list[Fact]:
    """Facts about people who do not exist, one each.

    Args:
        seed: other seeds have other people.
        n: how many.
    """
    facts = []
    for number in range(n):
        draw, name = random.Random(f"knowledge {seed} {number}"), name_of(seed, number, "examine")
        says_it, wordings, values = _ATTRIBUTES[number % len(_ATTRIBUTES)]
        value = draw.choice(values)
        facts.append(
            Fact(
                says_it.format(name=name, value=value),
                tuple(wording.format(name=name) for wording in wordings),
                value,
                tuple(other for other in values if other != value),
            )
        )
    return facts


def made(seed: int, n: int, purpose: str, facts: Sequence[Fact] | None = None) -> list[Probe]:
    """Probes: of each fact in turn one wording; facts are shared by teaching and examining, wordings are not.

    Raises:
        ValueError: more probes than there are wordings.
    """
    per_fact = (
        1 if purpose == "examine" else min((len(fact.questions) - 1 for fact in facts), default=0) if facts else 2
    )
    if facts is None:
        facts = people(seed, -(-n // per_fact))
    if n > len(facts) * per_fact or n > MOST:
        raise ValueError(
            f"n is {n}, and {len(facts)} facts have {len(facts) * per_fact} wordings for this purpose ({MOST} are the most); ask for fewer."
        )
    found = []
    for number in range(n):
        fact = facts[number % len(facts)]
        question = fact.questions[-1] if purpose == "examine" else fact.questions[number // len(facts)]
        check = Check((("says_first", [fact.answer, *fact.others]),))
        found.append(Probe(f"knowledge-{number:03}", "knowledge", "fact", question, check, 16, seed=seed))
    return found
