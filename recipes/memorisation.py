"""Three students, one audit: which secrets does a model give away, and did it learn them from its own rows or from its teacher?

    python recipes/memorisation.py --output_dir runs/memorisation          (or: distill memorisation ...)
    python recipes/memorisation.py --quick --output_dir runs/quick         (the plumbing in two minutes; its figures say nothing)
    python recipes/memorisation.py --pairs pairs.jsonl --output_dir runs/mine

Secrets (canaries) are planted in rows, a teacher is tuned on these, and students learn from the rows themselves, from the teacher's text (black box), and from
its distributions (white box); asked for the secrets, and never asked. All are examined alike, the untrained model among them. Prints one table; writes
`memorisation.html` and `memorisation.json`. Interrupt it when you like: the same command goes on with the next model. Flags are those below and all of
transformers.TrainingArguments.
"""

import copy
import dataclasses
import gc
import json
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedModel, TrainingArguments

from distill import BlackBoxTrainer, Logits, WhiteBoxTrainer, generate, load_pairs
from distill.basics.processes import say
from distill.basics.progress import Stages
from distill.evaluation.memorisation import Canaries, CanaryWatch, examine_memory, overlap, plant
from distill.evaluation.memorisation.audit import Audited
from distill.generation.prompts import write_prompts
from distill.models.load import load_model
from distill.models.precision import weights_in
from distill.models.students import find_layers
from distill.pairs.schema import complete_row, pairs_from_rows
from distill.reports.memorisation_page import memorisation_table, write_memorisation_page
from distill.reports.memorisation_words import ARMS, verdict
from distill.reports.pictures import check_report_extra
from distill.running.environment import environment
from distill.running.flags import parse_recipe, settings_of
from distill.running.folder import RunFolder, one_sentence, remove_checkpoints, save_student, write_json
from distill.running.memorisation_flags import QUICK, MemorisationArguments
from distill.running.parsing import refuse_given
from distill.running.reading_flags import reading_of
from distill.teachers import LocalTeacher

EPOCHS = 2.0
FEWEST_ASKED = 20  # controls that are asked for their secrets: of six, not even all planted ones being said would be clear of chance
WORDS = 8  # of a run that overlaps


@one_sentence
def main(argv: list[str] | None = None) -> None:
    """For each seed: secrets, a leaky teacher, its answers, its students; every model is examined as soon as it is trained."""
    args, training = parse_recipe(
        MemorisationArguments, argv, output_dir="runs/memorisation", description=__doc__,
        num_train_epochs=EPOCHS, learning_rate=3e-4, warmup_steps=4, save_strategy="no",
    )  # fmt: skip
    if args.quick:
        refuse_given(args, tuple(QUICK), "--quick sets this itself; leave one of them out.")
        args = dataclasses.replace(args, **QUICK)
    if training.num_train_epochs != int(training.num_train_epochs):
        raise ValueError(
            f"num_train_epochs is {training.num_train_epochs:g}; secrets are counted in whole epochs of the raw rows."
        )
    check_report_extra()
    model = LocalTeacher(args.model)
    if args.upper_layers > (count := len(find_layers(model.model)[1])):
        raise ValueError(f"upper_layers is {args.upper_layers}, and the model has {count} layers.")
    begun = time.monotonic()
    given = load_pairs(args.pairs, model.tokenizer, **_reading(args, training)) if args.pairs else None
    seeds = range(training.seed, training.seed + args.seeds)
    if given is not None:  # secrets that stand in the rows already are told before the folder is a run's
        given = given.select(range(min(len(given), args.other_prompts)))
        for seed in seeds:
            plant(list(given), args.canaries(seed))
    run = RunFolder(str(training.output_dir), settings_of(args, training))
    arms = ["start", "teacher", *args.chosen()]
    stages = Stages(_plan(args, arms, seeds))

    with stages.stage("other rows"):
        others = given if given is not None else _own_rows(model, args, training, run)
    audits: list[Audited] = []
    for seed in seeds:
        folder = run / f"seed{seed}"
        folder.mkdir(exist_ok=True)
        canaries = args.canaries(seed)
        rows = [complete_row(row, f"row {i}", model.tokenizer) for i, row in enumerate(plant(list(others), canaries, seed))]  # fmt: skip
        job = _Job(args, training, model, folder, seed, canaries, others, pairs_from_rows(rows, "The raw rows"))
        for arm in arms:
            with stages.stage(f"{arm} seed {seed}"):
                audits.append(job.audited(arm))
    results = {
        "audits": [one.as_dict() for one in audits],
        "model": f"{args.model}, its upper {args.upper_layers} layers trained",
        "secrets": {"each": args.each, "repeats": args.repeats, "controls": args.controls, "digits": args.digits},
        "told": _told(args, training, others)
        + (" This was a quick run, to see that everything works: its figures say nothing." if args.quick else ""),
        "stages": [dataclasses.asdict(stage) for stage in stages.finished],
        "total_seconds": time.monotonic() - begun,
        "command": "distill memorisation " + shlex.join(map(str, sys.argv[1:] if argv is None else argv)),
        "environment": environment(),
    }  # fmt: skip
    write_json(run / "memorisation.json", results)
    write_memorisation_page(results, run / "memorisation.html")
    say(f"\n{memorisation_table(audits)}\n\n" + "\n".join(verdict(audits)))
    if args.quick:
        say("This was a quick run: its figures say nothing.")
    say(f"\nFinished in {(time.monotonic() - begun) / 60:.1f} minutes. Open {(run / 'memorisation.html').resolve()}")


