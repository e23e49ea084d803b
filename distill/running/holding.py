"""Flags for what holds a student near its start: replay of its own samples, and a KL to it; and early looks at over-fitting."""

from dataclasses import dataclass, field
from typing import Any

import datasets

from distill.basics import processes
from distill.evaluation.forgetting.own_text import own_pairs
from distill.generation import generate
from distill.objectives.keeping import kept_near
from distill.pairs.prompts import read_prompts
from distill.pairs.replay import replayed
from distill.running.folder import RunFolder
from distill.running.parsing import refuse_given
from distill.signals.sources import SELF
from distill.teachers import LocalTeacher


@dataclass
class ReplayArguments:
    """What the student was, replayed among the rows."""

    replay: float = field(
        default=0.0,
        metadata={
            "help": "Share of the training rows that are --student's own samples, of before the training, on other prompts: it forgets less."
        },
    )
    replay_prompts: str | None = field(
        default=None, metadata={"help": "A file of prompts for --replay; else the student writes them."}
    )


@dataclass
class KeepArguments(ReplayArguments):
    """A KL to what the student was."""

    keep_kl: float = field(
        default=0.0,
        metadata={
            "help": "Weight of KL(start || student) beside cross-entropy: it moves less. The start is run as a teacher, so it costs a forward pass more."
        },
    )


def check_holding(args: Any) -> None:
    """Refuse what cannot hold: there is no start to hold on to, or nothing reads a flag.

    Raises:
        ValueError: a share or weight out of range; a student that is cut from the teacher; several processes with replay.
    """
    keep = getattr(args, "keep_kl", 0.0)
    if not 0 <= args.replay < 1 or not keep >= 0:
        raise ValueError(
            f"replay is {args.replay} (a share of rows, 0 to below 1) and keep_kl {keep} (a weight, 0 or more)."
        )
    if not args.replay:
        refuse_given(args, ("replay_prompts",), "this is for --replay; give its share, or leave it out.")
    elif processes.count() > 1:
        raise ValueError("--replay lets the student write in one process; make its samples beforehand (distill generate), and give both files as --pairs.")  # fmt: skip
    if not args.student:
        refuse_given(
            args, ("replay", "keep_kl"),
            "this holds on to what the student was, and one that is cut from the teacher was nothing yet; name one with --student.",
        )  # fmt: skip
    if keep:
        refuse_given(args, ("supervised_only",), "with --keep_kl no logits of prompts are made anyway; leave it out.")


def with_replay(args: Any, train: datasets.Dataset, run: RunFolder) -> datasets.Dataset:
    """Training pairs with the start's own samples among them, which lie in the run's folder; the pairs themselves without `--replay`."""
    if not args.replay:
        return train
    start = LocalTeacher(args.student)
    count = round(args.replay / (1 - args.replay) * len(train))
    settings: dict[str, Any] = {"max_new_tokens": args.max_new_tokens, "seed": args.generation_seed}
    if args.replay_prompts is None:
        own = own_pairs(start, max(1, count + count // 20), run / "replay", **settings)
    else:
        own = generate(start, read_prompts(args.replay_prompts, limit=count), output=run / "replay.jsonl", **settings)
    mixed = replayed(train, own, args.replay)
    processes.say(f"{len(mixed) - len(train)} own samples of {args.student} stand beside {len(train)} training rows.")
    return mixed


def keeping(args: Any) -> dict[str, Any]:
    """What a white box is given for `--keep_kl`: the start as its teacher (with an adapter: the student without it), and the objective."""
    return {
        "teacher": SELF if args.lora_r is not None else LocalTeacher(args.student),
        "objectives": [kept_near(args.keep_kl)],
    }
