"""A probe: one prompt, and what a program asks of the answer."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from distill.evaluation.abilities.checks import Check
from distill.text.encode import Prompt

ABILITIES = ("instructions", "tools", "tone", "identity", "knowledge", "reasoning")
PURPOSES = ("examine", "teach")


@dataclass(frozen=True)
class Probe:
    """One prompt of an examination.

    Args:
        id: its own, and the same in every seed (`"tools-03"`): by it, two models are compared on one probe.
        ability: one of `ABILITIES`.
        kind: of its ability, such as `"bullets"`.
        prompt: a text, or messages.
        check: what is asked of the answer.
        max_new_tokens: longest answer.
        tools: functions that may be called, in the form of OpenAI's API; None: no tools.
        seed, purpose: it was made with.

    Example:
        >>> from distill.evaluation.abilities import probes
        >>> probes("identity", 1)[0].prompt
        'Anna Aback asks you: Tell me your name.'
    """

    id: str
    ability: str
    kind: str
    prompt: Prompt
    check: Check
    max_new_tokens: int
    tools: Sequence[Mapping[str, Any]] | None = None
    seed: int = 0
    purpose: str = "examine"

    @property
    def number(self) -> int:
        """Of the probe among those of its ability, seed and purpose."""
        return int(self.id.rpartition("-")[2])

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `Probe.of` takes them back."""
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Probe":
        """What `as_dict` gave."""
        conditions = tuple((name, value) for name, value in values["check"]["conditions"])
        return cls(**{**values, "check": Check(conditions)})


@dataclass(frozen=True)
class Answered:
    """What was answered to a probe.

    Args:
        probe: which.
        text: the answer, as it was written.
        right: it does all that is asked.
        why: what is wrong with it; empty where nothing is.
        finish_reason: `"stop"` or `"length"`.
    """

    probe: Probe
    text: str
    right: bool
    why: str
    finish_reason: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `Answered.of` takes them back."""
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Answered":
        """What `as_dict` gave."""
        return cls(**{**values, "probe": Probe.of(values["probe"])})
