"""Tune, retrieve, or both: the same facts learned and looked up, side by side, after some of them have changed.

    python recipes/retrieval.py --output_dir runs/retrieval          (or: distill retrieval ...)
    python recipes/retrieval.py --quick --output_dir runs/quick      (the plumbing in two minutes; its figures say nothing)
    python recipes/retrieval.py --documents manuals --questions questions.jsonl --output_dir runs/manuals

A model learns facts of a made-up world, or of documents of your own, four ways; then documents change, then every arm is asked, with and without
passages. Prints one table; writes `retrieval.html` and `retrieval.json`. Interrupt it when you like: the same command goes on from there. Flags are those
below and all of transformers.TrainingArguments.
"""

import copy
import dataclasses
import gc
import json
import math
import shlex
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedModel, TrainingArguments

from distill import BlackBoxTrainer, Logits, WhiteBoxTrainer, generate
from distill.basics.fingerprint import fingerprint
from distill.basics.processes import say
from distill.basics.progress import Stages
from distill.evaluation import HeldOut
from distill.generation.prompts import write_prompts
from distill.models.students import find_layers
from distill.pairs.prompts import read_prompts
from distill.reports.pictures import check_report_extra
from distill.reports.retrieval_page import retrieval_table, write_retrieval_page
from distill.reports.retrieval_update import answered_anew, update_told
from distill.reports.retrieval_words import verdict
from distill.retrieval.asked_facts import read_asked_facts
from distill.retrieval.course import Course
from distill.retrieval.examination import shuffled
from distill.retrieval.examining import NEW_TOKENS, Question, examine
from distill.retrieval.index import Index
from distill.retrieval.rows import Rows
from distill.running.documents import documents_of
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
from distill.running.retrieval_flags import HELD_OUT, RetrievalArguments, course_of, written_facts
from distill.signals import StoredSignals, capture
from distill.teachers import LocalTeacher

EPOCHS = 4.0
QUICK: dict[str, Any] = {"facts": 4, "untrained": 1, "wordings": 2, "kept_prompts": 2, "k": 1, "arms": "sft,sft_mixed"}
QUICK_PASSAGES = 12  # that a model writes questions about


