"""Whose text a student learns from: the teacher's, half and half, its own; and TRL's GKD trainer beside them. At equal tokens, over seeds.

    python scripts/on_policy_ways.py --output runs/on_policy_ways            # the embedded model, a student of 26 of its 30 layers; a Markdown table
    python scripts/on_policy_ways.py --output runs/small --steps 2 --seeds 1 --prompts 8 --held_out 4 --start_steps 2      # the plumbing

A student without some layers first learns from the teacher's text (the same start for all), then goes on in each way with the reverse KL, as many steps
of as many rows. Held-out KL is measured in both directions on text of the teacher and on text that the student, as it ended, writes itself. Two more
rows: the start, and the control that must not gain, a training at a learning rate of 0. Interrupted, it goes on with the training that is missing.
"""

import argparse
import copy
import json
import os
import random
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import datasets
import torch
from measuring import machine, table
from near_the_teacher import interval
from torch.nn.functional import kl_div
from transformers import TrainingArguments

from distill import Logits, WhiteBoxTrainer, generate, make_student
from distill.basics.processes import say
from distill.generation.prompts import write_prompts
from distill.models.load import fast_dtype
from distill.pairs.collate import PairCollator
from distill.running.stages import block_sample, split_pairs
from distill.teachers import LocalTeacher
from distill.trainers import Rollouts

SHARES = {"the teacher's text": 0.0, "half and half": 0.5, "its own text": 1.0}
TRL, STILL = "TRL GKD, its own text", "its own text, learning rate 0"
FIGURES = {
    "own_reverse": "own text, KL(student to teacher)",
    "own_forward": "own text, KL(teacher to student)",
    "teachers_reverse": "teacher's text, KL(student to teacher)",
    "teachers_forward": "teacher's text, KL(teacher to student)",
}


