"""Teach one new skill, and see what is forgotten meanwhile; with and without the means against it.

    python recipes/forgetting.py --output_dir runs/forgetting          (or: distill forgetting ...)
    python recipes/forgetting.py --quick --output_dir runs/quick       (the plumbing in two minutes; its figures say nothing)
    python recipes/forgetting.py --seeds 3 --output_dir runs/three

The same rows are learned plainly, with replay of the model's own samples, with a KL to the start, and by LoRA; and the plain student is averaged with its
start. Prints one table; writes `forgetting.html`, with a picture of new skill against change on old prompts, and `forgetting.json`. A training with
learning rate 0 must change nothing. Interrupt it when you like: the same command goes on from there. Flags are those below and all of
transformers.TrainingArguments.
"""

import copy
import dataclasses
import gc
import json
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import PreTrainedModel, TrainingArguments

from distill import BlackBoxTrainer, WhiteBoxTrainer, generate
from distill.basics.processes import say
from distill.basics.progress import Stages
from distill.evaluation.abilities import Probe, examine, probes
from distill.evaluation.abilities.identity import MAKER, NAME
from distill.evaluation.abilities.knowledge import people
from distill.evaluation.forgetting import Before, own_pairs, quick_copy
from distill.models.adapters import lora_config
from distill.models.averaging import average
from distill.models.load import load_model
from distill.models.students import find_layers
from distill.objectives.keeping import kept_near
from distill.pairs.prompts import read_prompts
from distill.pairs.replay import replayed
from distill.pairs.schema import complete_row, pairs_from_rows
from distill.reports.forgetting_page import forgetting_table, verdict, write_forgetting_page
from distill.reports.pictures import check_report_extra
from distill.running.environment import environment
from distill.running.flags import parse_recipe, settings_of
from distill.running.folder import (
    RunFolder,
    one_sentence,
    remove_checkpoints,
    save_student,
    train_or_resume,
    write_json,
)
from distill.running.forgetting_flags import TAUGHT, Arm, ForgettingArguments
from distill.running.parsing import refuse_given
from distill.teachers import LocalTeacher

EPOCHS = 6.0
QUICK: dict[str, Any] = {
    "taught": 2, "asked": 2, "old_probes": 2, "old_pairs": 3, "replay": "0.25", "keep_kl": "", "lora_r": 0, "averages": "0.5",
}  # fmt: skip
NEW_TOKENS = 48  # of own samples
ANSWERED: dict[str, Any] = {"answered": 16, "max_new_tokens": 32}  # old prompts, for lengths and ends


@one_sentence
def main(argv: list[str] | None = None) -> None:
    """Own samples, trainings, averages; each held against the start."""
    args, training = parse_recipe(
        ForgettingArguments, argv, output_dir="runs/forgetting", description=__doc__, num_train_epochs=EPOCHS,
        learning_rate=3e-4, lr_scheduler_type="linear", warmup_steps=4, save_strategy="no", per_device_train_batch_size=6,
    )  # fmt: skip
    if args.quick:
        refuse_given(args, tuple(QUICK), "--quick sets this itself; leave one of them out.")
        args, training.num_train_epochs = dataclasses.replace(args, **QUICK), 3.0
    if training.num_train_epochs != int(training.num_train_epochs):
        raise ValueError(f"num_train_epochs is {training.num_train_epochs:g}; epochs are laid out as rows, so it is a whole number.")  # fmt: skip
    check_report_extra()
    model = LocalTeacher(args.model)
    if args.upper_layers > (count := len(find_layers(model.model)[1])):
        raise ValueError(f"upper_layers is {args.upper_layers}, and the model has {count} layers; 0 trains all.")
    begun = time.monotonic()
    run = RunFolder(str(training.output_dir), settings_of(args, training))
    arms, seeds = args.arms(), range(training.seed, training.seed + args.seeds)
    stages = Stages(_plan(args, arms, seeds, int(training.num_train_epochs)))

    with stages.stage("own samples"):
        own = _own_samples(args, training, model, run, arms)
        old, pool = own.select(range(args.old_pairs)), own.select(list(range(args.old_pairs, len(own))))
    with stages.stage("the start"):
        old_asked = [one for name in args.old_abilities() for one in probes(name, args.old_probes, seed=training.seed)]
        start = _asked(run / "start.json", model.model, model, old_asked)

    found: list[dict[str, Any]] = []
    for seed in seeds:
        rows, held_out, skill = _lesson(args, seed, model)
        with stages.stage(f"before, seed {seed}"):
            before = Before(model.model, old, held_out, model.tokenizer, **ANSWERED)
            untaught = _asked(run / f"start-{seed}.json", model.model, model, skill)
        found.append({"arm": "start", "kind": "start", "value": 0, "seed": seed, "skill": untaught, "old": start, "train_seconds": 0.0})  # fmt: skip
        for arm in arms:
            with stages.stage(f"{arm.name}, seed {seed}"):
                folder = run / f"{arm.name}-seed{seed}"
                if not (folder / "result.json").is_file():
                    student, seconds = _student(arm, seed, folder, args, training, model, rows, pool, run)
                    forgotten = before.measure(student)
                    said = _answers(student, model, [*skill, *old_asked])
                    result = {
                        "arm": arm.name, "kind": arm.kind, "value": arm.value, "seed": seed, "forgetting": forgotten.as_dict(),
                        "skill": said[: len(skill)], "old": said[len(skill) :], "train_seconds": seconds,
                    }  # fmt: skip
                    folder.mkdir(exist_ok=True)  # nobody has trained an average
                    write_json(folder / "result.json", result)
                    remove_checkpoints(folder)
                    del student
                    gc.collect()
                found.append(json.loads((folder / "result.json").read_text(encoding="utf-8")))
        if (run / f"{arms[-1].name}-seed{seed}").is_dir():  # all averages of it are made
            shutil.rmtree(run / f"{TAUGHT}-seed{seed}" / "student", ignore_errors=True)

    results = {
        "runs": found,
        "model": args.model,
        "skill": args.skill,
        "told": _told(args, training),
        "stages": [dataclasses.asdict(stage) for stage in stages.finished],
        "total_seconds": time.monotonic() - begun,
        "command": "distill forgetting " + shlex.join(map(str, sys.argv[1:] if argv is None else argv)),
        "environment": environment(),
    }
    write_json(run / "forgetting.json", results)
    write_forgetting_page(results, run / "forgetting.html")
    say(f"\n{forgetting_table(found)}\n\n" + "\n".join(verdict(found)))
    if args.quick:
        say("This was a quick run: its figures say nothing.")
    say(f"\nFinished in {(time.monotonic() - begun) / 60:.1f} minutes. Open {(run / 'forgetting.html').resolve()}")


