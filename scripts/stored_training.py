"""Does a student learn as much from a few stored bytes a token as from the live teacher? Trainings over seeds, side by side.

    python scripts/stored_training.py --output runs/stored_training          (an hour and more on one core; goes on where it stopped)

The demo's student (12 of 30 layers) is trained on one set of pairs of its teacher, from the live teacher and from stored signals, and
measured on held-out pairs. A seed decides the order of the pairs and, for drawn encodings, the draws. `top` at the bytes of `threshold` stands
beside it, and plain fine-tuning on the same pairs is the control that must differ. Figures of each training are written when it ends.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import copy

import datasets
import torch
from measuring import machine, table
from transformers import TrainingArguments

from distill import BlackBoxTrainer, Logits, WhiteBoxTrainer, generate, make_student
from distill.basics.processes import say
from distill.evaluation import HeldOut
from distill.evaluation.accuracy import over_seeds
from distill.generation.prompts import write_prompts
from distill.running.stages import block_sample, split_pairs
from distill.signals import StoredSignals, capture
from distill.teachers import LocalTeacher

LIVE, CONTROL = "live teacher", "fine-tuning (control)"


def main() -> None:
    """Train what has no figures yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--teacher", default="smollm2-135m")
    parser.add_argument("--pairs", help="a saved data set of the teacher's own; else made in --output")
    parser.add_argument("--encodings", nargs="+", default=["threshold:32", "top:22"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--count", type=int, default=240, help="pairs to train on")
    parser.add_argument("--held_out", type=int, default=80)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--draw_seed", type=int, default=0, help="the seed of the pairs")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    teacher = LocalTeacher(args.teacher, dtype="float32")
    pairs = saved_pairs(args, teacher)
    train, held_out = split_pairs(pairs.select(range(args.count + args.held_out)), args.held_out)
    start = make_student(
        teacher.model, layers=args.layers, strategy="block_influence", sample=block_sample(train, "block_influence")
    ).float()
    measured = HeldOut(teacher.model, held_out, teacher.tokenizer)
    path = args.output / "figures.json"
    figures: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    figures.setdefault("start", {"kl": measured.measure(start).kl})
    for seed in range(args.seeds):
        for arm in (LIVE, *args.encodings, CONTROL):
            if (name := f"{arm}, seed {seed}") in figures:
                continue
            figures[name] = run(arm, seed, args, teacher, copy.deepcopy(start), train, measured)
            path.write_text(json.dumps(figures, indent=1))
            say(f"{name}: {figures[name]}")
    say(
        f"\n{machine('cpu')}; {args.layers} layers, {len(train)} pairs, {measured.tokens} held-out tokens; at the start {figures['start']['kl']:.3f}\n"
    )
    say(shown(figures, [LIVE, *args.encodings, CONTROL], args.seeds))


def saved_pairs(args: argparse.Namespace, teacher: LocalTeacher) -> datasets.Dataset:
    """The pairs that are given, or the teacher's own answers to prompts of its own."""
    where = Path(args.pairs or args.output / "pairs")
    if not where.is_dir():
        prompts = write_prompts(teacher, args.count + args.held_out, seed=args.draw_seed, batch_size=64)
        generate(teacher, prompts, max_new_tokens=48, seed=args.draw_seed, batch_size=64).save_to_disk(str(where))
    return datasets.load_from_disk(str(where))


def run(
    arm: str, seed: int, args: argparse.Namespace, teacher: LocalTeacher, student: Any, train: Any, measured: HeldOut
) -> dict[str, float]:
    """One training: its held-out KL with the error over pairs, bytes a token, processor seconds of the training."""
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "model": student,
            "train_dataset": train,
            "processing_class": teacher.tokenizer,
            "args": TrainingArguments(
                folder, per_device_train_batch_size=8, num_train_epochs=args.epochs, learning_rate=args.learning_rate,
                lr_scheduler_type="cosine", warmup_steps=2, seed=seed, save_strategy="no", report_to="none", disable_tqdm=True,
                logging_steps=10, use_cpu=not torch.cuda.is_available(),
            ),
        }  # fmt: skip
        size = 0.0
        if arm == CONTROL:
            trainer: Any = BlackBoxTrainer(**settings)
        elif arm == LIVE:
            trainer = WhiteBoxTrainer(teacher=teacher, objectives=[Logits()], **settings)
        else:
            drawn: dict[str, Any] = {"seed": seed} if arm.startswith(("threshold", "draws")) else {}
            stored: StoredSignals = capture(
                teacher, train, output=Path(folder) / "signals", encoding=arm, progress=False, **drawn
            )
            size = stored.index.bytes / int(stored.index.positions.sum())
            trainer = WhiteBoxTrainer(teacher=stored, objectives=[Logits()], **settings)
        begun = time.process_time()
        trainer.train()
        seconds = time.process_time() - begun
    found = measured.measure(student)
    return {"kl": found.kl, "kl_error": found.kl_error, "top1": found.top1, "loss": found.loss, "bytes": size, "seconds": seconds}  # fmt: skip


def shown(figures: dict[str, Any], arms: list[str], seeds: int) -> str:
    """A row for each way: held-out KL of every seed, mean, and the difference to the live teacher at the same seed with its interval."""
    lines = []
    for arm in arms:
        kls = [figures[f"{arm}, seed {seed}"]["kl"] for seed in range(seeds)]
        apart = [kl - figures[f"{LIVE}, seed {seed}"]["kl"] for seed, kl in enumerate(kls)]
        mean, _ = over_seeds(kls)
        difference, half = over_seeds(apart)
        one = figures[f"{arm}, seed 0"]
        lines.append(
            [
                arm,
                f"{one['bytes']:.0f}" if one["bytes"] else "-",
                ", ".join(f"{kl:.4f}" for kl in kls),
                f"{mean:.4f}",
                f"{max(kls) - min(kls):.4f}",
                "-" if arm == LIVE else f"{difference:+.4f} ± {half:.4f}",
                f"{sum(figures[f'{arm}, seed {s}']['top1'] for s in range(seeds)) / seeds:.1%}",
            ]
        )
    return table(
        ["signals", "bytes a token", "held-out KL by seed", "mean", "largest less smallest", "less the live teacher's, 95%", "top-1"], lines
    )  # fmt: skip


if __name__ == "__main__":
    main()