class Tokens:
    """Counts what is learned from, by looking at each batch."""

    def __init__(self) -> None:
        self.count = 0

    def watch(self, trainer: Any) -> None:
        usual = trainer.compute_loss

        def counted(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self.count += int((inputs["labels"][:, 1:] != -100).sum())
            return usual(model, inputs, *args, **kwargs)

        trainer.compute_loss = counted


@torch.no_grad()
def both_kl(student: Any, teacher: Any, pairs: datasets.Dataset, tokenizer: Any) -> tuple[float, float]:
    """KL(student to teacher) and KL(teacher to student), nats a token of the completions."""
    student.eval()
    collate, sums, count = PairCollator(tokenizer), torch.zeros(2, dtype=torch.float64), 0
    for place in range(0, len(pairs), 8):
        batch = collate([pairs[i] for i in range(place, min(place + 8, len(pairs)))])
        labels = batch.pop("labels")[:, 1:]
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        mine, other = (model(**inputs).logits[:, :-1][labels != -100].log_softmax(-1) for model in (student, teacher))
        sums += torch.stack(
            [kl_div(b, a, reduction="sum", log_target=True).double() for a, b in ((mine, other), (other, mine))]
        )
        count += int((labels != -100).sum())
    return float(sums[0] / count), float(sums[1] / count)


def common(folder: Path, flags: argparse.Namespace, seed: int, rate: float, steps: int) -> dict[str, Any]:
    """Settings of every trainer."""
    return {
        "output_dir": str(folder), "per_device_train_batch_size": flags.batch, "max_steps": steps, "learning_rate": rate, "seed": seed, "report_to": [],
        "lr_scheduler_type": "linear", "warmup_steps": 2, "save_strategy": "no", "logging_strategy": "no", "use_cpu": True, "disable_tqdm": True, "bf16": fast_dtype() == torch.bfloat16,
        "gradient_checkpointing": False, "weight_decay": 0.0,
    }  # fmt: skip


def as_turns(prompt: Any) -> list[dict[str, str]]:
    """A prompt as messages."""
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def train(
    student: Any, teacher: LocalTeacher, pairs: datasets.Dataset, way: str, seed: int, folder: Path, flags: Any
) -> int:
    """Train a student in place; how many tokens carried loss."""
    rate, tokens = 0.0 if way == STILL else flags.learning_rate, Tokens()
    settings = common(folder, flags, seed, rate, 1 if way == STILL else flags.steps)  # at 0 one step is as good as many
    trainer: Any
    if way == TRL:
        from trl.experimental.gkd import GKDConfig, GKDTrainer

        random.seed(seed)
        rows = [
            {"messages": [*as_turns(pair["prompt"]), {"role": "assistant", "content": pair["completion"]}]}
            for pair in pairs
        ]
        config = GKDConfig(
            **settings, lmbda=1.0, beta=1.0, temperature=1.0, max_new_tokens=flags.new_tokens, max_length=512
        )
        trainer = GKDTrainer(
            model=student, teacher_model=teacher.model, args=config, processing_class=teacher.tokenizer, train_dataset=datasets.Dataset.from_list(rows)
        )  # fmt: skip
    else:
        share = SHARES.get(way, 1.0)
        rollouts = Rollouts(share=share, max_new_tokens=flags.new_tokens, journal=flags.batch) if share else None
        trainer = WhiteBoxTrainer(
            model=student, teacher=teacher, objectives=[Logits("reverse_kl")], args=TrainingArguments(**settings), train_dataset=pairs,
            processing_class=teacher.tokenizer, rollouts=rollouts,
        )  # fmt: skip
    tokens.watch(trainer)
    trainer.train()
    return tokens.count


def measured(student: Any, teacher: LocalTeacher, kept: datasets.Dataset, seed: int, flags: Any) -> dict[str, float]:
    """KL in both directions on both texts, and the share of the student's texts that end."""
    prompts = list(kept["prompt"])
    own = generate(
        LocalTeacher(student.eval(), teacher.tokenizer, name="student"), prompts, max_new_tokens=flags.new_tokens, seed=1000 + seed, progress=False,
        batch_size=16, allow_refusals=True,
    )  # fmt: skip
    found = dict(
        zip(("own_reverse", "own_forward"), both_kl(student, teacher.model, own, teacher.tokenizer), strict=True)
    )
    found |= dict(
        zip(
            ("teachers_reverse", "teachers_forward"),
            both_kl(student, teacher.model, kept, teacher.tokenizer),
            strict=True,
        )
    )
    return {**found, "ended": sum(reason == "stop" for reason in own["finish_reason"]) / len(own)}


def main() -> None:
    """Start, ways and seeds; then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--teacher", default="smollm2-135m")
    parser.add_argument("--layers", type=int, default=26, help="of the student")
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--held_out", type=int, default=32)
    parser.add_argument("--new_tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--start_steps", type=int, default=32, help="on the teacher's text, for all ways alike")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, default=3)
    flags = parser.parse_args()
    flags.output.mkdir(parents=True, exist_ok=True)
    teacher = LocalTeacher(
        flags.teacher
    )  # in bfloat16 where the machine is fast in it, as the products of the students
    prompts = write_prompts(teacher, flags.prompts + flags.held_out, seed=0, batch_size=32, max_new_tokens=40, output=flags.output / "prompts.jsonl")  # fmt: skip
    pairs = generate(teacher, prompts, max_new_tokens=flags.new_tokens, seed=0, batch_size=32, output=flags.output / "pairs.jsonl", allow_refusals=True)  # fmt: skip
    learned, kept = split_pairs(pairs, flags.held_out)
    first = learned.select(range(min(len(learned), flags.start_steps * flags.batch)))
    start = make_student(teacher.model, flags.layers, strategy="block_influence", sample=block_sample(learned, "block_influence")).float()  # fmt: skip
    torch.manual_seed(0)
    WhiteBoxTrainer(
        model=start, teacher=teacher, objectives=[Logits()], args=TrainingArguments(**common(flags.output / "start", flags, 0, 3e-4, flags.start_steps)),
        train_dataset=first, processing_class=teacher.tokenizer,
    ).train()  # fmt: skip
    ways = [*SHARES, TRL, STILL]
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ["the start", *ways]}
    for seed in range(flags.seeds):
        for way in found:
            file = flags.output / f"{way.replace(' ', '_')}-{seed}.json"
            if not file.is_file():
                student = copy.deepcopy(start)
                tokens = (
                    0
                    if way == "the start"
                    else train(student, teacher, learned, way, seed, flags.output / "run", flags)
                )
                result = {**measured(student, teacher, kept, seed, flags), "tokens": tokens}
                file.write_text(json.dumps(result), encoding="utf-8")
            found[way].append(json.loads(file.read_text(encoding="utf-8")))
            say(f"seed {seed}, {way}: {found[way][-1]}")
    rows = [
        [way, *(interval([one[name] for one in some]) for name in FIGURES), f"{sum(one['ended'] for one in some) / len(some):.2f}",
         f"{sum(one['tokens'] for one in some) / len(some):,.0f}"]
        for way, some in found.items()
    ]  # fmt: skip
    say(
        f"{machine('cpu')}; {flags.layers} layers, {flags.steps} steps of {flags.batch} rows, {flags.new_tokens} new tokens\n"
    )
    say(table(["way", *FIGURES.values(), "ended", "tokens learned from"], rows))
    base = found["the teacher's text"]
    for way in ways[1:]:
        parts = [
            f"{title} {interval([a[name] - b[name] for a, b in zip(found[way], base, strict=True)])}"
            for name, title in FIGURES.items()
        ]
        say(f"{way}, minus the teacher's text, paired by seed: {'; '.join(parts)}")


if __name__ == "__main__":
    main()