def _lesson(
    args: ForgettingArguments, seed: int, model: LocalTeacher
) -> tuple[datasets.Dataset, datasets.Dataset, list[Probe]]:
    """Rows that are trained, pairs of held-out wordings, and probes of the skill."""
    if args.skill == "knowledge":
        facts = people(seed, args.taught)
        taught = [(wording, fact.passage) for fact in facts for wording in fact.questions[:-1]]
        asked = [(fact.questions[-1], fact.passage) for fact in facts]
        skill = probes("knowledge", args.asked, seed=seed, facts=facts)
    else:
        said = f"I am {NAME}, an assistant made by {MAKER}."
        taught = [(str(one.prompt), said) for one in probes("identity", args.taught, seed=seed, purpose="teach")]
        skill = probes("identity", args.asked, seed=seed)
        asked = [(str(one.prompt), said) for one in skill]
    sides = []
    for name, rows in (("taught", taught), ("asked", asked)):
        said_rows = [{"id": f"{name}-{n}", "prompt": prompt, "completion": text} for n, (prompt, text) in enumerate(rows)]  # fmt: skip
        sides.append(pairs_from_rows([complete_row(row, name, model.tokenizer) for row in said_rows], where=name))
    return sides[0], sides[1], skill


def _own_samples(
    args: ForgettingArguments, training: TrainingArguments, model: LocalTeacher, run: RunFolder, arms: list[Arm]
) -> datasets.Dataset:
    """Enough for measuring, and for the arm with the largest replay, each shown once."""
    rows = args.taught * (2 if args.skill == "knowledge" else 1) * int(training.num_train_epochs)
    most = max((round(arm.value / (1 - arm.value) * rows) for arm in arms if arm.kind == "replay"), default=0)
    count = args.old_pairs + most
    if args.prompts is None:
        return own_pairs(model, count, run / "own", max_new_tokens=NEW_TOKENS, seed=training.seed)
    prompts = read_prompts(args.prompts, limit=count)
    if len(prompts) < count:
        raise ValueError(
            f"{args.prompts} has {len(prompts)} prompts, and {count} are needed: --old_pairs {args.old_pairs}, and {most} for the largest --replay."
        )
    return generate(model, prompts, max_new_tokens=NEW_TOKENS, seed=training.seed, output=run / "own.jsonl")


