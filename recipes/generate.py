"""Let a teacher answer prompts: a file of pairs, ready for the black box.

    distill generate --teacher smollm2-135m --prompts prompts.txt --output pairs.jsonl
    distill generate --num_prompts 100 --output pairs.jsonl          (the teacher writes the prompts, too)
    distill generate --prompts prompts.txt --teacher_system "Answer in one short sentence."   (only the teacher is told so)
    distill generate --documents docs --mode mixed --output pairs.jsonl   (training rows of the facts in documents)
    distill generate --teacher http://localhost:8000/v1 --tokenizer Qwen/Qwen3-0.6B --prompts prompts.txt

Started with `accelerate launch`, every process generates its share (docs/how-to/generate-at-scale.md).

The key of a server, if it wants one, is read from the environment variable OPENAI_API_KEY (--api_key_env: another one).

Interrupt it when you like: the same command goes on from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distill import generate
from distill.basics import processes
from distill.basics.processes import say
from distill.models.quantising import in_bits
from distill.pairs.prompts import Asked, prompt_of
from distill.reports.provenance import write_steps
from distill.running.documents import DocumentArguments, check_documents, read_documents, rows_of_documents
from distill.running.flags import ServerArguments, parse
from distill.running.folder import one_sentence
from distill.running.reading_flags import PromptArguments, count_of
from distill.running.stages import asked_of_file, refuse_flags_of_servers, teacher_behind, written_prompts
from distill.running.teacher_prompts import TeacherPromptArguments, check_teacher_prompts, shown_to_teacher
from distill.running.unread import refuse_unread_files
from distill.teachers import LocalTeacher, ServerTeacher
from distill.teachers.server import is_address
from distill.text.teacher_prompts import behind_system

DTYPES = ("float32", "bfloat16", "float16", "auto")


@dataclass
class GenerateArguments(PromptArguments, TeacherPromptArguments, ServerArguments, DocumentArguments):
    """What is asked of whom."""

    output: str = field(default="pairs.jsonl", metadata={"help": "JSONL file to write, and to continue."})
    teacher: str = field(
        default="smollm2-135m",
        metadata={"help": "Embedded name, local folder, Hub id, or http:// addresses of servers, divided by commas."},
    )
    teacher_dtype: str | None = field(
        default=None, metadata={"help": "Of a local teacher's weights: float32, bfloat16, float16, auto (as stored)."}
    )
    teacher_bits: int | None = field(default=None, metadata={"help": "Load a local teacher in 8 or 4 bits."})
    system: str | None = field(
        default=None, metadata={"help": "A system text before every prompt, the teacher's, too."}
    )
    tokenizer: str | None = field(default=None, metadata={"help": "The student's, for a teacher behind a server."})
    prompts: str | None = field(default=None, metadata={"help": "Prompts: a file of any format, or a Hub dataset."})
    num_prompts: int | None = field(
        default=None, metadata={"help": "Prompts. Without a file, the teacher writes 100; of a file, all are asked."}
    )
    plain: bool = field(default=False, metadata={"help": "Continue plain text, without the chat template."})
    samples: int = field(default=1, metadata={"help": "Completions a prompt."})
    top_logprobs: int = field(default=0, metadata={"help": "Of a server: most likely tokens to keep at each place."})
    max_new_tokens: int = field(default=256, metadata={"help": "Longest completion, in tokens."})
    temperature: float = field(default=1.0, metadata={"help": "1 is the teacher itself; 0 its most likely tokens."})
    top_p: float = field(default=1.0, metadata={"help": "1 is the teacher itself."})
    top_k: int = field(default=0, metadata={"help": "0 is the teacher itself."})
    batch_size: int | None = field(
        default=None, metadata={"help": "Completions a local teacher draws at once; 32 if unsaid."}
    )
    seed: int = field(default=0, metadata={"help": "Of prompts and completions."})


def load_teacher(args: GenerateArguments) -> LocalTeacher | ServerTeacher:
    """The teacher.

    Raises:
        ValueError: a server without the tokenizer of a student, or without prompts; flags that this kind of teacher does not
            read.
    """
    chat = False if args.plain else None
    if not is_address(args.teacher):
        refuse_flags_of_servers(args, "tokenizer", "top_logprobs")
        if args.teacher_dtype not in (None, *DTYPES):
            raise ValueError(f"teacher_dtype is {args.teacher_dtype!r}; it must be one of {', '.join(DTYPES)}.")
        bits = in_bits(args.teacher_bits) if args.teacher_bits else None
        return LocalTeacher(args.teacher, dtype=args.teacher_dtype, quantization_config=bits, chat=chat)
    if args.batch_size is not None:
        raise ValueError(
            "--batch_size is of a teacher that runs here; a server is asked for so many completions at once as --concurrency says."
        )
    if args.teacher_dtype or args.teacher_bits:
        raise ValueError(
            "teacher_dtype and teacher_bits load a teacher here, and this one runs behind a server, which was told when it was "
            "started; leave them out."
        )
    if args.documents is not None and not args.tokenizer:
        raise ValueError("A server gives text: name the student's tokenizer with --tokenizer.")
    if not args.tokenizer or not (args.prompts or args.documents):
        raise ValueError(
            "A server gives text and takes prompts: name the student's tokenizer with --tokenizer, and a file with "
            "--prompts."
        )
    return teacher_behind(args.teacher, args, args.tokenizer, chat=chat, top_logprobs=args.top_logprobs)


def with_system(prompts: Sequence[Asked], text: str | None) -> list[Asked]:
    """The prompts, with what stands beside them, and with a system turn before each; a bare text becomes a user turn.

    Raises:
        ValueError: a prompt that has a system turn of its own.
    """
    if text is None:
        return list(prompts)
    turn = {"role": "system", "content": text}
    made: list[Asked] = []
    for number, one in enumerate(prompts, start=1):
        prompt = prompt_of(one)
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if any(message["role"] in ("system", "developer") for message in messages):
            raise ValueError(
                f"--system: prompt {number} has a system turn of its own; leave --system out, or take it away."
            )
        made.append({**one, "prompt": [turn, *messages]} if isinstance(one, dict) else [turn, *messages])
    return made


def _prompts_beside(output: Path) -> Path:
    """Where the teacher's own prompts lie, under the whole name; earlier versions left the ending out."""
    earlier, beside = output.with_suffix(".prompts.jsonl"), output.with_name(f"{output.name}.prompts.jsonl")
    return earlier if output.suffix == ".jsonl" and earlier.is_file() and not beside.exists() else beside


