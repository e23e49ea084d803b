"""What a teacher is to the rest of the package: a name, a way to encode a prompt, a way to complete prompts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from distill.text.encode import Prompt

DOZEN = 12  # answers in a row that cannot be used, all for one reason: then it is not the prompts, and it costs money


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
    """Tokens a teacher gave. `ids` ends with EOS exactly if `finish_reason` is `"stop"`.

    Args:
        ids, text, finish_reason: as in `distill.pairs`.
        token_source: `"teacher"` if the ids are those it emitted, `"text"` if they were made once from its text.
        top_logprobs: its most likely tokens at each place, `{"tokens": [...], "logprobs": [...]}`, if asked for.
    """

    ids: list[int]
    text: str
    finish_reason: str
    token_source: str = "teacher"
    top_logprobs: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Ask:
    """One completion to ask for: its number among those asked, the prompt as it is asked, its ids, its own seed."""

    index: int
    prompt: Prompt
    prompt_ids: list[int]
    seed: int


@dataclass(frozen=True)
class Refusal:
    """This one completion cannot be had, and why in one sentence (the prompt is too long, a content filter, ...).

    Args:
        reason: the sentence.
        answer: what came all the same, as plain values. It was paid for: it is kept, and not asked for again.
        of_prompt: because of what this prompt asks, which says nothing about the others.
    """

    reason: str
    answer: Mapping[str, Any] | None = None
    of_prompt: bool = False


class AnyTeacher(Protocol):
    """What every teacher has."""

    name: str

    def resolve_prompt(self, prompt: Prompt) -> tuple[Prompt, list[int]]:
        """The prompt as it is asked (a string may become a user turn), and its token ids."""
        ...

    def identity(self) -> dict[str, Any]:
        """Plain values that tell this teacher from every other: name, weights, template. The same on every rerun."""
        ...


class Teacher(AnyTeacher, Protocol):
    """A teacher that completes a batch of prompts at once."""

    def complete(self, prompts: Sequence[list[int]], sampling: Sampling, seed: int) -> Sequence[Completion]:
        """One completion for each prompt, given as token ids.

        A teacher may have `refusal_of(prompt_ids, sampling)`: why this prompt cannot be completed, or None. Those are not
        asked then.
        """
        ...


@runtime_checkable
class ConcurrentTeacher(AnyTeacher, Protocol):
    """A teacher that has many completions under way and gives each as it finishes."""

    def complete_each(self, asks: Iterable[Ask], sampling: Sampling) -> Iterator[tuple[int, Completion | Refusal]]:
        """`(index of the ask, its completion)`, exactly one for every ask, in any order, as they finish.

        What hits every ask (nobody answers, an unknown model) is raised as `ValueError`, after what was already under
        way has been given. An iterator may have `ready()`, which tells whether its next item is there already, so that
        several go to disk in one write; and `close()`, which gives up what is under way.

        A teacher may have `read_again(prompt, answer)`: what it makes today of the answer of an earlier `Refusal`. It may
        have `incidental()`: plain values that decide nothing (where it is reached), for the record.
        """
        ...
