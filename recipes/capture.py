"""Let a teacher run once over pairs, and store what it says: a white-box training that needs no teacher.

    distill capture pairs.jsonl --teacher Qwen/Qwen3-0.6B --encoding threshold --output signals
    distill capture pairs.jsonl --teacher my/large-model --teacher_bits 8 --encoding hidden --output signals

A training reads them: WhiteBoxTrainer(teacher=StoredSignals("signals"), objectives=[Logits()], train_dataset=pairs, ...). The encoding
decides what a position holds (docs/reference/signals.md). Started with `accelerate launch`, every process does its share.

Interrupt it when you like: the same command goes on from there. Pairs may be added.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets

from distill.basics import processes
from distill.basics.processes import say
from distill.models.quantising import in_bits
from distill.pairs import are_tokens_of, load_pairs
from distill.running.flags import parse
from distill.running.folder import one_sentence
from distill.running.reading_flags import ReadingArguments, reading_of
from distill.signals import StoredSignals, capture
from distill.signals.encodings import ENCODINGS, encoding_of
from distill.teachers import LocalTeacher

DTYPES = ("float32", "bfloat16", "float16", "auto")


@dataclass
class CaptureArguments(ReadingArguments):
    """What is stored of whom."""

    pairs: str = field(
        default="pairs.jsonl",
        metadata={"help": "Pairs: a file of any format, a folder, a Hub dataset; may also stand first."},
    )
    output: str = field(default="signals", metadata={"help": "Folder to write, and to continue."})
    teacher: str = field(default="smollm2-135m", metadata={"help": "Embedded name, local folder, or Hub id."})
    teacher_dtype: str | None = field(
        default=None, metadata={"help": "Of the teacher's weights: float32, bfloat16, float16, auto (as stored)."}
    )
    teacher_bits: int | None = field(default=None, metadata={"help": "Load the teacher in 8 or 4 bits."})
    encoding: str = field(
        default="hidden",
        metadata={
            "help": f"What a position holds: {', '.join(ENCODINGS)}; a number may follow: hidden:8, threshold:32."
        },
    )
    temperature: float | None = field(
        default=None, metadata={"help": "Of the stored probabilities, that of the training; hidden holds all of them."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "That of the training: what it cuts off is not stored. Unsaid: all."}
    )
    turns: str = field(
        default="last",
        metadata={
            "help": "Of rows with messages: loss on the last or on all turns of the assistant, or each in a row."
        },
    )
    batch_tokens: int = field(
        default=8192, metadata={"help": "Tokens, with padding, that the teacher is given at once."}
    )
    verify: bool = field(
        default=False, metadata={"help": "Read all that is there first; what was changed is captured again."}
    )


def load_teacher(args: CaptureArguments) -> LocalTeacher:
    """The teacher.

    Raises:
        ValueError: no such teacher, or a precision that there is not.
    """
    if args.teacher_dtype not in (None, *DTYPES):
        raise ValueError(f"teacher_dtype is {args.teacher_dtype!r}; it must be one of {', '.join(DTYPES)}.")
    bits = in_bits(args.teacher_bits) if args.teacher_bits else None
    return LocalTeacher(args.teacher, dtype=args.teacher_dtype, quantization_config=bits)


def read_pairs(args: CaptureArguments, teacher: LocalTeacher) -> datasets.Dataset:
    """The pairs, in the teacher's tokens.

    Raises:
        ValueError: they are another tokenizer's.
    """
    pairs = load_pairs(args.pairs, teacher.tokenizer, turns=args.turns, **reading_of(args, args.output))
    if not are_tokens_of(pairs, teacher.tokenizer):
        raise ValueError(
            f"The token ids in {args.pairs} are not those of {args.teacher}: they do not decode to the text beside them. Give the teacher "
            "whose tokens these are, or pairs without ids."
        )
    return pairs


def told(signals: StoredSignals) -> str:
    """One sentence: what is there, and what it takes."""
    positions, size = int(signals.index.positions.sum()), signals.index.bytes
    return (
        f"{len(signals)} pairs with {positions:,} positions in {signals.folder}: {size / 2**20:.1f} MiB, {size / max(positions, 1):.1f} bytes a "
        f"position; {signals.identity(None)}."
    )


@one_sentence
def main(argv: Sequence[str] | None = None) -> None:
    """A teacher, pairs, a folder."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-"):
        argv = ["--pairs", *argv]
    (args,) = parse((CaptureArguments,), argv, defaults={}, description=__doc__)
    settings: dict[str, Any] = {} if args.temperature is None else {"temperature": args.temperature}
    encoding = encoding_of(args.encoding, **settings)  # before anything is loaded
    several = processes.meet()
    processes.only_the_first_speaks()
    teacher = load_teacher(args)
    signals = capture(
        teacher,
        read_pairs(args, teacher),
        output=args.output,
        encoding=encoding,
        max_length=args.max_length,
        batch_tokens=args.batch_tokens,
        share=several,
        verify=args.verify,
    )
    say(told(signals))


if __name__ == "__main__":
    main()
