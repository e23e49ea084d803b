"""Let a teacher run once over pairs, and store what it says: a white-box training that needs no teacher.

    distill capture pairs.jsonl --teacher Qwen/Qwen3-0.6B --encoding threshold --output signals
    distill capture pairs.jsonl --teacher my/large-model --teacher_bits 8 --encoding hidden --output signals

Which encoding? This captures nothing; it measures what each loses of the gradient, at your student, and when storing pays:

    distill capture pairs.jsonl --teacher Qwen/Qwen3-0.6B --fidelity --student my/student --picture fidelity.svg

A training reads them: WhiteBoxTrainer(teacher=StoredSignals("signals"), objectives=[Logits()], train_dataset=pairs, ...). The encoding
decides what a position holds (docs/reference/signals.md). Started with `accelerate launch`, every process does its share.

Interrupt it when you like: the same command goes on from there. Pairs may be added.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from distill.basics import processes
from distill.basics.processes import say
from distill.evaluation.fidelity import ENCODINGS as FIDELITY
from distill.evaluation.fidelity import fidelity
from distill.models.load import load_model, load_tokenizer
from distill.models.quantising import in_bits
from distill.pairs import are_tokens_of, load_pairs
from distill.pairs.row_limits import RowLimits
from distill.reports.fidelity_picture import fidelity_picture
from distill.running.flags import parse
from distill.running.folder import one_sentence
from distill.running.parsing import refuse_given
from distill.running.reading_flags import ReadingArguments, reading_of
from distill.signals import StoredSignals, capture
from distill.signals.encodings import ENCODINGS, Encoding, encoding_of
from distill.signals.teacher_rows import rows_of
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
    encoding: str | None = field(
        default=None,
        metadata={
            "help": f"What a position holds: {', '.join(ENCODINGS)}; a number may follow: hidden:8, threshold:32. Unsaid: hidden. With --fidelity: "
            "measured beside the others."
        },
    )
    temperature: float | None = field(
        default=None, metadata={"help": "Of the stored probabilities, that of the training; hidden holds all of them."}
    )
    sets: int | None = field(
        default=None,
        metadata={
            "help": "Of threshold and draws: independent sets of draws, so that epochs do not all see the same (1)."
        },
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
    fidelity: bool = field(
        default=False,
        metadata={"help": "Capture nothing: measure what encodings lose at --student, on --sample pairs."},
    )
    student: str | None = field(default=None, metadata={"help": "Of --fidelity: the model that would be trained."})
    sample: int = field(default=32, metadata={"help": "Of --fidelity: pairs."})
    picture: str | None = field(default=None, metadata={"help": "Of --fidelity: save error against bytes as SVG here."})
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


def measure(args: CaptureArguments, teacher: LocalTeacher, pairs: datasets.Dataset) -> str:
    """What encodings lose of the gradient of `--student`, as a table; the picture is saved.

    Raises:
        ValueError: no student, or no pairs.
    """
    if not args.student or args.sample < 1:
        raise ValueError(
            f"--fidelity measures at a student: name it with --student; --sample is {args.sample} and must be at least 1."
        )
    student = load_model(args.student, dtype=torch.float32).to(teacher.model.device)  # type: ignore[arg-type]
    chosen = np.random.default_rng(0).permutation(len(pairs))[: args.sample]
    positions = rows_of(pairs, args.max_length, RowLimits()).positions.sum()
    found = fidelity(
        teacher.model, student, pairs.select(chosen.tolist()), teacher.tokenizer, temperature=args.temperature or 1.0,
        max_length=args.max_length, epoch_positions=int(positions), encodings=measured_of(args),
        student_tokenizer=_tokenizer_beside(args.student),
    )  # fmt: skip
    if args.picture:
        Path(args.picture).write_text(fidelity_picture(found.as_dict()), encoding="utf-8")
    return found.table()


def _tokenizer_beside(student: str) -> PreTrainedTokenizerBase | None:
    """The student's own, where there is one: a folder may hold weights alone."""
    try:
        return load_tokenizer(student)
    except ValueError:
        return None


def measured_of(args: CaptureArguments) -> tuple[str | Encoding, ...]:
    """Which encodings are measured: the usual ones, and the one that is asked for.

    Raises:
        ValueError: sets of no encoding, or one that cannot be.
    """
    if args.sets is not None and args.encoding is None:
        raise ValueError(
            f"--sets {args.sets} is of an encoding; with --fidelity name it, too: --encoding threshold:32."
        )
    if args.encoding is None:
        return FIDELITY
    settings = {"sets": args.sets, "temperature": args.temperature} if args.sets is not None else {}
    asked = encoding_of(args.encoding, **{name: value for name, value in settings.items() if value is not None})
    if (args.sets or 1) > 1:
        return (*FIDELITY, asked)
    unsaid = encoding_of(args.encoding)  # with one set, as the usual ones
    return FIDELITY if any(encoding_of(one) == unsaid for one in FIDELITY) else (*FIDELITY, args.encoding)


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
    given = {"temperature": args.temperature, "sets": args.sets}
    settings = {name: value for name, value in given.items() if value is not None}
    # before anything is loaded
    encoding = measured_of(args)[0] if args.fidelity else encoding_of(args.encoding or "hidden", **settings)
    if args.fidelity:
        unread = ("batch_tokens", "verify", *(() if args.skip_bad else ("output",)))
        refuse_given(args, unread, "--fidelity measures and captures nothing; leave one of them out.")
    else:
        why = "this is of --fidelity, which measures and captures nothing; add it, or leave this out."
        refuse_given(args, ("student", "picture", "sample"), why)
    several = processes.meet()
    processes.only_the_first_speaks()
    teacher = load_teacher(args)
    pairs = read_pairs(args, teacher)
    if args.fidelity:
        say(measure(args, teacher, pairs))
        return
    signals = capture(
        teacher,
        pairs,
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