@one_sentence
def main(argv: list[str] | None = None) -> None:
    """Prompts, completions, a file."""
    (args,) = parse((GenerateArguments,), argv, defaults={}, description=__doc__)
    for flag, text in (("--system", args.system), ("--teacher_system", args.teacher_system)):
        if text is not None and args.plain:
            raise ValueError(
                f"{flag} is a turn of a chat, and --plain asks without the chat template; leave one of them out."
            )
    check_teacher_prompts(args)
    check_documents(args)
    refuse_unread_files(args)
    several = processes.meet()
    if args.documents is not None:
        documents = read_documents(args)
        rows_of_documents(args, load_teacher(args), documents, share=several)
        return
    teacher = load_teacher(args)
    if args.prompts or not isinstance(teacher, LocalTeacher):
        source = Path(str(args.prompts))
        kept, shown, step = asked_of_file(args, args.num_prompts, args.output)
    else:
        source = _prompts_beside(Path(args.output))
        with (
            processes.first_then_others()
        ):  # of several processes the first lets it write them, and the others read the file
            own, step = written_prompts(
                teacher, count_of(args.num_prompts, 100), source, near=args.near, seed=args.seed
            )
        kept, shown = [*own], shown_to_teacher(args, None)
    if isinstance(shown, list) and args.system is not None:
        shown = [None if one is None else behind_system(one, args.system) for one in shown]
    pairs = generate(
        teacher,
        with_system(kept, args.system),
        teacher_prompt=shown,
        samples=args.samples,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        seed=args.seed,
        batch_size=32 if args.batch_size is None else args.batch_size,
        output=args.output,
        allow_refusals=args.allow_refusals,
        share=several,
    )
    if processes.is_main():
        write_steps(args.output, [step], source=source)  # now: a file of another run was refused
    stopped = pairs["finish_reason"].count("stop")
    say(f"{len(pairs)} pairs in {args.output}; {stopped} ended by themselves, {len(pairs) - stopped} were cut.")


if __name__ == "__main__":
    main()
