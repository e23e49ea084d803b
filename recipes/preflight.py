"""Look at an on-policy training before it: the student writes, the teacher reads, and what speaks against the run is said.

    distill preflight --teacher smollm2-135m --student my/student --prompts prompts.jsonl --num_prompts 16
    distill preflight --teacher other/family --student my/student --tokens aligned --verifier number --prompts questions.jsonl

Told are the KL a token on the student's own text, both ways, how many of the likeliest tokens both sides share, how many rollouts end, how many
repeat themselves, both chat templates with the differing tokens marked, and with --verifier how many are right. Every training with
rollouts begins with the same look. The exit status is 1 where it would not begin.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from distill import make_student
from distill.basics.processes import say
from distill.curation.verifiers import load_verifier
from distill.generation.prompts import write_prompts
from distill.models.load import load_model, load_tokenizer
from distill.pairs.prompts import prompt_rows
from distill.running.parsing import parse
from distill.running.reading_flags import ReadingArguments, count_of, reading_of
from distill.running.telling import one_sentence
from distill.running.unread import refuse_unread_cut, refuse_unread_files
from distill.teachers import LocalTeacher
from distill.trainers import Rollouts
from distill.trainers.rollout_preflight import preflight_rollouts
from distill.trainers.rollouts import HIGHEST_KL


@dataclass
class PreflightArguments(ReadingArguments):
    """Whose text is looked at, and by whom."""

    teacher: str = field(default="smollm2-135m", metadata={"help": "Embedded name, local folder, or Hub id."})
    student: str | None = field(default=None, metadata={"help": "Likewise; by default one cut from the teacher."})
    layers: int = field(default=24, metadata={"help": "Teacher layers a cut student keeps."})
    prompts: str | None = field(
        default=None, metadata={"help": "Prompts: a file of any format; by default the teacher writes them."}
    )
    num_prompts: int = field(default=8, metadata={"help": "Prompts that are looked at, spread over the file."})
    max_new_tokens: int = field(default=128, metadata={"help": "Longest rollout, in tokens."})
    temperature: float = field(default=1.0, metadata={"help": "Of the rollouts; 1 is the student itself."})
    seed: int = field(default=0, metadata={"help": "Of rollouts, and of prompts that the teacher writes."})
    tokens: str = field(default="same", metadata={"help": "same, or aligned: the teacher has another tokenizer."})
    highest_kl: float = field(
        default=HIGHEST_KL,
        metadata={"help": "Nats a token from the teacher above which a run would not begin; inf: none."},
    )
    verifier: str | None = field(
        default=None,
        metadata={"help": "exact, number, regex:PATTERN, task:last_line, or your function as path/file.py:name."},
    )
    json: str | None = field(default=None, metadata={"help": "Save figures and findings here."})


@one_sentence
def main(argv: list[str] | None = None) -> None:
    """Load both, look, print."""
    argv = list(sys.argv[1:] if argv is None else argv)
    (args,) = parse((PreflightArguments,), argv, defaults={}, description=__doc__)
    refuse_unread_files(args)
    refuse_unread_cut(args)
    rollouts = Rollouts(
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        look=count_of(args.num_prompts, 1),
        highest_kl=args.highest_kl,
        verifier=None if args.verifier is None else load_verifier(args.verifier),
    )
    given = None if args.prompts is None else prompt_rows(args.prompts, whole=True, **reading_of(args, args.prompts))
    teacher = LocalTeacher(args.teacher)
    if args.student is None:
        student, tokenizer = make_student(teacher.model, args.layers), teacher.tokenizer
    else:
        student, tokenizer = load_model(args.student, dtype=torch.float32), load_tokenizer(args.student)
    prompts: list[Any] = given or write_prompts(
        teacher, args.num_prompts, max_new_tokens=48, temperature=0.8, seed=args.seed, batch_size=2 * args.num_prompts
    )
    found = preflight_rollouts(student, teacher, prompts, tokenizer, rollouts, tokens=args.tokens, seed=args.seed)
    say(found)
    if args.json:
        Path(args.json).write_text(json.dumps(found.as_dict(), indent=1, ensure_ascii=False), encoding="utf-8")
    if found.errors:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
