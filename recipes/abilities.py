"""Five abilities, each taught by distillation, black box and white box, and what each training did to all the others.

    python recipes/abilities.py --output_dir runs/abilities          (or: distill abilities ...)
    python recipes/abilities.py --quick --output_dir runs/quick      (the plumbing in two minutes; its figures say nothing)
    python recipes/abilities.py --name Nemo --maker "Verne & Sons" --style formal --output_dir runs/nemo

Following instructions, calling tools, tone, identity, knowledge: the teacher (the same model, unless --teacher names another) is shown examples, a
system text or a passage that the student is not shown. Its answers are kept if a program finds them right. Prints one table; writes `abilities.html` and
`abilities.json`. Interrupt it when you like: the same command goes on from there. Flags are those below and all of transformers.TrainingArguments.
"""

import copy
import dataclasses
import json
import random
import shlex
import sys
import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedModel, TrainingArguments

from distill import BlackBoxTrainer, Logits, WhiteBoxTrainer, generate
from distill.basics.fingerprint import fingerprint
from distill.basics.processes import say
from distill.basics.progress import Stages
from distill.evaluation import HeldOut
from distill.evaluation.abilities import ABILITIES, Fact, Probe, examine, probes, shares
from distill.evaluation.abilities.lessons import TAUGHT, student_prompt, teacher_prompt
from distill.evaluation.benchmarks import benchmark
from distill.generation.prompts import write_prompts
from distill.models.precision import weights_in
from distill.models.students import find_layers
from distill.pairs.prompts import read_prompts
from distill.reports.abilities_page import abilities_table, write_abilities_page
from distill.reports.abilities_words import verdict
from distill.reports.pictures import check_report_extra
from distill.running.abilities_flags import AbilitiesArguments, read_facts, task_files, task_names
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
from distill.running.parsing import refuse_given
from distill.running.stages import in_tokens_of
from distill.signals import capture
from distill.teachers import LocalTeacher

EPOCHS = 4.0
QUICK: dict[str, Any] = {"abilities": "tone,identity", "probes": 4, "lessons": 8, "rows": 6, "kept_prompts": 2}