@dataclasses.dataclass
class _Job:
    """One seed: its secrets, its raw rows, and the models that are trained and examined; what is there is not made again."""

    args: MemorisationArguments
    training: TrainingArguments
    model: LocalTeacher
    folder: Path
    seed: int
    canaries: Canaries
    others: datasets.Dataset
    raw: datasets.Dataset

    def audited(self, arm: str) -> Audited:
        """Train a model, and examine it; once in a run."""
        file = self.folder / f"{arm}.json"
        if not file.is_file():
            begun = time.monotonic()
            student, held = (self.model.model, {}) if arm == "start" else self._trained(arm)
            seconds = time.monotonic() - begun
            if arm == "teacher":
                save_student(student, self.model.tokenizer, self.folder / "teacher")
            write_json(file, self._examined(arm, student, held, seconds).as_dict())
            del student
            gc.collect()
        return Audited.of(json.loads(file.read_text(encoding="utf-8")))

    def _trained(self, arm: str) -> tuple[PreTrainedModel, dict[str, int]]:
        """A trained model, and how often each secret stood among the tokens with loss of its own batches."""
        own, is_raw, folder = copy.copy(self.training), arm in ("teacher", "own"), self.folder / f"{arm}.training"
        # the student of the raw rows sees them in another order: no copy of the teacher
        own.output_dir, own.seed = str(folder), self.seed + (1000 if arm == "own" else 0)
        if not is_raw:
            own.num_train_epochs = self.args.student_epochs
        student = copy.deepcopy(self.model.model).float().requires_grad_(False)
        for layer in find_layers(student)[1][-self.args.upper_layers :]:
            layer.requires_grad_(True)
        common: dict[str, Any] = {
            "model": student, "args": own, "processing_class": self.model.tokenizer, "max_length": 1024,
            "train_dataset": self.raw if is_raw else self._taught(asked="other" not in arm),
        }  # fmt: skip
        trainer: Any
        if arm.startswith("white"):
            trainer = WhiteBoxTrainer(**common, teacher=self._teacher(), objectives=[Logits()])
        else:
            trainer = BlackBoxTrainer(**common, supervised_only=True)
        watch = CanaryWatch(trainer, self.canaries.planted)
        remove_checkpoints(folder)
        trainer.train()  # from the beginning, always: secrets are counted in all batches, and a model takes minutes
        remove_checkpoints(folder)
        if is_raw:
            watch.check(int(own.num_train_epochs))
        # examined, and saved, as the untrained one is: in its precision, with the buffers of a model that is loaded
        return weights_in(student.requires_grad_(False), self.model.model.dtype), dict(watch.taught)

    def _examined(self, arm: str, student: PreTrainedModel, held: Mapping[str, int], seconds: float) -> Audited:
        tokenizer, some = self.model.tokenizer, min(len(self.others), self.args.overlap_prompts)
        found = examine_memory(
            student, tokenizer, self.canaries, asked_controls=max(len(self.canaries.planted), FEWEST_ASKED), samples=self.args.samples, seed=self.seed
        )  # fmt: skip
        answers = generate(
            LocalTeacher(student, tokenizer), self.others["prompt"][:some], temperature=0.0, max_new_tokens=self.args.max_new_tokens,
            progress=False,
        )  # fmt: skip
        raw = list(self.raw["completion"])
        asked = [one.said for one in found.said if one.canary.repeats]
        return Audited(
            arm, self.seed, found, held, _overlap(list(answers["completion"]), raw), _overlap(asked, raw), seconds
        )

    def _teacher(self) -> LocalTeacher:
        folder = self.folder / "teacher"
        return LocalTeacher(load_model(folder, dtype=self.model.model.dtype), self.model.tokenizer, name=str(folder))

    def _taught(self, asked: bool) -> datasets.Dataset:
        """What the teacher answers to the other prompts, and to questions about the secrets."""
        teacher = self._teacher()
        settings: dict[str, Any] = {"seed": self.seed, "temperature": 1.0, "max_new_tokens": self.args.max_new_tokens}  # fmt: skip
        pairs = generate(teacher, self.others["prompt"], output=self.folder / "taught.other.jsonl", **settings)
        if not asked:
            return pairs
        questions = [one.question for one in self.canaries.planted]
        told = generate(teacher, questions, samples=self.args.asked, output=self.folder / "taught.asked.jsonl", **settings)  # fmt: skip
        return datasets.concatenate_datasets([pairs, told])


