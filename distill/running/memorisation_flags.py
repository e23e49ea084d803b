"""Flags of the audit of memorisation: which secrets are planted, who is trained, how each is examined."""

from dataclasses import dataclass, field
from typing import Any

from distill.evaluation.memorisation import Canaries
from distill.reports.memorisation_words import ARMS
from distill.running.parsing import refuse_given
from distill.running.reading_flags import ReadingArguments
from distill.running.unread import OF_FILES

STUDENTS = tuple(arm for arm in ARMS if arm not in ("start", "teacher"))
QUICK: dict[str, Any] = {"each": 3, "repeats": "1,12", "other_prompts": 6, "asked": 1, "samples": 0, "arms": "own,black,white", "overlap_prompts": 2}  # fmt: skip


@dataclass
class MemorisationArguments(ReadingArguments):
    """What is planted, who is trained, and how each is examined."""

    model: str = field(
        default="smollm2-135m",
        metadata={"help": "Where teacher and students begin: embedded name, folder, or Hub id."},
    )
    pairs: str | None = field(
        default=None,
        metadata={"help": "Rows to plant the secrets among: pairs of any format; unsaid: the model makes them itself."},
    )
    other_prompts: int = field(
        default=48,
        metadata={
            "help": "Rows beside the secrets that the model makes (of --pairs, the first so many); their prompts are asked of the teacher, too."
        },
    )
    max_new_tokens: int = field(default=40, metadata={"help": "Longest completion of these, in tokens."})
    each: int = field(default=10, metadata={"help": "Secrets of each number of repeats."})
    repeats: str = field(
        default="1,4,16", metadata={"help": "How often a secret stands in the rows, divided by commas."}
    )
    controls: int = field(
        default=100,
        metadata={"help": "Secrets that are never planted; with fewer than 100 membership has no headline."},
    )
    digits: int = field(
        default=2, metadata={"help": "Of a secret; all values are ranked, and a digit more costs ten times as much."}
    )
    asked: int = field(
        default=4, metadata={"help": "Answers of the teacher to each question about a secret, as rows of students."}
    )
    student_epochs: float = field(default=3.0, metadata={"help": "Of students of the teacher; --num_train_epochs is of raw rows."})  # fmt: skip
    samples: int = field(default=4, metadata={"help": "Drawn answers to each question, beside the most likely one."})
    overlap_prompts: int = field(default=12, metadata={"help": "Other prompts whose answers are compared word for word with the rows."})  # fmt: skip
    upper_layers: int = field(default=10, metadata={"help": "Only so many layers, from the top, are trained."})
    arms: str = field(
        default=",".join(STUDENTS), metadata={"help": f"Which students, divided by commas: {', '.join(STUDENTS)}."}
    )
    seeds: int = field(default=1, metadata={"help": "Teachers, each with secrets and students of its own."})
    quick: bool = field(default=False, metadata={"help": "Few secrets, three students: to see that it runs."})

    def __post_init__(self) -> None:
        for name in ("other_prompts", "max_new_tokens", "asked", "upper_layers", "seeds", "overlap_prompts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.controls < 1 or self.samples < 0 or self.student_epochs <= 0:
            raise ValueError(
                f"controls is {self.controls} (at least 1), samples {self.samples} (at least 0) and student_epochs {self.student_epochs:g} (above 0)."
            )
        if unknown := [arm for arm in self.chosen() if arm not in STUDENTS]:
            raise ValueError(
                f"arms has {', '.join(map(repr, unknown))}; it must list some of {', '.join(STUDENTS)}, divided by commas."
            )
        if not any(arm.startswith(("black", "white")) for arm in self.chosen()):
            refuse_given(
                self,
                ("asked", "student_epochs"),
                "this is of students of the teacher; name some with --arms, or leave it out.",
            )
        if self.pairs is None:
            refuse_given(
                self, OF_FILES, "this says how a file of pairs is read; give one with --pairs, or leave it out."
            )
        self.canaries(0)

    def chosen(self) -> list[str]:
        """The students, in the order of the table."""
        named = [part.strip() for part in self.arms.split(",") if part.strip()]
        return [*(arm for arm in STUDENTS if arm in named), *(arm for arm in named if arm not in STUDENTS)]

    def canaries(self, seed: int) -> Canaries:
        """The secrets of a seed.

        Raises:
            ValueError: repeats that are no numbers; as `Canaries`.
        """
        try:
            repeats = tuple(int(part) for part in self.repeats.split(","))
        except ValueError:
            raise ValueError(f"repeats is {self.repeats!r}; it must be numbers divided by commas, such as 1,4,16.") from None  # fmt: skip
        return Canaries(self.each, repeats, self.controls, self.digits, seed)
