"""Flags of retrieval: what is learned, looked up and asked, in a made-up world or in documents of one's own."""

from dataclasses import dataclass, field
from pathlib import Path

from distill.basics.processes import say
from distill.reports.retrieval_words import ARMS
from distill.retrieval.asked_facts import AskedFact
from distill.retrieval.course import Course, course_of_documents, course_of_world
from distill.retrieval.documents import Documents
from distill.retrieval.writing import facts_of_documents
from distill.running.parsing import refuse_given
from distill.running.reading_flags import RefusalArguments
from distill.teachers import LocalTeacher

TRAINED = tuple(arm for arm in ARMS if arm != "untouched")
HELD_OUT = 2  # wordings of a fact that are asked
_OF_DOCUMENTS = ("questions", "passages", "document_column", "suffixes", "exclude")


@dataclass
class RetrievalArguments(RefusalArguments):
    """What is learned, looked up and asked."""

    model: str = field(
        default="smollm2-135m", metadata={"help": "Who learns, and its own teacher: embedded name, folder, or Hub id."}
    )
    facts: int = field(
        default=16, metadata={"help": "Facts that training rows ask about, 2 or more; half of them change afterwards."}
    )
    untrained: int = field(
        default=8,
        metadata={
            "help": "Further facts, which no training row asks about: in the made-up world of other subjects; in documents of your own a passage "
            "of a mixed row may say them."
        },
    )
    documents: str | None = field(
        default=None, metadata={"help": "A folder or file of documents of your own, in place of the made-up world."}
    )
    questions: str | None = field(
        default=None,
        metadata={
            "help": "Of --documents: a file of facts, each row with `questions` (two or more wordings) and `answer`, or the rows of distill "
            "generate --documents. Unsaid: the model writes them, which a small one can hardly do."
        },
    )
    passages: int | None = field(
        default=None,
        metadata={"help": "Where the model writes the questions: about so many passages, chosen by a hash."},
    )
    document_column: str | None = field(
        default=None, metadata={"help": "Column with the words, of documents that are rows; unsaid: recognised."}
    )
    suffixes: str | None = field(
        default=None, metadata={"help": "Files of the folder also read as text, as .html,.rst."}
    )
    exclude: str | None = field(default=None, metadata={"help": "Paths left out of the folder, as old/*,*.csv."})
    world_seed: int = field(
        default=0, metadata={"help": "Another one is another world; of documents of your own, another choice of facts."}
    )
    wordings: int = field(default=3, metadata={"help": "Training questions a fact."})
    mixed_share: float = field(
        default=0.4,
        metadata={"help": "Of the rows that mixed arms see, those with passages; no two of these are the same."},
    )
    k: int = field(default=2, metadata={"help": "Passages shown with a question."})
    upper_layers: int = field(default=10, metadata={"help": "Only so many layers, from the top, are trained."})
    arms: str = field(
        default="sft,context,sft_mixed,shuffled",
        metadata={"help": f"Which are trained, divided by commas: {', '.join(TRAINED)}."},
    )
    seeds: int = field(default=1, metadata={"help": "Trainings of each arm, with different orders of the rows."})
    prompts: str | None = field(
        default=None,
        metadata={
            "help": "A file of other prompts, on which the KL to the untouched model is measured; else it writes them."
        },
    )
    kept_prompts: int = field(
        default=24, metadata={"help": "How many other prompts, on which the KL to the untouched model is measured."}
    )
    quick: bool = field(default=False, metadata={"help": "Few facts, two arms, little training: to see that it runs."})

    def __post_init__(self) -> None:
        for name in ("facts", "untrained", "wordings", "k", "upper_layers", "seeds", "kept_prompts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.facts < 2:
            raise ValueError(f"facts is {self.facts}; of two or more, half change and half stay.")
        if not 0 < self.mixed_share < 1:
            raise ValueError(f"mixed_share is {self.mixed_share}; it is a share of the rows, above 0 and below 1.")
        if self.documents is None:
            refuse_given(
                self, _OF_DOCUMENTS, "this is of documents of your own; name them with --documents, or leave it out."
            )
        if self.questions is not None:
            refuse_given(self, ("passages",), "with --questions nobody writes any; leave one of them out.")
        if self.passages is not None and self.passages < 1:
            raise ValueError(f"passages is {self.passages}; it must be at least 1.")
        if unknown := [arm for arm in self.chosen() if arm not in TRAINED]:
            raise ValueError(
                f"arms has {', '.join(map(repr, unknown))}; it must list some of {', '.join(TRAINED)}, divided by commas."
            )

    def chosen(self) -> list[str]:
        """The arms, in the order of the table."""
        named = [part.strip() for part in self.arms.split(",") if part.strip()]
        return [*(arm for arm in TRAINED if arm in named), *(arm for arm in named if arm not in TRAINED)]


def written_facts(args: RetrievalArguments, documents: Documents, model: LocalTeacher, output: Path) -> list[AskedFact]:
    """The facts that the model writes."""
    say("No --questions: the model writes them. A small one hardly can; interrupted, this goes on.")
    known, coverage = facts_of_documents(
        model, documents, wordings=args.wordings + HELD_OUT, alterations=0, chunks=args.passages, output=output
    )
    say(coverage.table())
    asked = [AskedFact.of(fact) for fact in known if len(fact.questions) > 1]
    if lost := len(known) - len(asked):
        say(f"{lost} facts have one wording alone, and are left out: one is trained, another is asked.")
    return asked


def course_of(args: RetrievalArguments, documents: Documents | None, asked: list[AskedFact] | None) -> Course:
    """What is taught, changed and asked."""
    if documents is None:
        return course_of_world(args.world_seed, args.facts, args.untrained, args.wordings)
    assert asked is not None
    return course_of_documents(
        documents, asked, facts=args.facts, untrained=args.untrained, wordings=args.wordings, held_out=HELD_OUT,
        seed=args.world_seed,
    )  # fmt: skip
