"""Talk with a student, to look at what was made; with its teacher beside it, if you like.

    distill chat runs/demo/white_box/student
    distill chat runs/mine/student --beside smollm2-135m --system "Be short."
    distill chat runs/mine/student --temperature 0 < questions.txt

Each remembers its own conversation: with --beside both get your words, and each its own answers. /reset forgets what was said, /quit or Ctrl-D
ends, Ctrl-C stops an answer. Where the input is no terminal, each of its lines is a prompt, in one conversation. A model
without a chat template continues your text and remembers nothing.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from distill.basics.processes import say
from distill.basics.terminal import printable
from distill.running.parsing import parse
from distill.running.telling import one_sentence
from distill.teachers import LocalTeacher
from distill.teachers.base import Sampling
from distill.teachers.talk import INTERRUPTED, Answer, Talk
from distill.text.ends import LENGTH


@dataclass
class ChatArguments:
    """Whom you talk with, and how answers are drawn."""

    student: str = field(
        default="smollm2-135m",
        metadata={"help": "A folder (of an adapter, too), an embedded name, or a Hub id; may also stand first."},
    )
    beside: str | None = field(
        default=None, metadata={"help": "Another model, its teacher say, that answers each turn, too."}
    )
    base: str | None = field(
        default=None, metadata={"help": "The model below an adapter whose folder does not say where it is."}
    )
    system: str | None = field(default=None, metadata={"help": "A system message before everything."})
    temperature: float = field(default=0.7, metadata={"help": "0 takes the likeliest token each time."})
    max_new_tokens: int = field(default=256, metadata={"help": "Longest answer, in tokens."})
    seed: int = field(default=0, metadata={"help": "The same seed and words give the same answers."})


@one_sentence
def main(argv: list[str] | None = None) -> None:
    """Load, then answer until the input ends."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-"):
        argv = ["--student", *argv]
    (args,) = parse((ChatArguments,), argv, defaults={}, description=__doc__)
    sampling = Sampling(max_new_tokens=args.max_new_tokens, temperature=args.temperature, seed=args.seed)
    talks = {"student": Talk(LocalTeacher(args.student, base=args.base), sampling, args.system)}
    if args.beside is not None:
        talks["teacher"] = Talk(LocalTeacher(args.beside), sampling, args.system)
    for name, talk in talks.items():
        say(printable(f"{name}: {_described(talk)}" if len(talks) > 1 else _described(talk)))
    drawn = (
        f"temperature {args.temperature:g}, seed {args.seed}" if args.temperature else "the likeliest token each time"
    )
    say(
        f"Answers of at most {args.max_new_tokens} tokens, {drawn}. /reset forgets, /quit ends, Ctrl-C stops an answer."
    )
    for said in _prompts():
        if said == "/quit":
            break
        if said == "/reset":
            for talk in talks.values():
                talk.reset()
            say("[forgotten]")
            continue
        for name, talk in talks.items():
            _show(talk, said, f"{name}: " if len(talks) > 1 else "")
        say("")


def _described(talk: Talk) -> str:
    model = talk.speaker.model
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    dtype = str(model.dtype).removeprefix("torch.")
    told = "" if talk.has_turns else ". It has no chat template: your text is continued, and nothing is remembered"
    return f"{talk.speaker.name}, {size:,.1f} million parameters in {dtype}{told}."


def _show(talk: Talk, said: str, label: str) -> None:
    print(label, end="", flush=True)
    try:
        answer = talk.answer(said, lambda piece: print(printable(piece), end="", flush=True))
    except ValueError as error:
        say(printable(f"[no answer: {error} /reset forgets what was said]"))
        return
    print(_mark(answer, talk.sampling.max_new_tokens), flush=True)


def _mark(answer: Answer, limit: int) -> str:
    if answer.end == LENGTH:
        return f" [cut at --max_new_tokens {limit}]"
    if answer.end == INTERRUPTED:
        return " [stopped by you]"
    return "" if answer.text.strip() else "[an empty answer]"


def _prompts() -> Iterator[str]:
    """What the user says, line by line; on a terminal with its keys to edit a line."""
    on_terminal = sys.stdin.isatty()
    if on_terminal:
        import readline  # noqa: F401  (input() uses it once it is imported)
    else:
        sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    while True:
        try:
            line = f"{input('> ')}\n" if on_terminal else sys.stdin.readline()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if not line:
            return
        if said := line.strip():
            if not on_terminal:  # what comes out reads as it would on a terminal
                print(printable(f"> {said}"), flush=True)
            yield said


if __name__ == "__main__":
    main()
