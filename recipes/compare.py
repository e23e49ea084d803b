"""The main job: one teacher, one student, both ways to learn, side by side, and a report.

    python recipes/compare.py --output_dir runs/demo          (or: distill compare ...)

With no other flag it distils the embedded 135M teacher into a student of 12 of its 30 layers on a CPU. Interrupt it when you
like: the same command goes on from there. Flags are those below and all of transformers.TrainingArguments.
"""

import copy
import dataclasses
import json
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import PreTrainedModel, TrainingArguments

from distill import BlackBoxTrainer, WhiteBoxTrainer, generate, make_student
from distill.basics.processes import say
from distill.basics.progress import Stages
from distill.evaluation import Agreement, AgreementCurve, HeldOut
from distill.models.students import STRATEGIES
from distill.reports.card import write_card
from distill.reports.pictures import check_report_extra
from distill.reports.provenance import drawn_as
from distill.reports.report import ABLATION, WAYS, ablation_table, write_report
from distill.running.environment import environment
from distill.running.flags import build_objectives, parse_recipe, settings_of
from distill.running.folder import (
    RunFolder,
    one_sentence,
    remove_checkpoints,
    save_student,
    train_or_resume,
    write_json,
)
from distill.running.reading_flags import WRITTEN, PromptArguments, count_of
from distill.running.stages import block_sample, prepare_prompts, split_pairs
from distill.running.unread import refuse_unread_files
from distill.teachers import LocalTeacher, Sampling


@dataclass
class CompareArguments(PromptArguments):
    """What is compared."""

    teacher: str = field(default="smollm2-135m", metadata={"help": "Embedded name, local folder, or Hub id."})
    held_out: int = field(default=24, metadata={"help": "Further prompts kept aside for measuring."})
    samples: int = field(default=1, metadata={"help": "Completions a prompt."})
    max_new_tokens: int = field(default=64, metadata={"help": "Longest completion, in tokens."})
    temperature: float = field(default=1.0, metadata={"help": "Of the teacher's completions; 1 is the teacher itself."})
    generation_batch_size: int = field(default=64, metadata={"help": "Completions drawn at once."})
    generation_seed: int = field(default=0, metadata={"help": "Of prompts and completions."})
    layers: int = field(default=12, metadata={"help": "Teacher layers the student keeps."})
    strategy: str = field(default="block_influence", metadata={"help": f"Which layers: {', '.join(STRATEGIES)}."})
    objectives: str = field(default="logits", metadata={"help": "White box: of logits, hidden, attention, by comma."})
    ablation: bool = field(
        default=False, metadata={"help": "Train two more white boxes: + hidden states, + hidden states and attention."}
    )
    max_length: int = field(default=512, metadata={"help": "Longest training row, in tokens."})
    seeds: int = field(default=2, metadata={"help": "Trainings of each way, with different orders of the pairs."})
    points: int = field(default=4, metadata={"help": "Held-out measurements during each training."})
    answers: int = field(default=4, metadata={"help": "Held-out prompts whose answers are shown in the report."})


