"""Shown to the teacher alone: what it is asked in place of the student's prompt (context distillation)."""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import datasets

from distill.basics.processes import tell
from distill.text.encode import Prompt, check_messages
from distill.text.teacher_prompts import EMPTY

ShownPrompt = Callable[[Prompt], Prompt | None] | Sequence[Prompt | None] | str
COLUMN = "teacher_prompt"
OF_ITS_OWN = "of each prompt its own"  # in the settings of a journal: a column, a list or a function


@dataclass(frozen=True)
class SystemText:
    """A system text that only the teacher sees: the prompt with a system turn before it.

    The student learns to answer as if it had been told so, without being told: context distillation (Askell et al. 2021; Snell et al.
    2022).

    Args:
        text: the system's words.

    Attributes:
        identity: what of it stands in the settings of a journal; a student's card has its length and its hash only.

    Raises:
        ValueError: no text; called with what is no prompt, or with one that has a system turn of its own.

    Example:
        >>> pairs = generate(teacher, prompts, teacher_prompt=SystemText("Answer in one short sentence."))
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise ValueError(f"The system text that the teacher is shown is {str(self.text)[:40]!r}; give some words.")

    @property
    def identity(self) -> dict[str, Any]:
        return {"teacher_system": self.text}

    def __call__(self, prompt: Prompt) -> Prompt:
        if not isinstance(prompt, str):
            check_messages(prompt)
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if any(message["role"] in ("system", "developer") for message in messages):
            raise ValueError(
                "it has a system turn of its own; give a function of yours that says what the teacher is shown of both, or a column."
            )
        return [{"role": "system", "content": self.text}, *messages]


def identity_of(shown: ShownPrompt | None) -> dict[str, Any]:
    """What of it stands in the settings of a journal, and is part of every pair's id: its `identity`, a mapping or a method.

    Raises:
        ValueError: it is no mapping.
    """
    found: Any = getattr(shown, "identity", None)
    found = found() if callable(found) else found
    if found is not None and not isinstance(found, Mapping):
        raise ValueError(
            f"The identity of teacher_prompt is {str(found)[:60]!r}; it must be a mapping of plain values that tell it from others, or not "
            "be there."
        )
    return dict(found or {})


def shown_prompts(prompts: Sequence[Prompt], source: Iterable[Any], shown: ShownPrompt | None) -> list[Prompt | None]:
    """For each prompt what the teacher is shown in its place; None: the prompt.

    Args:
        prompts: as a list.
        source: what they were taken from.
        shown: a function of a prompt; the name of a column of `source`; one for each prompt; or None.

    Raises:
        ValueError: no such column, or nothing that has columns; values without an order; a prompt of which a function makes no prompt
            (its number is named).
    """
    columns = source.column_names if isinstance(source, datasets.Dataset) else []
    if shown is None:
        if COLUMN in columns:
            tell(
                f"The prompts have a column {COLUMN}, with which nobody is asked; teacher_prompt={COLUMN!r} asks the teacher with it."
            )
        return [None] * len(prompts)
    if isinstance(shown, str):
        if shown not in columns:
            has = f"it has {', '.join(columns)}" if columns else "the prompts are no dataset"
            raise ValueError(
                f"teacher_prompt is {shown!r}, the name of a column, but there is none ({has}). For a text that the teacher sees before "
                "every prompt give distill.generation.SystemText(text)."
            )
        found: list[Any] = list(source[shown])  # type: ignore[index]
    elif isinstance(shown, Mapping | Set) or not (callable(shown) or isinstance(shown, Iterable)):
        raise ValueError(
            f"teacher_prompt is a {type(shown).__name__}; give one for each prompt in a list, a function of a prompt (the method get of a "
            "mapping is one), or the name of a column."
        )
    elif not callable(shown):
        found = list(shown)
        if len(found) != len(prompts):
            raise ValueError(
                f"teacher_prompt has {len(found)} values, but there are {len(prompts)} prompts; give one for each."
            )
    else:
        found = [_made(shown, prompt, i, len(prompts)) for i, prompt in enumerate(prompts, start=1)]
    for number, one in enumerate(found, start=1):
        if one is not None and (not isinstance(one, str) or not one):
            try:
                if one == "":
                    raise ValueError(EMPTY.replace("null", "None"))
                check_messages(one)
            except ValueError as error:
                raise ValueError(f"The teacher's prompt in place of prompt {number} of {len(found)}: {error}") from None
    return found


def _made(shown: Callable[[Prompt], Prompt | None], prompt: Prompt, number: int, count: int) -> Prompt | None:
    try:
        return shown(prompt)
    except ValueError as error:
        raise ValueError(f"Prompt {number} of {count}, as the teacher is to be shown it: {error}") from None
