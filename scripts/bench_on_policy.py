"""What an on-policy step costs: ours, against bare generation of the same tokens and a white-box step on them, and TRL's GKD trainer at share 1.

    python scripts/bench_on_policy.py                       # the embedded model, a student of 28 of its 30 layers; a Markdown table
    python scripts/bench_on_policy.py --new_tokens 32 --steps 4 --rounds 3

All ways are run in alternation in one process; a step's time is the processor's seconds of this process from the end of the step before it to its own, and
the first step of each run is not counted. What each way writes is decided by chance, so times are given a written token, too.
"""

import argparse
import copy
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import datasets
import torch
from measuring import machine, table
from transformers import GenerationConfig, TrainerCallback, TrainingArguments

from distill import Logits, WhiteBoxTrainer, make_student
from distill.basics.processes import say
from distill.models.evaluating import evaluating
from distill.models.generating import left_padded, own_generation_config
from distill.pairs.schema import pairs_from_rows
from distill.teachers import LocalTeacher
from distill.trainers import Rollouts
from distill.trainers.rollout_journal import NAME

TOPICS = [
    "rivers",
    "bread",
    "glass",
    "clocks",
    "bees",
    "maps",
    "tea",
    "ropes",
    "salt",
    "bridges",
    "wool",
    "lamps",
    "kites",
    "ice",
    "bells",
    "seeds",
]


class Steps(TrainerCallback):
    """The processor's seconds of each step, from the end of the one before it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last: float | None = None

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        now = time.process_time()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now


def settings(folder: Path, flags: argparse.Namespace) -> dict[str, Any]:
    """What all trainers have in common."""
    return {
        "output_dir": str(folder), "per_device_train_batch_size": flags.batch, "max_steps": flags.steps + 1, "learning_rate": 1e-6, "report_to": [],
        "save_strategy": "no", "logging_strategy": "no", "use_cpu": True, "disable_tqdm": True, "bf16": False, "gradient_checkpointing": False,
    }  # fmt: skip


def ours(
    student: Any, teacher: LocalTeacher, pairs: datasets.Dataset, folder: Path, flags: Any, rollouts: Any
) -> Steps:
    """Our trainer, with rollouts or without."""
    steps = Steps()
    WhiteBoxTrainer(
        model=copy.deepcopy(student), teacher=teacher, objectives=[Logits("reverse_kl")], args=TrainingArguments(**settings(folder, flags)),
        train_dataset=pairs, processing_class=teacher.tokenizer, rollouts=rollouts, callbacks=[steps],
    ).train()  # fmt: skip
    return steps


def trl(student: Any, teacher: LocalTeacher, rows: list[dict[str, Any]], folder: Path, flags: Any) -> tuple[Steps, int]:
    """TRL's trainer with every batch on-policy; and how many tokens it wrote in the steps that count."""
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    steps, written, usual = Steps(), [], GKDTrainer.generate_on_policy_outputs

    def counted(*args: Any, **kwargs: Any) -> Any:
        found = usual(*args, **kwargs)
        written.append(int((found[2] != -100).sum()))
        return found

    config = GKDConfig(
        **settings(folder, flags), lmbda=1.0, beta=1.0, temperature=1.0, max_new_tokens=flags.new_tokens, max_length=512
    )
    data = datasets.Dataset.from_list(
        [{"messages": [{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r["completion"]}]} for r in rows]
    )  # fmt: skip
    trainer = GKDTrainer(
        model=copy.deepcopy(student), teacher_model=teacher.model, args=config, processing_class=teacher.tokenizer, train_dataset=data, callbacks=[steps],
    )  # fmt: skip
    trainer.generate_on_policy_outputs = counted
    trainer.train()
    return steps, sum(written[1:])


def generation(student: Any, tokenizer: Any, steps: list[list[dict[str, Any]]], flags: Any) -> list[float]:
    """Bare generation: prompts of each step, and as many tokens as its longest rollout has."""
    seconds = []
    for rows in steps:
        ids, mask = left_padded([row["prompt_ids"] for row in rows], tokenizer.pad_token_id or 0, student.device)
        count = max(len(row["completion_ids"]) for row in rows)
        config = GenerationConfig(do_sample=True, max_new_tokens=count, min_new_tokens=count, pad_token_id=0, top_k=0)
        begun = time.process_time()
        with own_generation_config([student], config), evaluating(student), torch.no_grad():
            student.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        seconds.append(time.process_time() - begun)
    return seconds


def main() -> None:
    """Print the table."""
    import json

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="smollm2-135m")
    parser.add_argument("--layers", type=int, default=28, help="of the student")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--new_tokens", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3, help="that count, in each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no_trl", action="store_true")
    flags = parser.parse_args()
    teacher = LocalTeacher(flags.teacher, dtype="float32")
    student = make_student(teacher.model, layers=flags.layers).float()
    rows = [
        {"prompt": f"Tell a long story about {topic}.", "completion": f"Once there was a story about {topic}."}
        for topic in TOPICS
    ]
    pairs = pairs_from_rows(
        [
            {**row, "id": f"{n}", "prompt_ids": teacher.resolve_prompt(row["prompt"])[1],
             "completion_ids": teacher.tokenizer.encode(row["completion"], add_special_tokens=False), "teacher": "none"}
            for n, row in enumerate(rows)
        ],
        "the prompts",
    )  # fmt: skip
    rollouts = Rollouts(max_new_tokens=flags.new_tokens, journal=flags.batch, look=0)
    times: dict[str, list[float]] = {name: [] for name in ("ours", "generation", "white box", "TRL GKD")}
    tokens = {"ours": 0, "TRL GKD": 0}
    with tempfile.TemporaryDirectory() as name:
        for number in range(flags.rounds):
            folder = Path(name) / str(number)
            times["ours"] += ours(student, teacher, pairs, folder / "ours", flags, rollouts).seconds
            said = [json.loads(line) for line in (folder / "ours" / f"{NAME}.jsonl").read_text().splitlines()]
            by_step = [[row for row in said if row["step"] == step] for step in range(1, flags.steps + 1)]
            tokens["ours"] += sum(len(row["completion_ids"]) for rows_ in by_step for row in rows_)
            times["generation"] += generation(student, teacher.tokenizer, by_step, flags)
            # the same rows, taken as pairs; step 0 is again not counted
            every = [row for row in said if row["step"] <= flags.steps]
            again = pairs_from_rows([{k: v for k, v in row.items() if k != "step"} for row in every], "the journal")
            times["white box"] += ours(student, teacher, again, folder / "pairs", flags, None).seconds
            if not flags.no_trl:
                steps, written = trl(student, teacher, rows, folder / "trl", flags)
                times["TRL GKD"] += steps.seconds
                tokens["TRL GKD"] += written
    median = {name: statistics.median(some) for name, some in times.items() if some}
    parts = median["generation"] + median["white box"]
    lines = [
        [name, f"{median[name]:.2f}", f"{min(times[name]):.2f} to {max(times[name]):.2f}", f"{median[name] / parts:.2f}",
         f"{1000 * sum(times[name]) / tokens[name]:.0f}" if tokens.get(name) else "-"]
        for name in median
    ]  # fmt: skip
    lines.append(["generation + white box", f"{parts:.2f}", "", "1.00", ""])
    say(f"{machine('cpu')}; {flags.batch} rows a step, {flags.new_tokens} new tokens, {flags.layers} layers\n")
    say(table(["way", "s a step", "from, to", "over generation + white box", "ms a written token"], lines))


if __name__ == "__main__":
    main()