@one_sentence
def main(argv: list[str] | None = None) -> None:
    """Generate, train both ways from one start, evaluate, report."""
    args, training = parse_recipe(CompareArguments, argv, output_dir="runs/demo", description=__doc__)
    _check(args, training)
    run = RunFolder(str(training.output_dir), settings_of(args, training))
    begun = time.monotonic()
    teacher = LocalTeacher(args.teacher)
    prompts = prepare_prompts(teacher, args, run)[0] if args.prompts else []
    count = len(prompts) or count_of(args.num_prompts, WRITTEN) + args.held_out
    stages = Stages(_plan(args, training, teacher, count))

    with stages.stage("prompts"):
        prompts = prompts or prepare_prompts(teacher, args, run)[0]

    with stages.stage("pairs"):
        pairs = generate(
            teacher,
            prompts,
            samples=args.samples,
            max_new_tokens=args.max_new_tokens,
            temperature=args.temperature,
            seed=args.generation_seed,
            batch_size=args.generation_batch_size,
            output=run / "pairs.jsonl",
            allow_refusals=args.allow_refusals,
        )
        train_pairs, held_out_pairs = split_pairs(pairs, args.held_out)

    with stages.stage("student"):
        held_out = HeldOut(teacher.model, held_out_pairs, teacher.tokenizer, max_length=args.max_length)
        untouched = make_student(
            teacher.model, args.layers, strategy=args.strategy, sample=block_sample(train_pairs, args.strategy)
        )
        start = held_out.measure(untouched)
        say(f"Before training: KL {start.kl:.3f}, same top token {start.top1:.1%}, {held_out.tokens} held-out tokens.")

    runs: list[dict[str, Any]] = []
    titles = WAYS | ABLATION
    for seed in _seeds(args, training):
        for way in _ways(args):
            with stages.stage(f"{way} seed {seed}"):
                folder = run / f"{way}-seed{seed}"
                if not (folder / "result.json").is_file():
                    student = copy.deepcopy(untouched)
                    _train(way, seed, folder, args, training, student, teacher, train_pairs, held_out, start)
                result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
                say(f"{titles[way]}, seed {seed}: KL {start.kl:.3f} -> {result['final']['kl']:.3f}.")
            if "peak_memory_gib" not in result:
                result["peak_memory_gib"] = stages.finished[-1].peak_memory_gib
                write_json(folder / "result.json", result)
            runs.append(result)

    with stages.stage("answers"):
        shown = held_out_pairs.select(range(min(args.answers, len(held_out_pairs))))
        answers = _answers(teacher, untouched, run.path, training.seed, shown)

    results = {
        "teacher": {
            "name": args.teacher,
            "layers": teacher.model.config.get_text_config(decoder=True).num_hidden_layers,
            "parameters": teacher.model.num_parameters(),
        },
        "student": {"layers": untouched.config.distill_kept_layers, "parameters": untouched.num_parameters()},
        "pairs": {
            "train": len(train_pairs),
            "held_out": len(held_out_pairs),
            "written_by_teacher": args.prompts is None,
            "temperature": args.temperature,
            "max_new_tokens": args.max_new_tokens,
            "stopped": pairs["finish_reason"].count("stop") / len(pairs),
        },
        "objectives": args.objectives,
        "start": start.as_dict(),
        "runs": runs,
        "answers": answers,
        "answers_seed": training.seed,
        "stages": [dataclasses.asdict(stage) for stage in stages.finished],
        "total_seconds": time.monotonic() - begun,
        "command": "python recipes/compare.py " + " ".join(sys.argv[1:] if argv is None else argv),
        "environment": environment(),
    }
    write_json(run / "results.json", results)
    write_report(results, run / "report.html")
    if args.ablation:
        say("\n" + ablation_table(runs))
    say(
        f"\nFinished in {(time.monotonic() - begun) / 60:.1f} minutes. Open {(run / 'report.html').resolve()}",
    )


def _train(
    way: str,
    seed: int,
    folder: Path,
    args: CompareArguments,
    training: TrainingArguments,
    student: PreTrainedModel,
    teacher: LocalTeacher,
    pairs: datasets.Dataset,
    held_out: HeldOut,
    start: Agreement,
) -> None:
    """Train one student one way, and write its weights and `result.json`."""
    run_arguments = copy.copy(training)
    run_arguments.output_dir, run_arguments.seed = str(folder), seed
    common: dict[str, Any] = {
        "model": student,
        "args": run_arguments,
        "train_dataset": pairs,
        "processing_class": teacher.tokenizer,
        "max_length": args.max_length,
        "callbacks": [AgreementCurve(held_out, args.points, start)],
    }
    trainer: BlackBoxTrainer | WhiteBoxTrainer
    if way == "black_box":
        trainer = BlackBoxTrainer(**common)
    else:
        trainer = WhiteBoxTrainer(**common, teacher=teacher, objectives=build_objectives(_ways(args)[way]))
    train_or_resume(trainer)
    history: Any = trainer.state.log_history
    curve = [entry for entry in history if "held_out" in entry]
    card = partial(
        write_card,
        student=student,
        pairs=pairs,
        how="black box" if way == "black_box" else "white box",
        teacher=teacher,
        sampling=Sampling(args.max_new_tokens, args.temperature, seed=args.generation_seed),
        objectives=[part for part in _ways(args)[way].split(",") if part],
        steps=drawn_as(folder.parent / "pairs.jsonl").steps,
        training=run_arguments,
        max_length=args.max_length,
        metrics=curve[-1]["held_out"],
    )
    save_student(student, teacher.tokenizer, folder / "student", card)
    result = {
        "way": way,
        "seed": seed,
        "curve": curve,
        "final": curve[-1]["held_out"],
        "log": [entry for entry in history if "loss" in entry],
        "seconds": curve[-1]["seconds"],
        "tokens": trainer.state.num_input_tokens_seen,
    }
    write_json(folder / "result.json", result)
    remove_checkpoints(folder)


