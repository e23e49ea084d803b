"""Clean pairs: leave out repetitions, broken text, loops, other languages, and questions of your evaluation sets.

    distill clean pairs.jsonl --against gsm8k_test.jsonl --output clean.jsonl
    distill clean pairs.jsonl --private replace --private_key ~/standins.key --output clean.jsonl
    distill clean pairs.jsonl --near prompt --language en --max_tokens 2048 --must_not "(?i)as an ai" --output clean.jsonl

Only what you ask for is done; without flags, that is the same draw recorded twice, and broken text. Every step says how many rows it took, and
what that does to the distribution the student learns; beside the output, a .steps.json says it for the student's card.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets

from distill import load_pairs
from distill.basics.curation_step import Step, steps_table
from distill.basics.processes import say
from distill.curation.contamination import drop_contaminated, find_contamination
from distill.curation.duplicates import DUPLICATES, drop_duplicates, drop_near_duplicates
from distill.curation.filters import (
    drop_broken,
    drop_cut,
    filter_format,
    filter_language,
    filter_length,
    filter_repetition,
)
from distill.models.tokenizer import load_tokenizer
from distill.pairs.evaluation_sets import Question
from distill.pairs.writing import output_kind, save_pairs
from distill.reports.provenance import write_steps
from distill.running.against import AgainstArguments, evaluation_sets
from distill.running.parsing import parse, refuse_given
from distill.running.private_flags import PrivateArguments, private_cleaner
from distill.running.reading_flags import ReadingArguments, reading_of
from distill.running.telling import one_sentence

Cleaner = Callable[[datasets.Dataset], tuple[datasets.Dataset, Step]]


@dataclass
class CleanArguments(ReadingArguments, AgainstArguments, PrivateArguments):
    """What is left out."""

    pairs: str = field(
        default="pairs.jsonl",
        metadata={"help": "Pairs: a file of any format, a folder, a Hub dataset; may also stand first."},
    )
    output: str = field(
        default="clean.jsonl", metadata={"help": "Where the rest goes: .jsonl, .jsonl.gz, .parquet, or a folder."}
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "For pairs without token ids; and whose ids get stand-ins, if the teacher does not lie here."
        },
    )
    duplicates: str = field(default="draw", metadata={"help": f"Exact repetitions: none, {', '.join(DUPLICATES)}."})
    near: str | None = field(
        default=None, metadata={"help": "Near duplicates of: prompt (its user's words), completion, pair."}
    )
    near_threshold: float = field(default=0.7, metadata={"help": "Share of common runs of three words."})
    broken: bool = field(default=True, metadata={"help": "Leave out blank completions and broken characters."})
    turns: str = field(
        default="last",
        metadata={
            "help": "Of rows with messages: loss on the last or on all turns of the assistant, or each in a row."
        },
    )
    drop_cut: bool = field(default=False, metadata={"help": "Leave out completions cut at the limit."})
    min_tokens: int | None = field(default=None, metadata={"help": "Of a completion."})
    max_tokens: int | None = field(default=None, metadata={"help": "Of a completion."})
    language: list[str] = field(default_factory=list, metadata={"help": "Keep completions in these, e.g. en de."})
    must: str | None = field(default=None, metadata={"help": "Regular expression that a completion must have."})
    must_not: str | None = field(default=None, metadata={"help": "Regular expression that it must not have."})
    repetition: bool = field(default=False, metadata={"help": "Leave out completions that repeat themselves (Gopher)."})
    report_only: bool = field(default=False, metadata={"help": "Only say what would be left out; write nothing."})


@one_sentence
def main(argv: list[str] | None = None) -> None:
    """Read, clean, say, write."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-"):
        argv = ["--pairs", *argv]
    (args,) = parse((CleanArguments,), argv, defaults={}, description=__doc__)
    if args.near is None:
        why = "only near duplicates have this; say of what, as --near prompt, or leave it out."
        refuse_given(args, ("near_threshold",), why)
    private = private_cleaner(args, args.tokenizer)
    against = evaluation_sets(args)
    output_kind(args.output)
    if not args.report_only and Path(args.output).exists():
        raise ValueError(f"{args.output} exists already; give another --output, or remove it first.")
    reading = reading_of(args, args.output)
    pairs = load_pairs(
        args.pairs, load_tokenizer(args.tokenizer) if args.tokenizer else None, turns=args.turns, **reading
    )

    steps: list[Step] = []
    whole = pairs
    cleaners = [
        *([private] if private else []),
        *_cleaners(args, against),
    ]  # what later steps show has stand-ins by then
    for clean in cleaners:
        pairs, step = clean(pairs)
        if args.private == "report" and clean is not private:
            step = replace(step, examples=())  # texts as they are, with what is private in them
        steps.append(step)
        say(step)
        for example in step.examples:
            say(f"    {example}")
    if against and args.report_only:
        for overlap in find_contamination(whole, against, n=args.n, share=args.share):  # of what is left, nothing is
            say(overlap)
    say("\n" + steps_table(steps))
    if args.report_only:
        return
    if len(pairs) == 0:
        raise ValueError("Nothing is left of the pairs; ask for less to be left out. Nothing was written.")
    save_pairs(pairs, args.output)
    write_steps(args.output, steps, source=args.pairs)
    say(f"\n{len(pairs)} pairs in {args.output}.")


def _cleaners(args: CleanArguments, against: dict[str, list[Question]]) -> list[Cleaner]:
    """The steps asked for: cheap and certain ones first."""
    listed: list[tuple[Any, Cleaner]] = [
        (args.duplicates != "none", lambda pairs: drop_duplicates(pairs, args.duplicates)),
        (args.broken, drop_broken),
        (args.drop_cut, drop_cut),
        (
            args.min_tokens is not None or args.max_tokens is not None,
            lambda pairs: filter_length(pairs, args.min_tokens, args.max_tokens),
        ),
        (args.must or args.must_not, lambda pairs: filter_format(pairs, must=args.must, must_not=args.must_not)),
        (args.language, lambda pairs: filter_language(pairs, args.language)),
        (args.repetition, filter_repetition),
        (against, lambda pairs: drop_contaminated(pairs, against, n=args.n, share=args.share)),
        (args.near, lambda pairs: drop_near_duplicates(pairs, args.near_threshold, of=str(args.near))),
    ]
    return [clean for wanted, clean in listed if wanted]


if __name__ == "__main__":
    main()
