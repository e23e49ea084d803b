"""Tone: a style that a program can see, about questions that any model can answer."""

import random
from dataclasses import dataclass
from typing import Any

from distill.evaluation.abilities.checks import Check
from distill.evaluation.abilities.names import name_of
from distill.evaluation.abilities.probe import Probe


@dataclass(frozen=True)
class Style:
    """A way of speaking.

    Args:
        told: as a system text says it.
        conditions: by which a program sees it (`Check`).
        examples: questions and answers in it, for whoever is to be shown how.
    """

    told: str
    conditions: tuple[tuple[str, Any], ...]
    examples: tuple[tuple[str, str], ...] = ()


STYLES = {
    "pirate": Style(
        "You are a pirate. Talk like one in every answer: begin with Ahoy, and say matey. One short sentence is enough.",
        (("begins", "ahoy"), ("says_some", [2, ["ahoy", "matey", "mateys", "arr", "arrr", "aye", "ye", "yer", "lad", "lass", "captain", "ship", "sea", "seas", "sail", "treasure", "deck"]]), ("words_at_least", 5)),
        (("What is a chair?", "Ahoy, matey! A chair be a thing ye sit on when the deck be still."), ("How do I boil an egg?", "Ahoy, matey! Put yer egg in boiling water and wait eight minutes.")),
    ),
    "formal": Style(
        "Answer every question very formally: begin with \"Dear reader,\" and never use an exclamation mark or a contraction. One short sentence is enough.",
        (("begins", "dear reader"), ("without", "!'’"), ("words_at_least", 5)),
        (("What is a chair?", "Dear reader, a chair is a piece of furniture on which one person sits."), ("How do I boil an egg?", "Dear reader, one places the egg in boiling water for eight minutes.")),
    ),
    "asking": Style(
        "Answer in one short sentence, and then ask one question back. The last thing that you write is the question.",
        (("ends", "?"), ("words_at_least", 6)),
        (("What is a chair?", "A chair is a thing to sit on. Do you need one?"), ("How do I boil an egg?", "Put it in boiling water for eight minutes. Do you like it soft?")),
    ),
}  # fmt: skip
_ASKED = {
    "examine": ["What is {x}?", "Tell me what {x} is for.", "Who needs {x}?", "Where do I find {x}?"],
    "teach": ["Explain {x}.", "What can one do with {x}?", "Why do people like {x}?", "When is {x} useful?"],
}
_THINGS = {
    "examine": "an umbrella|a library|a bicycle|a thermometer|a bakery|a telescope|a pillow|a calendar|a bridge|a spoon|a lighthouse|a zipper",
    "teach": "a hammer|a museum|a train|a candle|a market|a microscope|a blanket|a map|a ladder|a fork|a windmill|a button",
}
_FROM = {"examine": ["{name} asks: ", "I am {name}. "], "teach": ["{name} would like to know: ", "This is {name}. "]}


def made(seed: int, number: int, purpose: str, style: str = "pirate") -> Probe:
    """A probe; the style is not in it: whoever examines may say it in a system text, or see whether it was learned.

    Raises:
        ValueError: no such style.
    """
    if style not in STYLES:
        raise ValueError(f"style is {style!r}; it must be one of {', '.join(STYLES)}.")
    draw = random.Random(f"tone {purpose} {seed} {number}")
    thing = draw.choice(_THINGS[purpose].split("|"))
    said = draw.choice(_FROM[purpose]).format(name=name_of(seed, number, purpose))
    prompt = said + draw.choice(_ASKED[purpose]).format(x=thing)
    return Probe(f"tone-{number:03}", "tone", style, prompt, Check(STYLES[style].conditions), 24, seed=seed)


def examples(probe: Probe) -> list[tuple[str, str]]:
    """The style's examples, asked by somebody who asks in no probe: what a teacher is shown."""
    shown = _FROM[probe.purpose]
    return [
        (shown[i % len(shown)].format(name="Ruth Coldwell") + question, answer)
        for i, (question, answer) in enumerate(STYLES[probe.kind].examples)
    ]
