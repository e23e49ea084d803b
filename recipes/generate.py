"""Let a teacher answer prompts: a file of pairs, ready for the black box.

    distill generate --teacher smollm2-135m --prompts prompts.txt --output pairs.jsonl
    distill generate --num_prompts 100 --output pairs.jsonl          (the teacher writes the prompts, too)
    distill generate --teacher http://localhost:8000/v1 --tokenizer Qwen/Qwen3-0.6B --prompts prompts.txt

The key of a server, if it wants one, is read from the environment variable OPENAI_API_KEY (--api_key_env: another one).

Interrupt it when you like: the same command goes on from there.
"""

from dataclasses import dataclass, field
from pathlib import Path

from distill import generate
from distill.basics.processes import say
from distill.reports.provenance import write_steps
from distill.running.flags import ServerArguments, parse
from distill.running.folder import one_sentence
from distill.running.stages import prompts_of, teacher_behind, written_prompts
from distill.teachers import LocalTeacher, ServerTeacher
from distill.teachers.server import is_address


@dataclass
class GenerateArguments(ServerArguments):
    """What is asked of whom."""

    output: str = field(default="pairs.jsonl", metadata={"help": "JSONL file to write, and to continue."})
    teacher: str = field(
        default="smollm2-135m",
        metadata={"help": "Embedded name, local folder, Hub id, or the http:// address of a server."},
    )
    tokenizer: str | None = field(default=None, metadata={"help": "The student's, for a teacher behind a server."})
    prompts: str | None = field(default=None, metadata={"help": "Prompt file (.jsonl, or one a line)."})
    near: bool | None = field(
        default=None, metadata={"help": "Leave out prompts that nearly repeat another; unsaid: only the teacher's own."}
    )
    num_prompts: int = field(default=100, metadata={"help": "Prompts the teacher writes, without a file."})
    plain: bool = field(default=False, metadata={"help": "Continue plain text, without the chat template."})
    samples: int = field(default=1, metadata={"help": "Completions a prompt."})
    top_logprobs: int = field(default=0, metadata={"help": "Of a server: most likely tokens to keep at each place."})
    max_new_tokens: int = field(default=256, metadata={"help": "Longest completion, in tokens."})
    temperature: float = field(default=1.0, metadata={"help": "1 is the teacher itself; 0 its most likely tokens."})
    top_p: float = field(default=1.0, metadata={"help": "1 is the teacher itself."})
    top_k: int = field(default=0, metadata={"help": "0 is the teacher itself."})
    batch_size: int = field(default=32, metadata={"help": "Completions a local teacher draws at once."})
    seed: int = field(default=0, metadata={"help": "Of prompts and completions."})


def load_teacher(args: GenerateArguments) -> LocalTeacher | ServerTeacher:
    """The teacher; refused is a server without the tokenizer of a student, or without prompts."""
    chat = False if args.plain else None
    if not is_address(args.teacher):
        return LocalTeacher(args.teacher, chat=chat)
    if not args.tokenizer or not args.prompts:
        raise ValueError(
            "A server gives text and takes prompts: name the student's tokenizer with --tokenizer, and a file with "
            "--prompts."
        )
    return teacher_behind(args.teacher, args, args.tokenizer, chat=chat, top_logprobs=args.top_logprobs)


@one_sentence
def main(argv: list[str] | None = None) -> None:
    """Prompts, completions, a file."""
    (args,) = parse((GenerateArguments,), argv, defaults={}, description=__doc__)
    teacher = load_teacher(args)
    if args.prompts or not isinstance(teacher, LocalTeacher):
        source = Path(str(args.prompts))
        kept, step = prompts_of(str(source), near=bool(args.near))
    else:
        source = Path(args.output).with_suffix(".prompts.jsonl")
        kept, step = written_prompts(teacher, args.num_prompts, source, near=args.near, seed=args.seed)
    pairs = generate(
        teacher,
        kept,
        samples=args.samples,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        seed=args.seed,
        batch_size=args.batch_size,
        output=args.output,
        allow_refusals=args.allow_refusals,
    )
    write_steps(args.output, [step], source=source)  # now: a file of another run was refused
    stopped = pairs["finish_reason"].count("stop")
    say(f"{len(pairs)} pairs in {args.output}; {stopped} ended by themselves, {len(pairs) - stopped} were cut.")


if __name__ == "__main__":
    main()