@one_sentence
def main(argv: list[str] | None = None) -> None:
    """For each seed: lessons, a training of each ability each way, all models examined."""
    args, training = parse_recipe(
        AbilitiesArguments, argv, output_dir="runs/abilities", description=__doc__,
        num_train_epochs=EPOCHS, learning_rate=3e-4, warmup_steps=4, per_device_train_batch_size=4, save_strategy="no",
    )  # fmt: skip
    if args.quick:
        refuse_given(args, tuple(QUICK), "--quick sets this itself; leave one of them out.")
        if training.num_train_epochs != EPOCHS:
            raise ValueError("--num_train_epochs: --quick sets this itself; leave one of them out.")
        args, training.num_train_epochs = dataclasses.replace(args, **QUICK), 1.0
    check_report_extra()
    facts = None if args.facts is None else read_facts(args.facts)
    model = LocalTeacher(args.model)
    teacher = model if args.teacher is None else LocalTeacher(args.teacher)
    if args.upper_layers > (count := len(find_layers(model.model)[1])):
        raise ValueError(f"upper_layers is {args.upper_layers}, and the model has {count} layers.")
    begun = time.monotonic()
    may_change = ("abilities", "keep_students", "facts", "task_folder")  # files are told by what they say
    settings = {name: value for name, value in settings_of(args, training).items() if name not in may_change}
    settings["task_files"] = task_files(args)
    settings["facts_are"] = None if facts is None else fingerprint(list(map(repr, facts)))
    own: dict[str, dict[str, Any]] = {
        "tone": {"style": args.style},
        "identity": {"name": args.name, "maker": args.maker},
        "knowledge": {"facts": facts},
    }
    seeds = range(training.seed, training.seed + args.seeds)
    asked = {
        seed: [p for a in ABILITIES for p in probes(a, _most(a, args.probes, facts), seed, **own.get(a, {}))]
        for seed in seeds
    }
    lessons = {
        (a, seed): probes(a, _most(a, args.lessons, facts, "teach"), seed, purpose="teach", **own.get(a, {}))
        for a in TAUGHT
        for seed in seeds
    }
    run = RunFolder(str(training.output_dir), settings)
    same = teacher.tokenizer.get_vocab() == model.tokenizer.get_vocab()
    if not same:
        say("The teacher has another tokenizer: its answers are tokenised anew, and there is no white box.")
    ways = ("black", "white") if same else ("black",)
    arms = [("untouched", ""), *((a, way) for a in args.chosen() for way in ways), ("own", "control")]
    if "knowledge" in args.chosen():
        arms.append(("shuffled", "control"))
    stages = Stages(_plan(args, arms, seeds))

    with stages.stage("other prompts"):
        # the same for all seeds, so that their figures are of one thing
        drawn: dict[str, Any] = {"seed": 0, "batch_size": args.kept_prompts + args.kept_prompts // 4 + 1}
        prompts: Any = (
            read_prompts(args.prompts, limit=args.kept_prompts)
            if args.prompts
            else write_prompts(model, args.kept_prompts, max_new_tokens=48, output=run / "kept.prompts.jsonl", **drawn)
        )
        others = generate(model, prompts, max_new_tokens=48, output=run / "kept.jsonl", **drawn)
        kept = HeldOut(model.model, others, model.tokenizer)
    runs: list[dict[str, Any]] = []
    taught: list[dict[str, Any]] = []
    for seed in seeds:
        pairs: dict[str, datasets.Dataset] = {}
        with stages.stage(f"lessons of seed {seed}"):
            for ability in args.chosen():
                told = {"name": args.name, "maker": args.maker, "facts": facts}
                pairs[ability], counts = _answered(
                    teacher,
                    model.tokenizer,
                    lessons[ability, seed],
                    told,
                    args,
                    run / f"lessons-{ability}-{seed}.jsonl",
                )
                taught.append({"ability": ability, "seed": seed, **counts})
            pairs["own"] = _own(model, [lessons[a, seed] for a in TAUGHT], args, run / f"own-{seed}.jsonl")
            if "knowledge" in pairs:
                pairs["shuffled"] = _shuffled(pairs["knowledge"], seed)
        for arm, way in arms:
            with stages.stage(_title(arm, way, seed)):
                file = run / f"{_title(arm, way, seed)}.json".replace(" ", "-")
                if not file.is_file():
                    found = _arm(arm, way, seed, args, training, model, teacher, pairs.get(arm), run, kept, asked[seed])
                    write_json(file, {"arm": arm, "way": way, "seed": seed, **found})
                runs.append(json.loads(file.read_text(encoding="utf-8")))

    results = {
        "runs": runs,
        "taught": taught,
        "probes": {seed: {p.id: {"prompt": p.prompt, "kind": p.kind} for p in asked[seed]} for seed in seeds},
        "model": f"{args.model}, its upper {args.upper_layers} layers trained",
        "teacher": args.teacher or "the model itself, shown more",
        "told": (
            f"{training.num_train_epochs:g} epochs over at most {args.rows} pairs an ability, steps of "
            f"{training.per_device_train_batch_size * training.gradient_accumulation_steps} rows, learning rate {training.learning_rate:g}."
            + (" This was a quick run, to see that everything works: its figures say nothing." if args.quick else "")
        ),
        "stages": [dataclasses.asdict(stage) for stage in stages.finished],
        "total_seconds": time.monotonic() - begun,
        "command": "distill abilities " + shlex.join(map(str, sys.argv[1:] if argv is None else argv)),
        "environment": environment(),
    }  # fmt: skip
    write_json(run / "abilities.json", results)
    write_abilities_page(results, run / "abilities.html")
    say(f"\n{abilities_table(results)}\n\n" + "\n".join(verdict(results)))
    if args.quick:
        say("This was a quick run: its figures say nothing.")
    say(f"\nFinished in {(time.monotonic() - begun) / 60:.1f} minutes. Open {(run / 'abilities.html').resolve()}")


def _answered(
    teacher: LocalTeacher,
    student: Any,
    lessons: Sequence[Probe],
    told: dict[str, Any],
    args: AbilitiesArguments,
    output: Path,
) -> tuple[datasets.Dataset, dict[str, int]]:
    """The teacher's answers that are right, in the student's tokens, and how many were; both trainings read these very pairs."""
    answers = generate(
        teacher,
        [{"prompt": student_prompt(lesson), "probe": lesson.id} for lesson in lessons],
        teacher_prompt=[teacher_prompt(lesson, **told) for lesson in lessons],
        max_new_tokens=lessons[0].max_new_tokens,
        temperature=0.0,
        batch_size=64,
        output=output,
    )
    checks = {lesson.id: lesson.check for lesson in lessons}
    right = [i for i, pair in enumerate(answers) if not checks[pair["probe"]].wrong(pair["completion"])]
    ability = lessons[0].ability
    say(
        f"{ability}: {len(right)} of {len(answers)} answers of the teacher are right ({len(right) / len(answers):.0%})."
    )
    if not right:
        raise ValueError(
            f"None of the teacher's {len(answers)} answers about {ability} is right, so nothing can be taught. Give a larger --teacher, or leave it out of "
            "--abilities."
        )
    return in_tokens_of(answers.select(right[: args.rows]), student), {"asked": len(answers), "right": len(right), "used": min(len(right), args.rows)}  # fmt: skip


def _most(ability: str, n: int, facts: Sequence[Fact] | None, purpose: str = "examine") -> int:
    """As many probes as are wanted, and of given facts no more than they have wordings."""
    if ability != "knowledge" or facts is None:
        return n
    most = len(facts) * (1 if purpose == "examine" else min(len(fact.questions) - 1 for fact in facts))
    if most < n:
        say(f"The {len(facts)} facts have {most} wordings to {purpose}, so there are as many prompts in place of {n}.")
    return min(n, most)


def _own(model: LocalTeacher, lessons: list[list[Probe]], args: AbilitiesArguments, output: Path) -> datasets.Dataset:
    """The control: as many answers of the model to the same prompts, of all abilities in turn; shown nothing, and not looked at."""
    turns = [lesson for some in zip_longest(*lessons) for lesson in some if lesson is not None][: args.rows]
    return generate(model, list(map(student_prompt, turns)), max_new_tokens=32, temperature=0.0, output=output)


def _shuffled(pairs: datasets.Dataset, seed: int) -> datasets.Dataset:
    """The control: each question with the answer to another one."""
    order = list(range(len(pairs)))
    random.Random(seed).shuffle(order)
    rows = [dict(pair) for pair in pairs]
    follows = dict(zip(order, [*order[1:], *order[:1]], strict=True))
    columns = ("completion", "completion_ids", "finish_reason")
    changed = [{**row, **{name: rows[follows[i]][name] for name in columns}} for i, row in enumerate(rows)]
    return datasets.Dataset.from_list(changed, features=pairs.features)


def _arm(
    arm: str, way: str, seed: int, args: AbilitiesArguments, training: TrainingArguments, model: LocalTeacher, teacher: LocalTeacher,
    pairs: datasets.Dataset | None, run: RunFolder, kept: HeldOut, asked: Sequence[Probe],
) -> dict[str, Any]:  # fmt: skip
    """Train a student (none: the model as it is), examine it, and measure how far it went."""
    if pairs is None:
        return {"kl": 0.0, "train_seconds": 0.0, "rows": 0, **_examined(model.model, model, asked, args)}
    student = _student(model, args.upper_layers)
    own = copy.copy(training)
    own.output_dir, own.seed = str(run / f"training-{arm}-{way}-{seed}"), seed
    common: dict[str, Any] = {
        "model": student, "args": own, "train_dataset": pairs, "processing_class": model.tokenizer, "max_length": 1024,
    }  # fmt: skip
    begun = time.process_time()
    trainer: BlackBoxTrainer | WhiteBoxTrainer
    if way == "white":
        # what the teacher says of each token behind its own prompt, computed once
        signals = capture(teacher, pairs, output=run / f"signals-{arm}-{seed}", encoding="hidden", progress=False)
        trainer = WhiteBoxTrainer(**common, teacher=signals, objectives=[Logits()])
    else:
        trainer = BlackBoxTrainer(**common, supervised_only=True)
    train_or_resume(trainer)
    seconds = time.process_time() - begun
    student = weights_in(
        student, model.model.dtype
    )  # as the untouched one is, so that training alone makes a difference
    found = {
        "kl": kept.measure(student).kl,
        "train_seconds": seconds,
        "rows": len(pairs),
        **_examined(student, model, asked, args),
    }
    if args.keep_students:
        save_student(student, model.tokenizer, run / f"student-{arm}-{way}-{seed}")
    remove_checkpoints(Path(str(own.output_dir)))
    return found


def _examined(student: Any, model: LocalTeacher, asked: Sequence[Probe], args: AbilitiesArguments) -> dict[str, Any]:
    answered = examine(student, model.tokenizer, asked, tools_in_words=True, batch_size=48)
    names = ("text", "right", "why", "finish_reason")
    found = [{"probe": one.probe.id, "ability": one.probe.ability, **{n: getattr(one, n) for n in names}} for one in answered]  # fmt: skip
    said = [f"{name} {share.right}/{share.n}" for name, share in shares(answered).items()]
    if args.tasks:
        for one in benchmark(
            student, model.tokenizer, task_names(args), folder=args.task_folder, limit=args.task_limit
        ):
            said.append(f"{one.task} {one.metric} {one.mean:.3f} ({len(one.values)})")
            found += [{"probe": f"{one.task}-{i}", "ability": one.task, "right": v} for i, v in enumerate(one.values)]
    say(" · ".join(said))
    return {"answers": found}


def _student(model: LocalTeacher, upper_layers: int) -> PreTrainedModel:
    """A copy in float32 of which only the upper layers are trained: a step costs half."""
    student = copy.deepcopy(model.model).float().requires_grad_(False)
    for layer in find_layers(student)[1][-upper_layers:]:
        layer.requires_grad_(True)
    return student


def _title(arm: str, way: str, seed: int) -> str:
    return f"{arm} {way} seed {seed}".replace("  ", " ")


def _plan(args: AbilitiesArguments, arms: list[tuple[str, str]], seeds: range) -> list[tuple[str, float]]:
    """Stages with the seconds expected of each; only their ratios count."""
    exam, train = 0.25 * args.probes * len(ABILITIES), 0.5 * args.rows
    plan = [("other prompts", 1.5 * args.kept_prompts)]
    for seed in seeds:
        plan.append((f"lessons of seed {seed}", 0.4 * args.lessons * len(args.chosen())))
        plan += [(_title(arm, way, seed), exam + (train if way else 0)) for arm, way in arms]
    return plan


if __name__ == "__main__":
    main()
