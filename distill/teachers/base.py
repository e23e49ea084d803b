"""What a teacher is to the rest of the package: a name, a way to encode a prompt, a way to complete prompts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from distill.encode import Prompt


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. The defaults draw from the teacher's own distribution, unchanged.

    Anything else (temperature below 1, top-p, top-k) is another teacher: the student learns the altered distribution.

    Args:
        max_new_tokens: a completion is cut here, in tokens.
        temperature: divides the logits; 0 takes the most likely token each time.
        top_p: keep the smallest set of tokens with this much probability; 1 keeps all.
        top_k: keep this many tokens; 0 keeps all.
        seed: a rerun with the same seed and the same prompts draws the same completions.

    Raises:
        ValueError: a value out of its range.
    """

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        rules = {
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (self.temperature >= 0, "0 or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k >= 0, "0 (all) or more"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {rule}.")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for fingerprints and settings files."""
        return asdict(self)


@dataclass(frozen=True)
class Completion:
    """Tokens a teacher gave. `ids` ends with EOS exactly if `finish_reason` is `"stop"`."""

    ids: list[int]
    text: str
    finish_reason: str


class Teacher(Protocol):
    """What `generate` needs of a teacher."""

    name: str

    def resolve_prompt(self, prompt: Prompt) -> tuple[Prompt, list[int]]:
        """The prompt as it is asked (a string may become a user turn), and its token ids."""
        ...

    def complete(self, prompts: Sequence[list[int]], sampling: Sampling, seed: int) -> list[Completion]:
        """One completion for each prompt, given as token ids."""
        ...

    def identity(self) -> dict[str, Any]:
        """Plain values that tell this teacher from every other: name, weights, template."""
        ...
