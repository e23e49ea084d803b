"""Two chat templates side by side: the same question as student and teacher are asked it, with the tokens that differ marked."""

from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from distill.text.encode import as_prompt, encode_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTION = "What is 2 + 2?"
MARKS = ("⟦", "⟧")  # around tokens that the other side has not


@dataclass(frozen=True)
class TwoTemplates:
    """A question as both sides are asked it.

    Args:
        student, teacher: its tokens as text, those marked that the other has not; a line's end is `⏎`.
        differing: how many tokens of each are marked.
        tokens: how many tokens each has.
        bare: whose tokenizer has no chat template, and is asked the bare text.
    """

    student: str
    teacher: str
    differing: tuple[int, int]
    tokens: tuple[int, int]
    bare: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not any(self.differing):
            return f"  both: {self.student}"
        said = {"student": self.student, "teacher": self.teacher}
        return "\n".join(
            f"  {whose}'s template{' (none: the bare text)' if whose in self.bare else ''}: {text}"
            for whose, text in said.items()
        )


def two_templates(student: "PreTrainedTokenizerBase", teacher: "PreTrainedTokenizerBase") -> TwoTemplates:
    """Render one question with both chat templates, up to where the answer begins.

    Args:
        student, teacher: tokenizers, with or without a template.

    Raises:
        ValueError: a template that refuses a user's turn.

    Example:
        >>> print(two_templates(tokenizer, other))
          student's template: <|im_start|>user⏎What is 2 + 2?<|im_end|>⏎<|im_start|>assistant⏎
          teacher's template: ⟦<bos>⟧⟦<start_of_turn>⟧user⏎What is 2 + 2?⟦<end_of_turn>⟧⏎...
    """
    ours, theirs = sides = [_pieces(tokenizer) for tokenizer in (student, teacher)]
    shown: list[list[str]] = [[], []]
    differing = [0, 0]
    for what, *places in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        for side, (start, stop) in enumerate((places[:2], places[2:])):
            same = what == "equal"
            shown[side] += [piece if same else piece.join(MARKS) for piece in sides[side][start:stop]]
            differing[side] += 0 if same else stop - start
    said = ["".join(pieces).replace("\n", "⏎") for pieces in shown]
    return TwoTemplates(
        said[0],
        said[1],
        differing=(differing[0], differing[1]),
        tokens=(len(sides[0]), len(sides[1])),
        bare=tuple(
            whose
            for whose, tokenizer in (("student", student), ("teacher", teacher))
            if tokenizer.chat_template is None
        ),
    )


def _pieces(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """The text of each token of the question as it is asked."""
    ids = encode_prompt(as_prompt(QUESTION, tokenizer), tokenizer)
    return [str(tokenizer.decode([token], clean_up_tokenization_spaces=False)) for token in ids]