def _answers(
    teacher: LocalTeacher, start: PreTrainedModel, run: Path, seed: int, pairs: datasets.Dataset
) -> list[dict[str, Any]]:
    """What teacher, untouched student and both students say to some held-out prompts, most likely token by token."""
    speakers: dict[str, LocalTeacher] = {
        "Teacher": teacher,
        "Student before training": LocalTeacher(start, teacher.tokenizer),
        **{title: LocalTeacher(str(run / f"{way}-seed{seed}" / "student")) for way, title in WAYS.items()},
    }
    greedy = Sampling(max_new_tokens=64, temperature=0)
    said = {title: s.complete(pairs["prompt_ids"], greedy, seed=0) for title, s in speakers.items()}
    return [
        {"prompt": _as_text(prompt), "texts": {title: said[title][i].text for title in speakers}}
        for i, prompt in enumerate(pairs["prompt"])
    ]


def _check(args: CompareArguments, training: TrainingArguments) -> None:
    """Refuse at once what would fail at the very end."""
    for name in ("seeds", "points", "answers", "held_out", "samples"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name} is {getattr(args, name)}; it must be at least 1.")
    refuse_unread_files(args)
    if args.seeds > 1 and training.data_seed is not None:
        raise ValueError("data_seed gives every seed the same order of pairs; use --seed, or --seeds 1.")
    if args.ablation and args.objectives != "logits":
        raise ValueError(
            f"ablation adds objectives to logits alone, but objectives is {args.objectives!r}; leave it out."
        )
    check_report_extra()


def _ways(args: CompareArguments) -> dict[str, str]:
    """Every way to train, and the objectives of the white ones."""
    ways = {"black_box": "", "white_box": args.objectives}
    if args.ablation:
        ways["white_box_hidden"] = f"{args.objectives},hidden=0.1"
        ways["white_box_attention"] = f"{args.objectives},hidden=0.1,attention=0.1"
    return ways


def _seeds(args: CompareArguments, training: TrainingArguments) -> range:
    return range(training.seed, training.seed + args.seeds)


def _as_text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def _plan(
    args: CompareArguments, training: TrainingArguments, teacher: LocalTeacher, prompts: int
) -> list[tuple[str, float]]:
    """Stages with the seconds expected of each, from the speed of one forward pass of the teacher.

    A generated token costs about 4 tokens of a forward pass, a trained one 3 of the student's plus, for the white box, one
    of the teacher's. Only for the time shown as left; it is corrected as stages finish.
    """
    probe = torch.zeros((8, 128), dtype=torch.long, device=teacher.model.device)
    times = []
    for _ in range(2):  # the first pass also warms up
        begun = time.monotonic()
        with torch.inference_mode():
            teacher.model(input_ids=probe, logits_to_keep=1)
        times.append(time.monotonic() - begun)
    token = min(times) / probe.numel()
    row = 60 + args.max_new_tokens * 0.9
    ratio = 0.25 + 0.75 * args.layers / teacher.model.config.get_text_config(decoder=True).num_hidden_layers
    rows = training.per_device_train_batch_size * training.gradient_accumulation_steps
    steps = training.max_steps if training.max_steps > 0 else training.num_train_epochs * prompts * args.samples / rows
    measuring = args.points * args.held_out * row * ratio * 1.5 * token
    black = steps * rows * row * 4 * ratio * token + measuring
    white = black + steps * rows * row * 1.3 * token
    trainings = [
        (f"{way} seed {seed}", black if way == "black_box" else white)
        for seed in _seeds(args, training)
        for way in _ways(args)
    ]
    return [
        ("prompts", 0.1 if args.prompts else 1.4 * prompts * 48 * 5 * token),
        ("pairs", prompts * args.samples * args.max_new_tokens * 5 * token),
        ("student", 3 * args.held_out * row * token + 3),
        *trainings,
        ("answers", 60 * token * args.answers * 20 + 5),
    ]


if __name__ == "__main__":
    main()
