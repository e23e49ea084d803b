"""Against evaluation sets: the flags by which questions are looked for in pairs, and how their files are read."""

from dataclasses import dataclass, field
from typing import Any

from distill.pairs.evaluation_sets import Question, read_evaluations
from distill.running.parsing import refuse_given


@dataclass
class AgainstArguments:
    """Evaluation sets that are looked for in the pairs."""

    against: list[str] = field(
        default_factory=list,
        metadata={"help": "Evaluation sets to look for in the pairs: files of any format, folders, Hub datasets."},
    )
    against_columns: str | None = field(
        default=None, metadata={"help": "Their columns with texts, by comma: question,choices. Unsaid: recognised."}
    )
    against_split: str | None = field(
        default=None,
        metadata={"help": "Of an evaluation set with several; else test. One's own: openai/gsm8k:main:test."},
    )
    n: int = field(default=8, metadata={"help": "Words in a row that count as common with an evaluation set."})
    share: float = field(default=0.5, metadata={"help": "Of a question's words, how many must be in common; 0: any n."})


def evaluation_sets(args: AgainstArguments) -> dict[str, list[Question]]:
    """The questions of each evaluation set, by its name.

    Raises:
        ValueError: as `read_evaluations`; flags of evaluation sets without one.
    """
    if not args.against:
        why = "only evaluation sets are read and looked for so; name one with --against, or leave it out."
        refuse_given(args, ("against_columns", "against_split", "n", "share"), why)
        return {}
    reading: dict[str, Any] = {"split": args.against_split}
    if args.against_columns is not None:
        reading["columns"] = [name.strip() for name in args.against_columns.split(",") if name.strip()]
        if not reading["columns"]:
            raise ValueError("--against_columns names no column; expected names divided by commas: question,choices.")
    return read_evaluations(args.against, **reading)