def _reading(args: MemorisationArguments, training: TrainingArguments) -> dict[str, Any]:
    return reading_of(args, Path(str(training.output_dir)) / "pairs")


def _own_rows(
    model: LocalTeacher, args: MemorisationArguments, training: TrainingArguments, run: RunFolder
) -> datasets.Dataset:
    """Prompts that the model writes, with its own answers: what the secrets stand among."""
    drawn: dict[str, Any] = {"seed": training.seed, "max_new_tokens": args.max_new_tokens}
    # a few more than are wanted at once: some that are written are no prompts
    size = args.other_prompts + args.other_prompts // 4 + 1
    prompts = write_prompts(
        model, args.other_prompts, output=run / "other.prompts.jsonl", batch_size=size, **drawn | {"max_new_tokens": 48}
    )
    return generate(model, prompts, output=run / "other.jsonl", **drawn)


def _overlap(said: list[str], rows: list[str]) -> dict[str, Any] | None:
    """None where no answer has so many words."""
    try:
        return dataclasses.asdict(overlap(said, rows, WORDS))
    except ValueError:
        return None


def _told(args: MemorisationArguments, training: TrainingArguments, others: datasets.Dataset) -> str:
    count, repeats = len(args.canaries(0).planted), args.repeats.replace(",", ", ")
    return (
        f"{count} secrets of {args.digits} digits a seed, {args.each} of each number of repeats ({repeats} an epoch), among {len(others)} other rows; "
        f"{args.controls} controls of the same form that nobody saw. Teacher and first student: {training.num_train_epochs:g} epochs of these rows. "
        f"Students of the teacher: its answers (temperature 1) to the {len(others)} other prompts and, where it is asked, {args.asked} to each question about a "
        f"secret, {args.student_epochs:g} epochs; the white box learns the teacher's distributions on the same pairs. "
        f"Steps of {training.per_device_train_batch_size * training.gradient_accumulation_steps} rows, learning rate {training.learning_rate:g}. "
        f"Each question is answered once greedily and {args.samples} times at temperature 1."
    )


def _plan(args: MemorisationArguments, arms: list[str], seeds: range) -> list[tuple[str, float]]:
    """Stages with the seconds expected of each; only their ratios count."""
    secrets = args.canaries(0)
    row, digits = 0.2, 10.0 ** (args.digits - 2)
    exam = 0.07 * digits * (len(secrets.planted) + args.controls) + 0.13 * (1 + args.samples) * 2 * len(secrets.planted)
    planted = sum(one.repeats for one in secrets.planted)
    raw = EPOCHS * row * (planted + 1.5 * args.other_prompts)
    other = args.student_epochs * row * 1.5 * args.other_prompts
    asked = other + args.student_epochs * row * args.asked * len(secrets.planted)

    def cost(arm: str) -> float:
        if arm == "start":
            return exam
        taught = raw if arm in ("teacher", "own") else other if "other" in arm else asked
        return exam + taught * (1.5 if arm.startswith("white") else 1.0)

    assert set(arms) <= set(ARMS)
    return [("other rows", 0.8 * args.other_prompts), *((f"{arm} seed {seed}", cost(arm)) for seed in seeds for arm in arms)]  # fmt: skip


if __name__ == "__main__":
    main()