@one_sentence
def main(argv: list[str] | None = None) -> None:
    """Index, rows, trainings; then the documents change, and all are asked."""
    args, training = parse_recipe(
        RetrievalArguments, argv, output_dir="runs/retrieval", description=__doc__,
        num_train_epochs=EPOCHS, learning_rate=3e-4, warmup_steps=4, save_strategy="no",
        # each row by itself, and one step of several: the same gradient, without the padding that rows with passages would bring to short ones
        per_device_train_batch_size=1, gradient_accumulation_steps=6,
    )  # fmt: skip
    if args.quick:
        refuse_given(args, tuple(QUICK), "--quick sets this itself; leave one of them out.")
        if training.num_train_epochs != EPOCHS:
            raise ValueError("--num_train_epochs: --quick sets this itself; leave one of them out.")
        args, training.num_train_epochs = dataclasses.replace(args, **QUICK), 1.0
        if args.documents is not None and args.questions is None and args.passages is None:
            args = dataclasses.replace(args, passages=QUICK_PASSAGES)
    if training.num_train_epochs != int(training.num_train_epochs):
        raise ValueError(
            f"num_train_epochs is {training.num_train_epochs:g}; arms are compared at whole epochs, since rows with passages stand among them."
        )
    check_report_extra()
    model = LocalTeacher(args.model)
    if args.upper_layers > (count := len(find_layers(model.model)[1])):
        raise ValueError(f"upper_layers is {args.upper_layers}, and the model has {count} layers.")
    begun = time.monotonic()
    settings = settings_of(args, training)
    documents = documents_of(args) if args.documents is not None else None
    given = read_asked_facts(args.questions) if args.questions is not None else None
    if documents is not None:  # by what they say, wherever they lie
        settings = {name: value for name, value in settings.items() if name not in ("documents", "questions")}
        facts = [{**dataclasses.asdict(fact), "where": ""} for fact in given or []]
        settings |= {"documents_are": documents.fingerprint, "questions_are": fingerprint(facts)}
    # what is wrong with questions is told before the folder is a run's
    course = course_of(args, documents, given) if documents is None or given is not None else None
    run = RunFolder(str(training.output_dir), settings)
    if course is None:
        assert documents is not None
        course = course_of(args, documents, written_facts(args, documents, model, run / "written"))
    epochs = int(training.num_train_epochs)
    closed = course.rows("closed")
    mixed = _mixed_rows(course, args, len(closed.rows), epochs)
    modes = Counter(row["mode"] for row in mixed.rows)
    pairs = {"closed": closed.pairs(model.tokenizer), "mixed": mixed.pairs(model.tokenizer)}
    if "shuffled" in args.chosen():
        wrong = dataclasses.replace(closed, rows=shuffled(closed.rows, training.seed))
        pairs["shuffled"] = wrong.pairs(model.tokenizer)
    arms = ["untouched", *args.chosen()]
    seeds = range(training.seed, training.seed + args.seeds)
    stages = Stages(_plan(args, training, model, arms, pairs, seeds))

    with stages.stage("documents"):
        index = Index(run / "index")
        if not (run / "updated.json").is_file():  # else the documents have changed already
            index.update(course.before)
    with stages.stage("other prompts"):
        # a few more than are wanted at once: some that are written are no prompts
        drawn: dict[str, Any] = {"seed": training.seed, "batch_size": args.kept_prompts + args.kept_prompts // 4 + 1}
        prompts: Any = (
            read_prompts(args.prompts, limit=args.kept_prompts)
            if args.prompts
            else write_prompts(model, args.kept_prompts, max_new_tokens=48, output=run / "kept.prompts.jsonl", **drawn)
        )
        others = generate(
            model, prompts, max_new_tokens=48, output=run / "kept.jsonl", allow_refusals=args.allow_refusals, **drawn
        )
        kept = HeldOut(model.model, others, model.tokenizer)
    with stages.stage("signals"):
        signals: Any = None
        if any(arm.startswith("context") for arm in arms):
            # the mixed rows have the closed ones among them
            told = pairs["mixed" if "context_mixed" in arms else "closed"]
            signals = capture(model, told, output=run / "signals", encoding="hidden", progress=False)

    for seed in seeds:
        for arm in arms[1:]:
            with stages.stage(f"{arm} seed {seed}"):
                folder = run / f"{arm}-seed{seed}"
                if not (folder / "result.json").is_file():
                    _train(arm, seed, folder, args, training, model, pairs[_rows_of(arm)], signals, kept)

    with stages.stage("the documents change"):
        update = _update(run, index, course)
    runs = []
    asked: list[tuple[str, int | None]] = [("untouched", None), *((arm, seed) for seed in seeds for arm in arms[1:])]
    for arm, number in asked:
        with stages.stage(f"asking {arm}" + ("" if number is None else f" seed {number}")):
            runs.append(_asked(run, arm, number, args, model, index, course))
    index.close()

    rows_a_step = training.per_device_train_batch_size * training.gradient_accumulation_steps
    results: dict[str, Any] = {
        "runs": runs,
        "model": f"{args.model}, its upper {args.upper_layers} layers trained",
        "facts": {"taught": len(course.taught), "changed": len(course.changed), "untrained": len(course.untrained)},
        "documents": {"before": len(course.before), "of": args.documents or "a made-up world"},
        "update": {**update, "arms": answered_anew(runs)},
        "told": (
            f"{len(closed.rows)} closed-book rows, {epochs} epochs; mixed arms see {modes['counterfactual']} rows with another value in the passage and "
            f"{modes['distractors']} with passages that do not say it between them, each once, so that they take "
            f"{math.ceil(len(mixed.rows) / rows_a_step)} steps where the others take {epochs * math.ceil(len(closed.rows) / rows_a_step)}; "
            f"steps of {rows_a_step} rows, learning rate {training.learning_rate:g}. Questions are in wordings that no training saw; "
            f"{args.k} passages are shown."
            + (" This was a quick run, to see that everything works: its figures say nothing." if args.quick else "")
        ),
        "stages": [dataclasses.asdict(stage) for stage in stages.finished],
        "total_seconds": time.monotonic() - begun,
        "command": "distill retrieval " + shlex.join(map(str, sys.argv[1:] if argv is None else argv)),
        "environment": environment(),
    }  # fmt: skip
    write_json(run / "retrieval.json", results)
    write_retrieval_page(results, run / "retrieval.html")
    say(f"\n{retrieval_table(runs)}\n\n" + "\n".join([*verdict(runs), update_told(results["update"])]))
    if args.quick:
        say("This was a quick run: its figures say nothing.")
    say(f"\nFinished in {(time.monotonic() - begun) / 60:.1f} minutes. Open {(run / 'retrieval.html').resolve()}")


def _mixed_rows(course: Course, args: RetrievalArguments, closed: int, epochs: int) -> Rows:
    """The closed rows as often as the other arms see them, and among them rows with passages.

    Of the latter no two are the same: shown the same few altered passages in each epoch, a model learns them by heart, and not to read.
    """
    beside = round(closed * epochs * args.mixed_share / (1 - args.mixed_share))
    made = course.rows(
        "mixed", k=args.k, share=beside / (closed + beside), altered=math.ceil(beside / len(course.taught) / 2) + 1
    )
    book = [row for row in made.rows if row["mode"] == "closed"]
    return dataclasses.replace(made, rows=[*book * (epochs - 1), *made.rows])


def _rows_of(arm: str) -> str:
    """Which rows an arm is trained on."""
    return "shuffled" if arm == "shuffled" else "mixed" if arm.endswith("mixed") else "closed"


def _train(
    arm: str, seed: int, folder: Path, args: RetrievalArguments, training: TrainingArguments, model: LocalTeacher,
    pairs: datasets.Dataset,
    signals: StoredSignals | None, kept: HeldOut,
) -> None:  # fmt: skip
    """Train one arm, and write its weights and `result.json`."""
    student = _student(model, args.upper_layers)
    own = copy.copy(training)
    own.output_dir, own.seed = str(folder), seed
    if arm.endswith("mixed"):
        own.num_train_epochs = 1.0  # they stand in the rows
    common: dict[str, Any] = {
        "model": student, "args": own, "train_dataset": pairs, "processing_class": model.tokenizer, "max_length": 2048,
    }  # fmt: skip
    trainer: BlackBoxTrainer | WhiteBoxTrainer
    if arm.startswith("context"):
        assert signals is not None
        trainer = WhiteBoxTrainer(**common, teacher=signals, objectives=[Logits()])
    else:
        trainer = BlackBoxTrainer(**common, supervised_only=True)
    begun = time.monotonic()
    train_or_resume(trainer)
    seconds = time.monotonic() - begun
    save_student(student, model.tokenizer, folder / "student")
    write_json(folder / "result.json", {"kept": kept.measure(student).as_dict(), "train_seconds": seconds})
    remove_checkpoints(folder)


def _student(model: LocalTeacher, upper_layers: int) -> PreTrainedModel:
    """A copy in float32 of which only the upper layers are trained: facts are learned as well, and a step costs half."""
    student = copy.deepcopy(model.model).float().requires_grad_(False)
    for layer in find_layers(student)[1][-upper_layers:]:
        layer.requires_grad_(True)
    return student


def _update(run: RunFolder, index: Index, course: Course) -> dict[str, Any]:
    """Replace the documents by their next version, and time that; once in a run. Every arm is asked about them afterwards."""
    file = run / "updated.json"
    if not file.is_file():
        begun = time.monotonic()
        done = index.update(course.after)
        write_json(file, {"documents": done.replaced + done.added, "seconds": time.monotonic() - begun})
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _asked(
    run: RunFolder, arm: str, seed: int | None, args: RetrievalArguments, model: LocalTeacher, index: Index, course: Course,
) -> dict[str, Any]:  # fmt: skip
    """What an arm answers without and with passages; asked once in a run."""
    folder = run.path if seed is None else run / f"{arm}-seed{seed}"
    file = folder / f"{arm}.answers.json"
    if not file.is_file():
        speaker = model.model if seed is None else LocalTeacher(str(folder / "student")).model
        found: dict[str, Any] = {"arm": arm, "seed": seed, "kept": {"kl": 0.0}, "train_seconds": 0.0}
        if seed is not None:
            found |= json.loads((folder / "result.json").read_text(encoding="utf-8"))
        for way, retriever in (("closed", None), ("retrieved", index)):
            asked: list[Question] = course.examination(
                held_out=1 if args.quick else HELD_OUT, searched=retriever is not None
            )
            answers = examine(
                speaker,
                model.tokenizer,
                asked,
                retriever=retriever,
                k=args.k,
                max_new_tokens=16 if args.quick else NEW_TOKENS,
            )
            found[way] = [one.as_dict() for one in answers]
        write_json(file, found)
        del speaker
        gc.collect()
    said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return said


def _plan(
    args: RetrievalArguments, training: TrainingArguments, model: LocalTeacher, arms: list[str],
    pairs: dict[str, datasets.Dataset], seeds: range,
) -> list[tuple[str, float]]:  # fmt: skip
    """Stages with the seconds expected of each, from the tokens of their rows; only their ratios count."""
    token = 0.003
    length = {name: _tokens(some) for name, some in pairs.items()}
    train = training.num_train_epochs * token * (1 + 2 * args.upper_layers / len(find_layers(model.model)[1]))
    question = 45 * args.facts * token * 6 + args.facts * 2 * args.k * 200 * token
    once = train / training.num_train_epochs
    trainings = [
        (f"{arm} seed {seed}", length[_rows_of(arm)] * (once if arm.endswith("mixed") else train) + 5)
        for seed in seeds
        for arm in arms[1:]
    ]
    return [
        ("documents", 2.0),
        ("other prompts", args.kept_prompts * 100 * 5 * token),
        ("signals", (_captured(arms, length) * 6 * token)),
        *trainings,
        ("the documents change", 3.0),
        ("asking untouched", question),
        *((f"asking {name}", question) for name, _ in trainings),
    ]


def _captured(arms: list[str], length: dict[str, int]) -> float:
    """Tokens of the rows that context distillation reads."""
    return length["mixed"] if "context_mixed" in arms else length["closed"] if "context" in arms else 0.01


def _tokens(pairs: datasets.Dataset) -> int:
    return sum(len(p) + len(c) for p, c in zip(pairs["prompt_ids"], pairs["completion_ids"], strict=True))


if __name__ == "__main__":
    main()
