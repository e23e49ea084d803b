"""kill -9 while a training runs or writes a checkpoint, again and again, until it has finished. Prints a Markdown table.

    python scripts/kill_training.py                # 30 kills over the two trainers, about five minutes on two cores
    python scripts/kill_training.py --kills 2      # one of each trainer
    python scripts/kill_training.py --kills 10 --trainers on_policy     # a white box whose student writes three in five rows itself

Each life of a run is a child of the process in `nursery.py`: it makes its trainer, calls `train(resume_from_checkpoint=True)`,
is killed by its id, and the next one goes on. Every second kill is aimed at a step, the others into the writing of a
checkpoint, at a random one of its file operations. At the end the last checkpoint of the run has to be that of an
unbroken run byte for byte: weights, learned projections, optimiser, scheduler, random states, and the log but for its times. Of an
on-policy run, the journal of its rollouts, too.

Ends with status 1 if anything differs. Needs the `dev` extra.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from nursery import Nursery, serve

TRAINERS = ("black_box", "white_box", "on_policy")
STEPS = 24
FILES = ("model.safetensors", "objectives.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
OPERATIONS = (
    "open",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "shutil.rmtree",
)  # as the interpreter reports them
STEP, WRITE = b"s", b"w"  # what a life tells through its pipe


def main() -> None:
    """Kill both trainers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="over all trainers")
    parser.add_argument("--trainers", nargs="+", default=TRAINERS[:2], choices=TRAINERS)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    print(f"## kill -9: {flags.kills} times in runs of {STEPS} optimiser steps\n")
    print(
        "| trainer | unbroken run | kill -9 | aimed at a step | into a checkpoint | in runs | half-written checkpoints | "
        "steps done again | the end |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    good = True
    with tempfile.TemporaryDirectory() as folder, Nursery(__file__, "lives") as nursery:
        for i, trainer in enumerate(flags.trainers):
            share = flags.kills // len(flags.trainers) + (i < flags.kills % len(flags.trainers))
            good &= _one_trainer(Path(folder), trainer, nursery, share, random.Random(flags.seed + i), flags.seed + i)
    print(
        "\nIn runs: a run that finishes before all kills were made is begun anew for the rest of them. Half-written checkpoints: "
        "found after a kill, without Trainer's state; none of them may be loaded.\n"
    )
    print("Everything as in the unbroken run." if good else "SOMETHING DIFFERS: see above.", flush=True)
    raise SystemExit(not good)


def _one_trainer(folder: Path, trainer: str, nursery: Nursery, count: int, chance: random.Random, first: int) -> bool:
    whole, broken = folder / f"{trainer}-whole", folder / f"{trainer}-broken"
    begun = time.perf_counter()
    told = _live(nursery, trainer, whole)
    assert nursery.ended() == 0, "the unbroken run failed"
    took, operations = time.perf_counter() - begun, told[WRITE]
    aimed: Counter[bytes] = Counter()
    runs, half, again, done, good = 1, 0, -STEPS, 0, True
    while True:
        target = (STEP, WRITE)[(done + first) % 2]
        limit = STEPS if target == STEP else operations
        after = 1 + int(chance.random() ** 2 * limit)  # small numbers more often, so that a run lasts for several kills
        told = _live(nursery, trainer, broken, target if done < count else None, after, chance.uniform(0, 0.02))
        again += told[STEP]
        if told["killed"]:
            done += 1
            aimed[target] += 1
            half += sum(not (path / "trainer_state.json").exists() for path in broken.glob("checkpoint-*"))
            continue
        status = nursery.ended()
        assert status == 0, f"a life that was not killed ended with {status}"
        good &= _same_end(whole, broken)
        if done >= count:
            break
        for path in sorted(broken.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        runs += 1
        again -= STEPS
    print(
        f"| {trainer} | {took:.1f} s | {done} | {aimed[STEP]} | {aimed[WRITE]} | {runs} | {half} | {again} | "
        f"{'equal, every byte' if good else 'DIFFERS'} |",
        flush=True,
    )
    return good


def _live(
    nursery: Nursery, trainer: str, folder: Path, target: bytes | None = None, after: int = 0, delay: float = 0.0
) -> dict[Any, int]:
    """Begin a life and listen to it; kill it a moment after it has done `after` of `target`, or hear it to its end."""
    pipe = folder.with_suffix(".pipe")
    if not pipe.exists():
        os.mkfifo(pipe)
    nursery.start(trainer, folder, pipe)
    told: dict[Any, int] = {STEP: 0, WRITE: 0, "killed": 0}
    with pipe.open("rb", buffering=0) as heard:
        while word := heard.read(1):
            told[word] += 1
            if word == target and told[word] == after:
                time.sleep(delay if target == STEP else delay / 10)
                told["killed"] = nursery.alive()
                if told["killed"]:
                    nursery.kill()  # before the pipe is closed, which a life would notice
                break
    return told


def _same_end(one: Path, other: Path) -> bool:
    """Whether the last checkpoints of two runs are the same, byte for byte; the log but for its times."""
    ends = [folder / f"checkpoint-{STEPS}" for folder in (one, other)]
    files = [{name: (end / name).read_bytes() for name in FILES if (end / name).exists()} for end in ends]
    logs = [
        [
            {name: value for name, value in entry.items() if not name.endswith(("_runtime", "_per_second"))}
            for entry in json.loads((end / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
        ]
        for end in ends
    ]
    written = [path.read_bytes() if (path := folder / "rollouts.jsonl").exists() else b"" for folder in (one, other)]
    return len(files[0]) >= 4 and files[0] == files[1] and logs[0] == logs[1] and written[0] == written[1]


def _lives() -> None:
    """The process that forks the lives of a run."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from conftest import build_model, build_pairs, build_tokenizer  # type: ignore[import-not-found]
    from transformers import TrainerCallback, TrainingArguments

    from distill import AttentionMaps, BlackBoxTrainer, HiddenStates, Logits, WhiteBoxTrainer
    from distill.objectives import Schedule
    from distill.trainers import Rollouts

    tokenizer, pairs = build_tokenizer(), build_pairs(26)

    class Tell(TrainerCallback):
        def __init__(self, pipe: int) -> None:
            self.pipe = pipe

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            os.write(self.pipe, STEP)

    def life(kind: str, folder: str, pipe: str) -> None:
        tell = os.open(pipe, os.O_WRONLY)

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event in OPERATIONS and isinstance(arguments[0], (str, os.PathLike)):
                reads = event == "open" and not (
                    isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
                )
                if not reads and "/checkpoint-" in os.fspath(arguments[0]).replace("/.checkpoint-", "/checkpoint-"):
                    os.write(tell, WRITE)

        args = TrainingArguments(
            folder,
            max_steps=STEPS,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            learning_rate=1e-2,
            lr_scheduler_type="cosine",
            warmup_steps=3,
            save_steps=2,
            save_total_limit=2,
            logging_steps=5,  # not a multiple of save_steps: a window of the log is resumed in its middle
            eval_strategy="steps",
            eval_steps=7,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        student = build_model(hidden_size=16, num_attention_heads=2, seed=7, attention_dropout=0.1)
        common: dict[str, Any] = {
            "model": student,
            "args": args,
            "train_dataset": pairs,
            "eval_dataset": pairs.select(range(6)),
            "processing_class": tokenizer,
            "callbacks": [Tell(tell)],
        }
        trainer: BlackBoxTrainer | WhiteBoxTrainer
        if kind == "black_box":
            trainer = BlackBoxTrainer(**common)
        else:
            objectives = [
                Logits(weight=Schedule(1.0, 0.2)),
                HiddenStates(
                    weight=Schedule(0.0, 0.5, steps=10, shape="cosine")
                ),  # of another width: projections are learned
                AttentionMaps(relations=("query", "key", "value"), weight=0.1),
            ]
            rollouts = Rollouts(share=0.6, max_new_tokens=8) if kind == "on_policy" else None
            trainer = WhiteBoxTrainer(
                **common, teacher=build_model(layers=3, seed=1), objectives=objectives, rollouts=rollouts
            )
        sys.addaudithook(hook)
        trainer.train(resume_from_checkpoint=True, or_start=True)

    serve(life)


if __name__ == "__main__":
    if sys.argv[1:] == ["lives"]:
        _lives()
    else:
        main()
