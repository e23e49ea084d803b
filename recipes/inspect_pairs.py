"""Look at pairs before a training: what is in them, what would go wrong, and which tokens of one example carry loss.

    distill inspect pairs.jsonl
    distill inspect pairs.jsonl --tokenizer Qwen/Qwen2.5-0.5B --max_length 2048 --row 17 --against gsm8k_test.jsonl

The exit status is 1 where training could not work with these pairs.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from distill import load_pairs
from distill.curation.contamination import find_contamination
from distill.curation.inspection import (
    check_rich,
    example,
    findings_list,
    preflight_table,
    show,
    teachers_prompt,
)
from distill.curation.look import LEVELS
from distill.curation.preflight import Preflight, preflight
from distill.curation.private.glance import private_finding
from distill.models.tokenizer import load_tokenizer
from distill.running.against import AgainstArguments, evaluation_sets
from distill.running.pairs_tokenizer import known_tokenizer
from distill.running.parsing import parse
from distill.running.reading_flags import ReadingArguments, reading_of
from distill.running.telling import one_sentence


@dataclass
class InspectArguments(ReadingArguments, AgainstArguments):
    """What is looked at."""

    pairs: str = field(
        default="pairs.jsonl",
        metadata={"help": "Pairs: a file of any format, a folder, a Hub dataset; may also stand first."},
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "Model whose tokens these are; by default the teacher's, where it lies here."}
    )
    turns: str = field(
        default="last",
        metadata={
            "help": "Of rows with messages: loss on the last or on all turns of the assistant, or each in a row."
        },
    )
    max_length: int | None = field(default=None, metadata={"help": "Longest row of the training, in tokens."})
    batch_size: int = field(default=8, metadata={"help": "Rows a batch, for the share of padding."})
    row: str | None = field(
        default=None, metadata={"help": "Id or number of the pair that is shown; by default the first."}
    )
    tokens: int = field(default=160, metadata={"help": "Most tokens of it that are shown."})
    svg: str | None = field(default=None, metadata={"help": "Save the terminal's picture here."})
    json: str | None = field(default=None, metadata={"help": "Save figures and findings here."})


@one_sentence
def main(argv: list[str] | None = None) -> None:
    """Preflight, overlap, one example."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-"):
        argv = ["--pairs", *argv]
    (args,) = parse((InspectArguments,), argv, defaults={}, description=__doc__)
    check_rich()
    against = evaluation_sets(args)
    tokenizer, pairs = _load(args)
    shown = pairs[_row_number(pairs, args.row)]
    report = preflight(pairs, tokenizer, args.max_length, batch_size=args.batch_size)
    private, figures = private_finding(pairs, tokenizer)
    findings = sorted((*report.findings, private), key=lambda one: LEVELS.index(one.level))
    report = Preflight({**report.figures, "private": figures}, tuple(findings))
    overlaps = find_contamination(pairs, against, n=args.n, share=args.share) if against else []

    parts: list[Any] = [preflight_table(report, f"{args.pairs}"), "", findings_list(report, overlaps)]
    try:
        parts.append(example(shown, tokenizer, args.max_length, most_tokens=args.tokens))
    except ValueError as error:  # nothing to learn from this one: said, and all the rest shown
        parts.append(f"\n{error}")
    parts += teachers_prompt(shown, tokenizer)
    show(parts, svg=args.svg, title=f"distill inspect {Path(args.pairs).name}")
    if args.json:
        found = {**report.as_dict(), "overlap": [overlap.as_dict() for overlap in overlaps]}
        Path(args.json).write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
    if report.errors:
        raise SystemExit(1)


def _load(args: InspectArguments) -> tuple[PreTrainedTokenizerBase, datasets.Dataset]:
    """The pairs and the tokenizer of their ids."""
    reading = reading_of(args, args.pairs if Path(args.pairs).exists() else Path(args.pairs).name)
    if args.tokenizer:
        tokenizer = load_tokenizer(args.tokenizer)
        return tokenizer, load_pairs(args.pairs, tokenizer, turns=args.turns, **reading)
    pairs = load_pairs(args.pairs, turns=args.turns, **reading)
    if (known := known_tokenizer(pairs)) is not None:
        return known, pairs
    teachers = sorted(set(pairs["teacher"][:]))
    raise ValueError(
        f"The pairs are by {', '.join(teachers[:3])}, whose tokenizer is not known here; give --tokenizer, the model whose "
        "tokens these are."
    )


def _row_number(pairs: datasets.Dataset, row: str | None) -> int:
    ids = pairs["id"][:]
    if row is None:
        return 0
    if row in ids:
        return ids.index(row)
    if row.isdigit() and int(row) < len(ids):
        return int(row)
    raise ValueError(f"There is no pair {row!r}; give an id, or a number from 0 to {len(ids) - 1}.")


if __name__ == "__main__":
    main()
