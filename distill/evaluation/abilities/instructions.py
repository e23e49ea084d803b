"""Following instructions: a topic, and one condition that a program checks."""

import json
import random
from dataclasses import dataclass

from distill.evaluation.abilities.checks import Check
from distill.evaluation.abilities.names import name_of
from distill.evaluation.abilities.probe import Probe

KINDS = ("words", "sentences", "bullets", "include", "avoid", "lower_case", "json", "language")
_THINGS = {
    "examine": "lantern bridge kettle garden clock basket ladder violin wagon mirror blanket compass",
    "teach": "boat window hammer orchard candle bucket saddle trumpet cart picture jacket anchor",
}
_WORDS = {
    "examine": "winter silver quiet morning copper honest river market golden narrow",
    "teach": "summer wooden loud evening iron gentle forest village purple heavy",
}
_KEYS = {
    "examine": [("owner", "colour"), ("item", "owner"), ("owner", "age"), ("item", "use")],
    "teach": [("person", "shape"), ("object", "person"), ("person", "price"), ("object", "size")],
}
_LANGUAGES = {"French": "fr", "German": "de", "Spanish": "es", "Italian": "it"}
_TOPICS = {
    "examine": ["Describe the {thing} of {name}.", "What does {name} do with the {thing}?", "Tell me about {name} and the {thing}."],
    "teach": ["Write about the {thing} of {name}.", "Why does {name} like the {thing}?", "Say something about the {thing} that {name} has."],
}  # fmt: skip
# Each says the same twice, in words of one purpose each.
_ASKED = {
    "words": {"examine": ["Use at most {n} words.", "No more than {n} words."], "teach": ["Answer in {n} words or fewer.", "Keep it under {above} words."]},
    "sentences": {"examine": ["Write exactly {n} {sentences}.", "Your answer has {n} {sentences}."], "teach": ["Answer in exactly {n} {sentences}.", "Use {n} {sentences}, no more and no fewer."]},
    "bullets": {"examine": ["Give a list of exactly {n} bullet points, each beginning with a dash.", "Write {n} lines, each of which begins with \"- \"."], "teach": ["Answer as {n} bullet points with dashes.", "Make a list of {n} items, each with \"- \" before it."]},
    "include": {"examine": ["Use the word \"{word}\".", "The word \"{word}\" must stand in it."], "teach": ["Include the word \"{word}\".", "Your answer must contain the word \"{word}\"."]},
    "avoid": {"examine": ["Do not use the word \"{thing}\".", "The word \"{thing}\" must not stand in it."], "teach": ["Avoid the word \"{thing}\".", "Your answer must not contain the word \"{thing}\"."]},
    "lower_case": {"examine": ["Use no capital letters.", "Write everything in small letters, names too."], "teach": ["Answer in lower case only.", "Write only lowercase letters, also in names."]},
    "json": {"examine": ["Write only a JSON object with the keys \"{a}\" and \"{b}\".", "The answer is JSON with exactly two keys, \"{a}\" and \"{b}\"."], "teach": ["Answer only with JSON that has the keys \"{a}\" and \"{b}\".", "Give a JSON object whose keys are \"{a}\" and \"{b}\", and nothing else."]},
    "language": {"examine": ["Write in {language}.", "Your answer is in {language}."], "teach": ["Answer in {language}.", "Use the {language} language."]},
}  # fmt: skip


@dataclass(frozen=True)
class _Asked:
    """A topic and its condition, before a name stands in it."""

    kind: str
    topic: str
    asked: str
    thing: str
    n: int
    word: str
    keys: tuple[str, str]
    language: str

    def prompt(self, name: str, thing: str | None = None, word: str | None = None) -> str:
        values = {
            "n": self.n,
            "above": self.n + 1,
            "sentences": "sentence" if self.n == 1 else "sentences",
            "word": word or self.word,
            "thing": thing or self.thing,
            "a": self.keys[0],
            "b": self.keys[1],
            "language": self.language,
        }
        return f"{self.topic.format(thing=thing or self.thing, name=name)} {self.asked.format(**values)}"


def _draw(seed: int, number: int, purpose: str) -> _Asked:
    kind, draw = KINDS[number % len(KINDS)], random.Random(f"instructions {purpose} {seed} {number}")
    n = {"words": draw.randint(6, 12), "sentences": draw.randint(1, 3), "bullets": draw.randint(2, 4)}.get(kind, 0)
    return _Asked(
        kind=kind,
        topic=draw.choice(_TOPICS[purpose]),
        asked=draw.choice(_ASKED[kind][purpose]),
        thing=draw.choice(_THINGS[purpose].split()),
        n=n,
        word=draw.choice(_WORDS[purpose].split()),
        keys=draw.choice(_KEYS[purpose]),
        language=draw.choice(list(_LANGUAGES)),
    )


def made(seed: int, number: int, purpose: str) -> Probe:
    """A probe: the kinds take turns."""
    one = _draw(seed, number, purpose)
    check = {
        "words": (("words_at_most", one.n), ("words_at_least", 2)),
        "sentences": (("sentences", one.n),),
        "bullets": (("bullets", one.n),),
        "include": (("says", one.word), ("words_at_least", 3)),
        "avoid": (("silent_about", [one.thing, f"{one.thing}s"]), ("words_at_least", 3)),
        "lower_case": (("lower_case", True), ("words_at_least", 3)),
        "json": (("json_keys", [*one.keys]),),
        "language": (("language", _LANGUAGES[one.language]),),
    }[one.kind]
    prompt = one.prompt(name_of(seed, number, purpose))
    return Probe(f"instructions-{number:03}", "instructions", one.kind, prompt, Check(check), 40, seed=seed)


def examples(probe: Probe) -> list[tuple[str, str]]:
    """The same asked about two other things, with right answers: what a teacher is shown."""
    one = _draw(probe.seed, probe.number, probe.purpose)
    told: list[tuple[str, str]] = []
    for name, thing, word, facts in _SHOWN:
        answer = {
            "words": " ".join(f"It is {facts[0]} and {facts[1]}".split()[: one.n]) + ".",
            "sentences": " ".join(f"It is {fact}." for fact in facts[: one.n]),
            "bullets": "\n".join(f"- It is {fact}." for fact in facts[: one.n]),
            "include": f"The {thing} of {name} makes one think of {word}.",
            "avoid": f"{name} has had it for years; it is {facts[0]} and {facts[1]}.",
            "lower_case": f"the {thing} of {name.lower()} is {facts[0]} and {facts[1]}.",
            "json": json.dumps(dict(zip(one.keys, (facts[0], facts[1]), strict=True))),
            "language": _ABROAD[one.language][len(told)],
        }[one.kind]
        told.append((one.prompt(name, thing, word), answer))
    return told


# what the examples are about; neither purpose has these words
_SHOWN = (
    ("Ruth Coldwell", "spoon", "honey", ("small", "old", "bright", "cold")),
    ("Edwin Marsh", "drum", "thunder", ("round", "red", "heavy", "new")),
)
_ABROAD = {
    "French": ("La cuillère est petite et elle est très vieille.", "Le tambour est rouge et il est assez lourd."),
    "German": ("Der Löffel ist klein und schon sehr alt.", "Die Trommel ist rot und ziemlich schwer."),
    "Spanish": ("La cuchara es pequeña y es muy vieja.", "El tambor es rojo y es bastante pesado."),
    "Italian": ("Il cucchiaio è piccolo e molto vecchio.", "Il tamburo è rosso ed è abbastanza pesante."),
}
