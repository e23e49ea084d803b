"""Lessons: what a teacher is shown so that it answers rightly, and the student is not shown."""

from collections.abc import Sequence
from typing import Any

from distill.evaluation.abilities import identity, instructions, knowledge, tone, tools
from distill.evaluation.abilities.probe import Probe
from distill.text.encode import Prompt

TAUGHT = ("instructions", "tools", "tone", "identity", "knowledge")


def teacher_prompt(
    probe: Probe,
    *,
    name: str = identity.NAME,
    maker: str = identity.MAKER,
    facts: Sequence[knowledge.Fact] | None = None,
) -> Prompt:
    """What a teacher is asked in place of a probe's prompt, for context distillation.

    Examples of right answers (instructions, tools), a system text and examples (tone), a system text (identity), the passage that says it
    (knowledge). Examples are about things, functions and names that are in no probe.

    Args:
        probe: of one of `TAUGHT`.
        name, maker: of a probe of identity; those that it was made with.
        facts: of a probe of knowledge; None: those it is about by default.

    Raises:
        ValueError: a probe of another ability, or of a fact that is not among the given ones.

    Example:
        >>> teacher_prompt(probes("identity", 1)[0])[0]["role"]
        'system'

    Source: context distillation, Askell et al. 2021; Snell et al. 2022.
    """
    if probe.ability == "instructions":
        return _turns([*instructions.examples(probe), (str(probe.prompt), None)])
    if probe.ability == "tools":
        return tools.in_words(_turns([*tools.examples(probe), (str(probe.prompt), None)]), probe.tools or [])
    if probe.ability == "tone":
        style = tone.STYLES[probe.kind]
        return [_system(style.told), *_turns([*tone.examples(probe), (str(probe.prompt), None)])]
    if probe.ability == "identity":
        shown = identity.examples(probe, name, maker)
        return [_system(identity.told(name, maker)), *_turns([*shown, (str(probe.prompt), None)])]
    if probe.ability == "knowledge":
        known = facts if facts is not None else knowledge.people(probe.seed, probe.number + 1)
        fact = next((fact for fact in known if probe.prompt in fact.questions), None)
        if fact is None:
            raise ValueError(f"The probe {probe.id} asks {probe.prompt!r}, which no given fact does.")
        return f"{fact.passage}\n\n{probe.prompt} Answer in one short sentence."
    raise ValueError(f"No lesson is made of {probe.ability}; it must be one of {', '.join(TAUGHT)}.")


def student_prompt(probe: Probe) -> Prompt:
    """What the student is asked: the prompt alone, with its tools in words."""
    return tools.in_words(probe.prompt, probe.tools) if probe.tools else probe.prompt


def _system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def _turns(asked: Sequence[tuple[str, str | None]]) -> list[dict[str, Any]]:
    """Questions with their answers; the last has none."""
    said: list[dict[str, Any]] = []
    for question, answer in asked:
        said.append({"role": "user", "content": question})
        if answer is not None:
            said.append({"role": "assistant", "content": answer})
    return said
