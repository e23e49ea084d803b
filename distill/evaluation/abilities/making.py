"""Probes of an ability, made by code from a seed."""

from dataclasses import replace
from typing import Any

from distill.evaluation.abilities import identity, instructions, knowledge, reasoning, tone, tools
from distill.evaluation.abilities.names import MOST, SEEDS
from distill.evaluation.abilities.probe import ABILITIES, PURPOSES, Probe

_EACH: dict[str, Any] = {
    "instructions": instructions.made,
    "tools": tools.made,
    "tone": tone.made,
    "identity": identity.made,
}
_TOGETHER: dict[str, Any] = {"knowledge": knowledge.made, "reasoning": reasoning.made}
SETTINGS = {"tone": ("style",), "identity": ("name", "maker"), "knowledge": ("facts",)}


def probes(ability: str, n: int = 32, seed: int = 0, *, purpose: str = "examine", **settings: Any) -> list[Probe]:
    """Probes of an ability; the same arguments give the same probes.

    No two seeds share a prompt, nor do examining and teaching: each prompt holds a name of its own (of `knowledge`, its fact's), and wordings,
    things, functions and keywords are of one purpose each. Facts alone are shared, since what was taught is what is asked.

    Args:
        ability: one of `ABILITIES`.
        n: how many, 1 to 256.
        seed: 0 to 499.
        purpose: `"examine"`, or `"teach"`: prompts of the same kind to learn from, which no examination has.
        settings: of `tone` the `style` (see `distill.evaluation.abilities.tone.STYLES`); of `identity` `name` and `maker`; of `knowledge`
            `facts`, a list of `Fact`: by default of people who do not exist.

    Raises:
        ValueError: no such ability, purpose or setting; a number out of range; an extra that is missing (`reasoning` needs `tasks`).

    Example:
        >>> [probe.kind for probe in probes("tools", 4)]
        ['call', 'call', 'call', 'no_call']
    """
    if ability not in ABILITIES:
        raise ValueError(f"ability is {ability!r}; it must be one of {', '.join(ABILITIES)}.")
    if purpose not in PURPOSES:
        raise ValueError(f"purpose is {purpose!r}; it must be one of {', '.join(PURPOSES)}.")
    if not 1 <= n <= MOST or not 0 <= seed < SEEDS:
        raise ValueError(f"n is {n} (1 to {MOST}) and seed is {seed} (0 to {SEEDS - 1}).")
    if unknown := [name for name in settings if name not in SETTINGS.get(ability, ())]:
        known = ", ".join(SETTINGS.get(ability, ())) or "none"
        raise ValueError(f"{', '.join(unknown)}: the probes of {ability} have the settings {known}.")
    if ability in _TOGETHER:
        found: list[Probe] = _TOGETHER[ability](seed, n, purpose, **settings)
        return [replace(probe, purpose=purpose) for probe in found]
    return [replace(_EACH[ability](seed, number, purpose, **settings), purpose=purpose) for number in range(n)]
