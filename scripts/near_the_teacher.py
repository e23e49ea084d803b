"""White box near its teacher: logits in float32 out of bfloat16 products, against logits rounded to bfloat16.

    python scripts/near_the_teacher.py --steps 400 --seeds 3            (a GPU; minutes)

Trains the same student (a copy of the teacher without some layers) on the same pairs twice a seed, under bfloat16 autocast with weights
in float32: as the library does it, and with both sides' logits rounded, as a model's own logits are. Prints the held-out KL on the way
as a Markdown table, with 95% intervals over seeds.
"""

import argparse
import copy
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from measuring import table
from torch import Tensor
from transformers import TrainingArguments

from distill import Logits, WhiteBoxTrainer, generate, make_student
from distill.evaluation import AgreementCurve, HeldOut
from distill.evaluation.accuracy import over_seeds
from distill.generation.prompts import write_prompts
from distill.running.stages import block_sample, split_pairs
from distill.signals import head_logits
from distill.teachers import LocalTeacher


@contextmanager
def rounded() -> Iterator[None]:
    """Within it, both sides' logits are what the head's product gives in its own precision."""
    plain = head_logits.Side.logits

    def logits(
        side: head_logits.Side, rows: slice, out: Tensor | None = None, near: Tensor | None = None
    ) -> head_logits.Logits:
        return head_logits.Logits(plain(side, rows).exact(slice(None), torch.float32).bfloat16().float())

    head_logits.Side.logits = logits  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        head_logits.Side.logits = plain  # type: ignore[method-assign]


def train(student, teacher, pairs, held_out, seed, args, start) -> list[float]:  # type: ignore[no-untyped-def]
    """Held-out KL at each point."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = WhiteBoxTrainer(
            model=student,
            teacher=teacher,
            objectives=[Logits()],
            args=TrainingArguments(
                output_dir=folder, max_steps=args.steps, per_device_train_batch_size=args.batch, learning_rate=args.learning_rate,
                lr_scheduler_type="linear", warmup_steps=10, bf16=True, use_cpu=not torch.cuda.is_available(), seed=seed, save_strategy="no", report_to=[],
                logging_steps=args.steps, disable_tqdm=True,
            ),
            train_dataset=pairs,
            processing_class=teacher.tokenizer,
            callbacks=[AgreementCurve(held_out, args.points, start)],
        )  # fmt: skip
        trainer.train()
    history: Any = trainer.state.log_history
    return [entry["held_out"]["kl"] for entry in history if "held_out" in entry]


def interval(values: list[float]) -> str:
    """Mean and half of the 95% interval over seeds."""
    found = over_seeds(values)
    return f"{found.middle:.4f}" + (f" ± {found.half:.4f}" if math.isfinite(found.half) else "")


def main() -> None:
    """Generate, train both ways for each seed, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument(
        "--noise", type=float, default=0.0, help="Added to each of the student's weights, in their spreads."
    )
    parser.add_argument("--prompts", type=int, default=800)
    parser.add_argument("--held_out", type=int, default=64)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--points", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--generation_batch", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    args = parser.parse_args()
    teacher = LocalTeacher("smollm2-135m")
    model: Any = teacher.model
    model.to("cuda" if torch.cuda.is_available() else "cpu", torch.float32)
    prompts = write_prompts(teacher, args.prompts + args.held_out, seed=0, batch_size=args.generation_batch)
    pairs = generate(teacher, prompts, max_new_tokens=64, seed=0, batch_size=args.generation_batch)
    learned, kept = split_pairs(pairs, args.held_out)
    held_out = HeldOut(teacher.model, kept, teacher.tokenizer)
    untouched = make_student(
        teacher.model, args.layers, strategy="block_influence", sample=block_sample(learned, "block_influence")
    )
    if args.noise:
        torch.manual_seed(0)
        with torch.no_grad():
            for weight in untouched.parameters():
                weight.add_(torch.randn_like(weight) * weight.std() * args.noise)
    start = held_out.measure(untouched)
    print(
        f"{len(learned)} pairs, {len(kept)} held out ({held_out.tokens} tokens); KL before training {start.kl:.4f}",
        flush=True,
    )
    found: dict[str, list[list[float]]] = {"float32 logits": [], "rounded logits": []}
    for seed in range(args.seeds):
        for way, curves in found.items():
            student = copy.deepcopy(untouched)
            with rounded() if way == "rounded logits" else nullcontext():
                curves.append(train(student, teacher, learned, held_out, seed, args, start))
            print(f"seed {seed}, {way}: {' '.join(f'{kl:.4f}' for kl in curves[-1])}", flush=True)
    points = range(len(found["float32 logits"][0]))
    rows = [[way, *(interval([curve[i] for curve in curves]) for i in points)] for way, curves in found.items()]
    last = [a[-1] - b[-1] for a, b in zip(*found.values(), strict=True)]
    print(table(["logits", *(f"KL at point {i}" for i in points)], rows))
    print(f"float32 minus rounded at the end, paired by seed: {interval(last)}")


if __name__ == "__main__":
    main()
