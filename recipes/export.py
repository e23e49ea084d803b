"""Pairs in the form of another tool: messages, ShareGPT, Parquet, or a dataset on the Hub.

    distill export pairs.jsonl --to messages --output messages.jsonl
    distill export pairs.jsonl --to sharegpt
    distill export pairs.jsonl --to hub --output you/name        (private; --no_private: for everybody)

Ids and your own columns go along; what a form has no place for is said.
"""

import sys
from dataclasses import dataclass, field

from distill.basics.processes import say
from distill.models.tokenizer import load_tokenizer
from distill.pairs import load_pairs
from distill.pairs.exporting import FORMS, export_pairs
from distill.running.parsing import parse, refuse_given
from distill.running.reading_flags import ReadingArguments, reading_of
from distill.running.telling import one_sentence


@dataclass
class ExportArguments(ReadingArguments):
    """What is written, and how."""

    pairs: str = field(default="pairs.jsonl", metadata={"help": "Pairs in any form; may also stand first."})
    to: str = field(default="messages", metadata={"help": f"One of {', '.join(FORMS)}."})
    output: str | None = field(
        default=None,
        metadata={"help": "The file, or the dataset's id on the Hub; else the name of the pairs and the form."},
    )
    tokenizer: str | None = field(default=None, metadata={"help": "Only for pairs without token ids."})
    private: bool = field(default=True, metadata={"help": "On the Hub, for nobody but its owner."})


@one_sentence
def main(argv: list[str] | None = None) -> None:
    """Read, write, say."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-"):
        argv = ["--pairs", *argv]
    (args,) = parse((ExportArguments,), argv, defaults={}, description=__doc__)
    if args.to != "hub":
        refuse_given(args, ("private",), "only the Hub is told who may read (--to hub); leave it out.")
    if args.to == "hub" and not args.output:
        raise ValueError("The Hub wants a name: give --output you/name.")
    output = args.output or f"{args.pairs}.{'parquet' if args.to == 'parquet' else f'{args.to}.jsonl'}"
    tokenizer = load_tokenizer(args.tokenizer) if args.tokenizer else None
    pairs = load_pairs(args.pairs, tokenizer, **reading_of(args, output))
    notes = export_pairs(pairs, args.to, output, private=args.private)
    say(f"{len(pairs)} pairs in {output}.")
    for note in notes:
        say(f"Note: {note}.")


if __name__ == "__main__":
    main()
