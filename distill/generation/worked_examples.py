"""Worked examples that a teacher sees before each question and its student does not.

A small teacher writes a trace in a given form only when it is shown some. The student is trained on the bare question, so
that what the examples gave the teacher comes to be in its weights: context distillation (Askell et al. 2021; Snell et al.
2022). The distribution that is distilled is then p(y | examples, x), and a student without the examples stands in for it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from distill.basics.fingerprint import fingerprint
from distill.pairs.sources import rows_in
from distill.text.encode import Messages, Prompt, check_messages
from distill.text.traces import completion_text


class Example(NamedTuple):
    """A question, the reasoning and the answer a teacher shall imitate."""

    prompt: str
    reasoning: str
    answer: str


_SUM = "State the final answer to the following arithmetic problem: {} ="
# In the form of reasoning-gym's chain_sum.
CHAIN_SUM = (
    Example(_SUM.format("34 + 5"), "34 + 5 = 39", "39"),
    Example(_SUM.format("71 - 36"), "71 - 30 = 41\n41 - 6 = 35", "35"),
    Example(_SUM.format("8 + 17"), "8 + 17 = 25", "25"),
    Example(_SUM.format("4 - 9"), "4 - 9 = -5", "-5"),
)


def read_examples(path: str | os.PathLike[str]) -> tuple[Example, ...]:
    """Examples of a file of any format: `prompt`, `reasoning`, `answer`, all texts.

    Args:
        path: see `distill.pairs.sources.find_parts`.

    Raises:
        ValueError: no such file, no examples, or a bad row (file and line are named).
    """
    examples = []
    for where, row in rows_in(path):
        values = [row.get(name) for name in Example._fields]
        if not all(isinstance(value, str) for value in values):
            raise ValueError(
                f"{where}: a worked example has the texts {', '.join(Example._fields)}, not {str(row)[:80]}."
            )
        examples.append(Example(*map(str, values)))
    if not examples:
        raise ValueError(f"{path} has no worked examples; it needs at least one line.")
    return tuple(examples)


def with_examples(prompt: Prompt, examples: Sequence[Example]) -> Prompt:
    """The prompt with the examples as earlier turns, after a system turn if there is one.

    Args:
        prompt: text, which becomes a user turn, or messages.
        examples: none leave the prompt as it is.
    """
    if not examples:
        return prompt
    if not isinstance(prompt, str):
        check_messages(prompt)
    turns: Messages = []
    for example in examples:
        said = completion_text(example.reasoning, example.answer, opened=False)
        turns += [{"role": "user", "content": example.prompt}, {"role": "assistant", "content": said}]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    first = 1 if messages[0]["role"] == "system" else 0
    return [*messages[:first], *turns, *messages[first:]]


@dataclass(frozen=True)
class WorkedExamples:
    """What a teacher is shown in place of a prompt: the prompt behind the examples (`generate(..., teacher_prompt=)`).

    Args:
        examples: one or more.

    Attributes:
        identity: what of it stands in the settings of a journal, and on a student's card.
    """

    examples: tuple[Example, ...]

    @property
    def identity(self) -> dict[str, Any]:
        return {"worked_examples": fingerprint([list(example) for example in self.examples])}

    def __call__(self, prompt: Prompt) -> Prompt:
        return with_examples(prompt, self.examples)
