"""Flags of abilities: who learns which of them from whom, and how much is asked."""

from dataclasses import dataclass, field
from pathlib import Path

from distill.basics.fingerprint import fingerprint
from distill.evaluation.abilities import Fact
from distill.evaluation.abilities.identity import MAKER, NAME
from distill.evaluation.abilities.lessons import TAUGHT
from distill.evaluation.abilities.names import MOST, SEEDS
from distill.evaluation.abilities.tone import STYLES
from distill.pairs.sources import rows_in
from distill.running.parsing import refuse_given


@dataclass
class AbilitiesArguments:
    """What is taught, and what is asked."""

    model: str = field(default="smollm2-135m", metadata={"help": "Who learns: embedded name, folder, or Hub id."})
    teacher: str | None = field(
        default=None,
        metadata={"help": "Who teaches; unsaid: the model itself, shown more. Of another tokenizer: black box alone."},
    )
    abilities: str = field(
        default=",".join(TAUGHT), metadata={"help": "Which are taught, each by itself, divided by commas."}
    )
    probes: int = field(default=20, metadata={"help": "Questions an ability that each model is examined with."})
    lessons: int = field(default=48, metadata={"help": "Prompts an ability that the teacher is asked."})
    rows: int = field(
        default=30, metadata={"help": "Verified answers an ability that a student is trained on, at most."}
    )
    name: str = field(default=NAME, metadata={"help": "Identity: what the student shall say it is."})
    maker: str = field(default=MAKER, metadata={"help": "Identity: who shall have made it."})
    style: str = field(default="pirate", metadata={"help": f"Tone: {', '.join(STYLES)}."})
    facts: str | None = field(
        default=None,
        metadata={
            "help": "Knowledge: a file of facts, each row with `questions` (three or more wordings; the last is asked in the examination), `answer` and "
            "`passage`, which the teacher is shown. Unsaid: people who do not exist."
        },
    )
    tasks: str | None = field(
        default=None, metadata={"help": "Tasks of lm-eval, divided by commas, that stand in the same table."}
    )
    task_folder: str | None = field(
        default=None, metadata={"help": "A folder of lm-eval's task files of your own; no hub is needed for these."}
    )
    task_limit: int | None = field(default=None, metadata={"help": "Only so many questions of each task."})
    upper_layers: int = field(default=10, metadata={"help": "Only so many layers, from the top, are trained."})
    seeds: int = field(default=1, metadata={"help": "Each has its own lessons, probes and order of the rows."})
    prompts: str | None = field(
        default=None,
        metadata={
            "help": "A file of other prompts, on which the KL to the start is measured; else the model writes them."
        },
    )
    kept_prompts: int = field(
        default=16, metadata={"help": "How many other prompts, on which the KL to the start is measured."}
    )
    keep_students: bool = field(default=False, metadata={"help": "Save each student, too (0.5 GB each)."})
    quick: bool = field(default=False, metadata={"help": "Two abilities, little of all: to see that it runs."})

    def __post_init__(self) -> None:
        for name, most in (("probes", MOST), ("lessons", MOST), ("seeds", SEEDS)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 1 to {most}.")
        for name in ("rows", "upper_layers", "kept_prompts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.task_limit is not None and self.task_limit < 1:
            raise ValueError(f"task_limit is {self.task_limit}; it must be at least 1.")
        if self.tasks is None:
            refuse_given(self, ("task_folder", "task_limit"), "this is of --tasks; name some, or leave it out.")
        if self.style not in STYLES:
            raise ValueError(f"style is {self.style!r}; it must be one of {', '.join(STYLES)}.")
        if not self.chosen() or any(one not in TAUGHT for one in self.chosen()):
            raise ValueError(
                f"abilities is {self.abilities!r}; it must list some of {', '.join(TAUGHT)}, divided by commas."
            )

    def chosen(self) -> list[str]:
        """The abilities that are taught, in the order of the table."""
        named = [part.strip() for part in self.abilities.split(",") if part.strip()]
        return [*(one for one in TAUGHT if one in named), *(one for one in named if one not in TAUGHT)]


def task_names(args: AbilitiesArguments) -> list[str]:
    """The tasks of `--tasks`."""
    return [name.strip() for name in (args.tasks or "").split(",") if name.strip()]


def task_files(args: AbilitiesArguments) -> str | None:
    """What the files of `--task_folder` say, as a fingerprint: other files are another run."""
    if args.task_folder is None:
        return None
    folder = Path(args.task_folder).expanduser()
    return fingerprint([[str(p.relative_to(folder)), p.read_bytes().hex()] for p in sorted(folder.rglob("*")) if p.is_file()])  # fmt: skip


def read_facts(path: str) -> list[Fact]:
    """Facts of a file, for `--facts`.

    Args:
        path: rows of any format that pairs may have.

    Raises:
        ValueError: no rows, or a row without `questions` (two or more), `answer` or `passage`; one whose question says its answer.
    """
    found = []
    for where, row in rows_in(path, columns=("questions", "answer", "passage")):
        if missing := [name for name in ("questions", "answer", "passage") if not row.get(name)]:
            raise ValueError(
                f"{where}: a fact has questions, answer and passage; this one has no {', '.join(missing)}."
            )
        try:
            found.append(Fact(str(row["passage"]), tuple(map(str, row["questions"])), str(row["answer"])))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    if not found:
        raise ValueError(f"{path} has no facts.")
    # what is right for one is wrong for another
    values = list(dict.fromkeys(fact.answer for fact in found))
    return [
        Fact(fact.passage, fact.questions, fact.answer, tuple(v for v in values if v != fact.answer)) for fact in found
    ]
