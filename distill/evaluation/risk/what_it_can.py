"""What the models can do: probes of abilities, each answered by student, base and teacher, compared probe by probe."""

from collections.abc import Mapping, Sequence
from typing import Any

from distill.evaluation.abilities import ABILITIES, Answered, Probe, examine, probes
from distill.evaluation.risk.figures import Figure, Value, missing, of_mean, of_share
from distill.evaluation.risk.sides import Sides

TITLES = {
    "instructions": "Follows instructions that a program can check",
    "tools": "Calls tools rightly, and none where none is wanted",
    "tone": "Speaks in the style that was taught",
    "identity": "Says of itself what it was taught",
    "knowledge": "Answers closed questions",
    "reasoning": "Reckons and reasons",
}
NAMES = tuple(f"ability.{name}" for name in ABILITIES)


def ability_figures(
    sides: Sides, chosen: Sequence[str], n: int, seed: int, settings: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Figure], dict[str, list[dict[str, Any]]]]:
    """The share of probes that each model answers rightly.

    Args:
        sides: whose.
        chosen: which abilities.
        n: probes of each.
        seed: of the probes.
        settings: of an ability (see `distill.evaluation.abilities.probes`).

    Returns:
        A figure for each ability, and what each side answered, as plain values.

    Raises:
        ValueError: no such ability; a prompt that the model's context cannot hold.
    """
    made: dict[str, list[Probe]] = {}
    lacking: dict[str, str] = {}
    for name in chosen:
        try:
            own = settings.get(name, {})
            made[name] = probes(name, min(n, len(own.get("facts", range(n)))), seed, **own)
        except ValueError as error:
            if name not in ABILITIES or "package" not in str(error):
                raise
            lacking[name] = str(error)
    asked = [probe for some in made.values() for probe in some]
    answered = {side.key: examine(side.model, side.speaker.tokenizer, asked) for side in sides} if asked else {}
    figures = [
        missing(f"ability.{name}", TITLES[name], "gained", lacking[name])
        if name in lacking
        else _figure(name, answered)
        for name in chosen
    ]
    told = {
        key: [{"id": one.probe.id, "text": one.text, "right": one.right, "why": one.why} for one in some]
        for key, some in answered.items()
    }
    return figures, told


def _figure(name: str, answered: Mapping[str, Sequence[Answered]]) -> Figure:
    right = {key: [one.right for one in some if one.probe.ability == name] for key, some in answered.items()}
    of = {key: of_share(sum(some), len(some)) for key, some in right.items()}
    change = of_mean([float(own) - float(base) for own, base in zip(right["student"], right["base"], strict=True)])
    return Figure(
        f"ability.{name}", TITLES[name], "gained", "share", "more", of, change=change, origin=_origin(of, change)
    )


def _origin(of: Mapping[str, Value], change: Value) -> str:
    if change.high is None or change.high >= 0 or "teacher" not in of:
        return ""
    if of["teacher"].value <= of["student"].value:
        return "The teacher does no better: it may be inherited."
    return f"The teacher does better ({of['teacher'].value:.0%}): it was lost in the training."
