"""How much memory a training will need and what a step will cost, before anything is loaded: from configs alone.

    distill plan --teacher smollm2-135m --layers 12 --batch 8 --length 120
    distill plan --teacher Qwen/Qwen2.5-7B-Instruct --student Qwen/Qwen2.5-0.5B --batch 64 --length 2048 --processes 8 --memory 80

Give folders with a config.json, Hub ids (only the config is fetched) or the embedded model. --batch counts the rows of all
processes together. Give --accumulation 2 or more where a step has several micro-batches; --batch is then that of one.
"""

import sys
from dataclasses import dataclass, field

import torch

from distill.basics.processes import say
from distill.models.load import fast_dtype
from distill.planning import (
    OPTIMISERS,
    SHARDINGS,
    Plan,
    Setting,
    Shape,
    advice,
    cost_table,
    cut,
    gib,
    matrix_rate,
    memory_table,
    plan,
    shape_of,
)
from distill.running.flags import build_objectives, parse
from distill.running.folder import one_sentence
from distill.running.parsing import refuse_given

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class PlanArguments:
    """What is planned."""

    teacher: str = field(default="smollm2-135m", metadata={"help": "Embedded name, folder, or Hub id."})
    student: str | None = field(default=None, metadata={"help": "Likewise; by default one cut from the teacher."})
    layers: int = field(default=12, metadata={"help": "Teacher layers a cut student keeps."})
    batch: int = field(default=8, metadata={"help": "Rows at once, of all processes together."})
    length: int = field(default=512, metadata={"help": "Tokens of the longest row."})
    supervised: float = field(default=0.5, metadata={"help": "Share of the tokens that carries loss."})
    processes: int = field(default=1, metadata={"help": "GPUs, or processes on CPUs."})
    way: str = field(default="both", metadata={"help": "black_box, white_box or both."})
    objectives: str = field(default="logits", metadata={"help": "White box: of logits, hidden, attention, by comma."})
    student_dtype: str = field(default="float32", metadata={"help": f"Of its weights: {', '.join(DTYPES)}."})
    teacher_dtype: str = field(default="bfloat16", metadata={"help": "Of its weights."})
    teacher_bits: int | None = field(default=None, metadata={"help": "4 or 8: the teacher is quantised."})
    bf16: bool = field(default=True, metadata={"help": "Products in bfloat16, whatever the weights are (autocast)."})
    optimiser: str = field(default="adamw", metadata={"help": f"One of {', '.join(OPTIMISERS)}."})
    checkpointing: bool = field(
        default=False, metadata={"help": "Activations are computed again in the backward pass."}
    )
    accumulation: int = field(default=1, metadata={"help": "Micro-batches a step."})
    lora_r: int | None = field(default=None, metadata={"help": "Rank of an adapter on a frozen student."})
    sharding: str = field(default="none", metadata={"help": f"Of weights over processes: {', '.join(SHARDINGS)}."})
    memory: float | None = field(default=None, metadata={"help": "GiB that each process has; says what would fit."})
    device: str = field(
        default="cuda" if torch.cuda.is_available() else "cpu",
        metadata={"help": "cpu or cuda: the size of map chunks."},
    )
    rate: float | None = field(
        default=None, metadata={"help": "TFLOP a second in matrix products; by default measured here, in a second."}
    )


@one_sentence
def main(argv: list[str] | None = None) -> None:
    """Read configs, count, print."""
    argv = list(sys.argv[1:] if argv is None else argv)
    (args,) = parse((PlanArguments,), argv, defaults={}, description=__doc__)
    _check(args)
    teacher = shape_of(args.teacher, DTYPES[args.teacher_dtype])
    dtype = DTYPES[args.student_dtype]
    student = shape_of(args.student, dtype) if args.student else cut(teacher, args.layers, dtype)
    plans = _plans(args, teacher, student)
    _say_what(args, teacher, student)
    shown = {way: plans[way] for way in plans if args.way == "both" or way.startswith(args.way.replace("_", " "))}
    say(memory_table(shown) + "\n")
    rate, what = (args.rate * 1e12, "at the rate given") if args.rate else _rate(args)
    say(cost_table({"black box": plans["black box"], **shown}, rate, what) + "\n")
    say(
        f"Where the teacher that wrote the pairs stays loaded beside a black box, add its {gib(teacher.weight_bytes())}. "
        "A CPU's allocator and a GPU's keep a few percent more than is in use."
    )
    if args.memory is not None:
        for planned in shown.values():
            say("\n" + "\n".join(advice(planned, plans["black box"], round(args.memory * 2**30))))


def _check(args: PlanArguments) -> None:
    ways = ("black_box", "white_box", "both")
    if args.way not in ways:
        raise ValueError(f"way is {args.way!r}; it must be one of {', '.join(ways)}.")
    if args.student:
        refuse_given(
            args, ("layers",), "this says how a student is cut, and --student names one; leave one of them out."
        )
    if args.way == "black_box":
        refuse_given(args, ("objectives",), "a black box has none; leave it out, or plan --way white_box.")
    for name in ("student_dtype", "teacher_dtype"):
        if getattr(args, name) not in DTYPES:
            raise ValueError(f"{name} is {getattr(args, name)!r}; it must be one of {', '.join(DTYPES)}.")
    for name in ("memory", "rate"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name} is {value}; it must be above 0.")


def _plans(args: PlanArguments, teacher: Shape, student: Shape) -> dict[str, Plan]:
    def setting(objectives: str) -> Setting:
        return Setting(
            batch=args.batch,
            length=args.length,
            share=args.supervised,
            processes=args.processes,
            objectives=build_objectives(objectives) if objectives else (),
            bf16=args.bf16,
            optimiser=args.optimiser,
            checkpointing=args.checkpointing,
            lora_r=args.lora_r,
            sharding=args.sharding,
            teacher_bits=args.teacher_bits,
            accumulation=args.accumulation,
            device=args.device,
        )

    white = None if args.way == "black_box" else setting(args.objectives)  # refuses before anything is counted
    plans = {"black box": plan(setting(""), student)}  # its step is the floor's SFT step
    if white is not None:
        plans[f"white box ({args.objectives})"] = plan(white, student, teacher)
    return plans


def _say_what(args: PlanArguments, teacher: Shape, student: Shape) -> None:
    rows = -(-args.batch // args.processes)
    say(
        f"teacher  {teacher.name}: {teacher.parameters:,} parameters, {gib(teacher.weight_bytes(args.teacher_bits))}\n"
        f"student  {student.name}: {student.parameters:,} parameters, {gib(student.weight_bytes())} in {args.student_dtype}\n"
        f"a step   {rows} x {args.length} tokens in each of {args.processes} process{'es' * (args.processes > 1)}, "
        f"{args.supervised:.0%} supervised\n"
    )
    ours, theirs = student.config.vocab_size, teacher.config.vocab_size
    if ours != theirs:
        say(
            f"vocabularies differ: {ours:,} and {theirs:,} tokens. The white box needs tokens that mean the same on both sides, which "
            "a config does not tell; the trainer asks the tokenizers.\n"
        )


def _rate(args: PlanArguments) -> tuple[float, str]:
    dtype = fast_dtype() if args.bf16 else torch.float32
    device = "cuda" if args.device == "cuda" and torch.cuda.is_available() else "cpu"
    rate = matrix_rate(dtype, device)
    return rate, f"at {rate / 1e12:.3f} TFLOP/s, measured on this machine's {device}"


if __name__ == "__main__":
    main()
