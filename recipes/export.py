"""Pairs, or a student, in the form of another tool.

    distill export pairs.jsonl --to messages --output messages.jsonl
    distill export pairs.jsonl --to sharegpt
    distill export pairs.jsonl --to hub --output you/name        (private; --no_private: for everybody)
    distill export runs/mine/student/adapter --to merged         (an adapter and its base in one plain model)
    distill export runs/mine/student --to gguf --precision q8_0  (for llama.cpp; --to ollama: with a Modelfile)
    distill export runs/mine/student --push you/name             (to the Hub with its card; with --to: in that form)

What stands first is pairs, unless it is a folder with a model or an adapter in it, or --to is a form of students. Ids and your own columns
go along with pairs, its card with a student; what a form has no place for is said.
"""

import dataclasses
import sys
from dataclasses import dataclass, field

from distill.basics.processes import say
from distill.models.forms import PRECISIONS, STUDENT_FORMS, asks_for_a_student
from distill.models.tokenizer import load_tokenizer
from distill.pairs import load_pairs
from distill.pairs.exporting import FORMS, export_pairs
from distill.running.parsing import given_flags, parse, refuse_given
from distill.running.reading_flags import ReadingArguments, reading_of
from distill.running.telling import one_sentence


@dataclass
class ExportArguments(ReadingArguments):
    """What is written, and how."""

    pairs: str = field(default="pairs.jsonl", metadata={"help": "Pairs in any form; may also stand first."})
    to: str | None = field(
        default=None,
        metadata={"help": f"Pairs: {', '.join(FORMS)} [messages]. A student: {', '.join(STUDENT_FORMS)}."},
    )
    output: str | None = field(
        default=None,
        metadata={
            "help": "The file or folder, or the dataset's id on the Hub; else the name of what is exported and the form."
        },
    )
    tokenizer: str | None = field(default=None, metadata={"help": "Only for pairs without token ids."})
    private: bool = field(default=True, metadata={"help": "On the Hub, for nobody but its owner."})


@dataclass
class StudentExportArguments:
    """Of a student."""

    student: str | None = field(
        default=None,
        metadata={"help": "A folder (of an adapter, too), an embedded name, or a Hub id; may also stand first."},
    )
    base: str | None = field(
        default=None, metadata={"help": "The model below an adapter whose folder does not say where it is."}
    )
    precision: str = field(
        default="auto",
        metadata={
            "help": f"gguf, ollama: one of {', '.join(PRECISIONS)}; auto: bf16 of a student in bfloat16, else f16."
        },
    )
    push: str | None = field(
        default=None, metadata={"help": "Upload what was written, or the folder as it is, to this Hub repository."}
    )


@one_sentence
def main(argv: list[str] | None = None) -> None:
    """Read, write, say."""
    argv = list(sys.argv[1:] if argv is None else argv)
    of_student = asks_for_a_student(argv)
    if argv and not argv[0].startswith("-"):
        argv = ["--student" if of_student else "--pairs", *argv]
    args, student = parse((ExportArguments, StudentExportArguments), argv, defaults={}, description=__doc__)
    if not of_student:
        _export_pairs(args, student)
        return
    if student.student is None:
        raise ValueError(f"--to {args.to} is a form of students; name one, a folder with a model or an adapter, say.")
    names = [f.name for f in dataclasses.fields(ExportArguments) if f.name not in ("to", "output", "private")]
    refuse_given(args, names, "this is of pairs, and a student is exported; leave it out.")
    if not student.push:
        refuse_given(args, ("private",), "only the Hub is told who may read (--push you/name); leave it out.")
    from distill.running.onward import export_student  # with torch

    export_student(student, to=args.to, output=args.output, private=args.private)


def _export_pairs(args: ExportArguments, student: StudentExportArguments) -> None:
    form = args.to or "messages"
    if form in STUDENT_FORMS:  # of a config file, which is read when torch is left out already
        raise ValueError(
            f"to is {form}, a form of students, and stands in the config file; give it as a flag: --to {form}."
        )
    if given := given_flags(student, [f.name for f in dataclasses.fields(student)]):
        raise ValueError(f"{given}: this is of students, and pairs are exported; leave it out.")
    if form != "hub":
        refuse_given(args, ("private",), "only the Hub is told who may read (--to hub); leave it out.")
    if form == "hub" and not args.output:
        raise ValueError("The Hub wants a name: give --output you/name.")
    output = args.output or f"{args.pairs}.{'parquet' if form == 'parquet' else f'{form}.jsonl'}"
    tokenizer = load_tokenizer(args.tokenizer) if args.tokenizer else None
    pairs = load_pairs(args.pairs, tokenizer, **reading_of(args, output))
    notes = export_pairs(pairs, form, output, private=args.private)
    say(f"{len(pairs)} pairs in {output}.")
    for note in notes:
        say(f"Note: {note}.")


if __name__ == "__main__":
    main()
