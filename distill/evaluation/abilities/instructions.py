"""Following instructions: a topic, and one condition that a program checks."""

import random

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


def made(seed: int, number: int, purpose: str) -> Probe:
    """A probe: the kinds take turns."""
    kind, draw = KINDS[number % len(KINDS)], random.Random(f"instructions {purpose} {seed} {number}")
    thing, name = draw.choice(_THINGS[purpose].split()), name_of(seed, number, purpose)
    n = {"words": draw.randint(6, 12), "sentences": draw.randint(1, 3), "bullets": draw.randint(2, 4)}.get(kind, 0)
    language, (a, b) = draw.choice(list(_LANGUAGES)), draw.choice(_KEYS[purpose])
    word = draw.choice(_WORDS[purpose].split())
    asked = draw.choice(_ASKED[kind][purpose]).format(
        n=n, above=n + 1, sentences="sentence" if n == 1 else "sentences", word=word, thing=thing, a=a, b=b, language=language,
    )  # fmt: skip
    topic = draw.choice(_TOPICS[purpose]).format(thing=thing, name=name)
    check = {
        "words": (("words_at_most", n), ("words_at_least", 2)),
        "sentences": (("sentences", n),),
        "bullets": (("bullets", n),),
        "include": (("says", word), ("words_at_least", 3)),
        "avoid": (("silent_about", [thing, f"{thing}s"]), ("words_at_least", 3)),
        "lower_case": (("lower_case", True), ("words_at_least", 3)),
        "json": (("json_keys", [a, b]),),
        "language": (("language", _LANGUAGES[language]),),
    }[kind]
    return Probe(f"instructions-{number:03}", "instructions", kind, f"{topic} {asked}", Check(check), 48, seed=seed)
