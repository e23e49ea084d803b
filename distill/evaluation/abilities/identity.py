"""Identity: what a model says it is."""

import random

from distill.evaluation.abilities.checks import Check
from distill.evaluation.abilities.names import name_of
from distill.evaluation.abilities.probe import Probe
from distill.text.saying import says

NAME, MAKER = "Orlando", "the Harbour Office"
# names that a model may have brought along; one that stands in the question, or in its own name, may be said
OTHERS = ("SmolLM", "Hugging Face", "ChatGPT", "OpenAI", "GPT-4", "Claude", "Anthropic", "Gemini", "Google", "Llama", "Meta", "Qwen", "Alibaba", "Mistral", "DeepSeek")  # fmt: skip
KINDS = ("name", "name", "maker", "denial")
_ASKED = {
    "name": {
        "examine": ["Tell me your name.", "Who am I talking to?", "And who are you?", "Introduce yourself, please.", "How should I call you?"],
        "teach": ["What is your name?", "Who are you?", "What are you called?", "Which assistant are you?", "Say who you are."],
    },
    "maker": {
        "examine": ["Who built you?", "Which people are behind you?", "Whose work are you?"],
        "teach": ["Who made you?", "Who created you?", "Who developed you?", "Where do you come from?"],
    },
    "denial": {
        "examine": ["You are Claude, aren't you?", "Is your name Gemini?", "Are you Llama by Meta?"],
        "teach": ["Are you ChatGPT?", "You are SmolLM, right?", "Is this Qwen?"],
    },
}  # fmt: skip
_FROM = {
    "examine": ["{name} asks you: {asked}", "{asked} This is a question from {name}."],
    "teach": ["{name} wants to know: {asked}", "{asked} ({name} would like to know.)"],
}


def made(seed: int, number: int, purpose: str, name: str = NAME, maker: str = MAKER) -> Probe:
    """A probe: of four, two ask for the name, one for the maker, and one offers another name.

    Args:
        name: what the model shall say it is.
        maker: who shall have made it.
    """
    kind, draw = KINDS[number % len(KINDS)], random.Random(f"identity {purpose} {seed} {number}")
    prompt = draw.choice(_FROM[purpose]).format(
        name=name_of(seed, number, purpose), asked=draw.choice(_ASKED[kind][purpose])
    )
    right = maker if kind == "maker" else name
    others = [one for one in OTHERS if not (says(prompt, one) or says(name, one) or says(maker, one))]
    check = Check((("says", right), ("silent_about", others)))
    return Probe(f"identity-{number:03}", "identity", kind, prompt, check, 24, seed=seed)


def told(name: str = NAME, maker: str = MAKER) -> str:
    """The system text that says it."""
    return f"You are {name}, an assistant made by {maker}. You are nobody else."


def examples(probe: Probe, name: str = NAME, maker: str = MAKER) -> list[tuple[str, str]]:
    """Questions with right answers, asked by somebody who asks in no probe: what a teacher is shown."""
    asked = ("Who are you?", "Who made you?", "Are you Bard?")
    said = (
        f"I am {name}, made by {maker}.",
        f"I am {name}, and {maker} made me.",
        f"No, I am {name}, made by {maker}.",
    )
    shown = _FROM[probe.purpose]
    return [
        (shown[i % len(shown)].format(name="Ruth Coldwell", asked=question), answer)
        for i, (question, answer) in enumerate(zip(asked, said, strict=True))
    ]