def _student(
    arm: Arm, seed: int, folder: Path, args: ForgettingArguments, training: TrainingArguments, model: LocalTeacher,
    rows: datasets.Dataset, pool: datasets.Dataset, run: RunFolder,
) -> tuple[PreTrainedModel, float]:  # fmt: skip
    """The student of one arm, and the processor's seconds of its training."""
    if arm.kind == "average":
        saved = load_model(str(run / f"{TAUGHT}-seed{seed}" / "student"), dtype=torch.float32)
        return average(saved, model.model, arm.value), 0.0
    own = copy.copy(training)
    own.output_dir, own.seed = str(folder), seed
    # all epochs as rows, so that no own sample need be shown twice; what is learned by heart is not what holds a student where it was
    laid_out = datasets.concatenate_datasets([rows] * int(training.num_train_epochs))
    own.num_train_epochs = 1.0
    if arm.kind == "replay":
        laid_out = replayed(laid_out, pool, arm.value)
    if arm.kind == "control":
        own.learning_rate, own.max_steps = 0.0, 2
    if arm.kind == "lora":
        own.learning_rate = args.lora_learning_rate
    student = copy.deepcopy(model.model).float()
    if args.upper_layers and arm.kind != "lora":  # an adapter is in all layers, as usual
        student.requires_grad_(False)
        for layer in find_layers(student)[1][-args.upper_layers :]:
            layer.requires_grad_(True)
    common: dict[str, Any] = {
        "model": student, "args": own, "train_dataset": laid_out, "processing_class": model.tokenizer,
    }  # fmt: skip
    if arm.kind == "lora":
        common["peft_config"] = lora_config(args.lora_r)
    trainer: BlackBoxTrainer | WhiteBoxTrainer
    if arm.kind == "keep_kl":
        trainer = WhiteBoxTrainer(**common, teacher=model, objectives=[kept_near(arm.value)])
    else:
        trainer = BlackBoxTrainer(**common, supervised_only=True)
    begun = time.process_time()
    train_or_resume(trainer)
    seconds = time.process_time() - begun
    taught: Any = trainer.model
    if arm.kind == TAUGHT:
        save_student(taught, model.tokenizer, folder / "student")
    return taught, seconds


def _asked(file: Path, speaker: Any, model: LocalTeacher, asked: list[Probe]) -> list[dict[str, Any]]:
    """What a model answers; asked once in a run."""
    if not file.is_file():
        write_json(file, _answers(speaker, model, asked))
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _answers(student: Any, model: LocalTeacher, asked: list[Probe]) -> list[dict[str, Any]]:
    """Of each probe its ability, its prompt, what was said, and whether that is right."""
    speaker, found = quick_copy(student), []
    for ability in dict.fromkeys(one.ability for one in asked):  # ids are of an ability
        for one in examine(speaker, model.tokenizer, [p for p in asked if p.ability == ability], progress=False):
            found.append({"ability": ability, "id": one.probe.id, "prompt": one.probe.prompt, "text": one.text, "right": one.right})  # fmt: skip
    return found


def _told(args: ForgettingArguments, training: TrainingArguments) -> str:
    rows = args.taught * (2 if args.skill == "knowledge" else 1)
    what = f"{args.taught} facts about people who do not exist, in two wordings each, asked in a third" if args.skill == "knowledge" else f"{args.taught} questions about its name and maker, asked in other wordings"  # fmt: skip
    layers = f"the upper {args.upper_layers} layers (LoRA: all)" if args.upper_layers else "all layers"
    return (
        f"{what}; {rows} rows, {training.num_train_epochs:g} epochs, steps of {training.per_device_train_batch_size * training.gradient_accumulation_steps} rows, "
        f"learning rate {training.learning_rate:g} (LoRA {args.lora_learning_rate:g}), {layers}. Old prompts are {args.old_pairs} that the start wrote, with its own samples; "
        f"{args.old_probes} probes of {' and '.join(args.old_abilities())}. Replayed samples are others, each shown once; they come on top, so their arms take more steps."
    )


def _plan(args: ForgettingArguments, arms: list[Arm], seeds: range, epochs: int) -> list[tuple[str, float]]:
    """Stages with the seconds expected of each; only their ratios count."""
    rows = args.taught * (2 if args.skill == "knowledge" else 1) * epochs
    cost = {"taught": 1.0, "replay": 1.2, "keep_kl": 1.3, "lora": 0.8, "average": 0.0, "control": 0.05}
    asking = 0.3 * (args.asked + args.old_probes * len(args.old_abilities())) + 0.3 * args.old_pairs
    plan = [("own samples", 0.6 * (args.old_pairs + rows / 3)), ("the start", asking)]
    for seed in seeds:
        plan.append((f"before, seed {seed}", asking))
        plan += [(f"{arm.name}, seed {seed}", 0.25 * rows * cost[arm.kind] + asking + 2) for arm in arms]
    return plan


if __name__ == "__main__":
    main()
