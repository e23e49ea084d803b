"""Two real families with two tokenizers, in both directions: black box alone, aligned alone, and both. Nats a byte, over seeds.

    python scripts/two_families.py --output runs/two_families        # SmolLM2-135M and Gemma-3-270M (its terms are shown when it is fetched); goes on where it stopped

The teacher goes on from bare beginnings of texts; the student is the other family's whole model, and its pairs are that text in its own tokens. Measured is the KL from
teacher to student between texts, estimated on held-out texts of the teacher: (the teacher's log-likelihood less the student's) / bytes. It needs no alignment, so it is no
arm's own measure; that a text can be written in other tokens, too, makes it too large by the same for all. A seed decides the texts that are trained on and their
order; intervals are Student's t over seeds, of differences at the same seed. The control is a training at a learning rate of 0, which must end where it began.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import copy

import datasets
import torch
from findings_arms import beginnings, rounded, train_only
from measuring import machine, table
from transformers import TrainingArguments

from distill import BlackBoxTrainer, Logits, WhiteBoxTrainer, generate
from distill.basics.disk import write_durably
from distill.basics.processes import say
from distill.evaluation.accuracy import over_seeds
from distill.models.load import fast_dtype, load_model, load_tokenizer
from distill.pairs import retokenize
from distill.pairs.aligned_rows import AlignedRows
from distill.pairs.collate import PairCollator
from distill.teachers import LocalTeacher

BLACK, ALIGNED, BOTH, STILL = "black box alone", "aligned alone", "both", "both, learning rate 0"
WAYS = (BLACK, ALIGNED, BOTH, STILL)


def plain_tokenizer(name: str) -> Any:
    """Without a chat template: both sides go on from bare text, which a base model is made for."""
    tokenizer = load_tokenizer(name)
    tokenizer.chat_template = None
    return tokenizer


@torch.no_grad()
def nats(model: Any, pairs: datasets.Dataset, tokenizer: Any) -> list[float]:
    """Of each pair, -log-likelihood of its completion, ends included."""
    collate, found = PairCollator(tokenizer), list[float]()
    for place in range(0, len(pairs), 8):
        batch = collate([pairs[i] for i in range(place, min(place + 8, len(pairs)))])
        labels = batch["labels"][:, 1:]
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        for row, wanted in zip(logits, labels, strict=True):
            kept = wanted != -100
            found.append(float(torch.nn.functional.cross_entropy(row[kept].float(), wanted[kept], reduction="sum")))
    return found


class Direction:
    """A teacher of one family and a student of the other."""

    def __init__(self, teacher: str, student: str, flags: argparse.Namespace) -> None:
        self.flags, self.names = flags, (teacher, student)
        self.teacher = LocalTeacher(
            load_model(teacher, dtype=fast_dtype()), plain_tokenizer(teacher), name=teacher, chat=False
        )
        self.tokenizer, self.folder = (
            plain_tokenizer(student),
            flags.output / f"{Path(teacher).name} to {Path(student).name}",
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.count = flags.steps * flags.batch
        texts = generate(
            self.teacher, beginnings(flags.seeds * self.count + flags.held_out), max_new_tokens=flags.new_tokens, batch_size=64, seed=0,
            output=self.folder / "pairs.jsonl", allow_refusals=True,
        )  # fmt: skip
        texts = texts.filter(lambda row: bool(row["completion"].strip()))
        self.texts = texts.select(range(flags.held_out))
        self.learned = retokenize(texts.select(range(flags.held_out, len(texts))), self.tokenizer)
        self.kept = retokenize(self.texts, self.tokenizer)
        self.bytes = sum(len(text.encode()) for text in self.texts["completion"])
        self.theirs = nats(self.teacher.model, self.texts, self.teacher.tokenizer)
        self.start = load_model(student, dtype=torch.float32)
        train_only(self.start, flags.trained)
        self.coverage = AlignedRows(self.tokenizer, self.teacher.tokenizer).coverage(self.learned)

    def kl(self, student: Any) -> float:
        """Nats a byte."""
        return (sum(nats(rounded(student), self.kept, self.tokenizer)) - sum(self.theirs)) / self.bytes

    def run(self, way: str, seed: int) -> dict[str, float]:
        """Train and measure; from the file where it was done before."""
        file = self.folder / f"{way.replace(' ', '_').replace(',', '')}-{seed}.json"
        if not file.is_file():
            student = copy.deepcopy(self.start)
            self._train(student, way, seed)
            write_durably(file, json.dumps({"kl": self.kl(student)}))
        found: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
        return found

    def before(self) -> float:
        """KL of the untrained student."""
        file = self.folder / "before.json"
        if not file.is_file():
            write_durably(file, json.dumps({"kl": self.kl(self.start)}))
        return float(json.loads(file.read_text(encoding="utf-8"))["kl"])

    def _train(self, student: Any, way: str, seed: int) -> None:
        flags, begin = self.flags, seed * self.count
        steps = 1 if way == STILL else flags.steps  # at 0 one step is as good as many
        with tempfile.TemporaryDirectory() as folder:
            args = TrainingArguments(
                folder, per_device_train_batch_size=flags.batch, max_steps=steps, learning_rate=0.0 if way == STILL else flags.learning_rate,
                lr_scheduler_type="linear", warmup_steps=min(2, steps - 1), seed=seed, save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True,
                bf16=fast_dtype() == torch.bfloat16, use_cpu=not torch.cuda.is_available(),
            )  # fmt: skip
            common: dict[str, Any] = {
                "model": student, "args": args, "processing_class": self.tokenizer,
                "train_dataset": self.learned.select([i % len(self.learned) for i in range(begin, begin + self.count)]),
            }  # fmt: skip
            if way == BLACK:
                BlackBoxTrainer(**common).train()
                return
            objective = Logits("forward_kl", tokens="aligned", cross_entropy=0.0 if way == ALIGNED else 1.0)
            WhiteBoxTrainer(teacher=self.teacher, objectives=[objective], **common).train()


def shown(values: list[float]) -> str:
    """Mean and half of the 95% interval."""
    middle, half = over_seeds(values)
    return f"{middle:+.4f}" + ("" if half == float("inf") else f" ± {half:.4f}")


def main() -> None:
    """Both directions, all ways and seeds; a table of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models", nargs=2, default=["gemma3-270m", "smollm2-135m"])
    parser.add_argument("--held_out", type=int, default=40)
    parser.add_argument("--new_tokens", type=int, default=24)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument(
        "--trained", default="down_proj", help="only weights whose name has this in it are trained; empty: all"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--directions", type=int, nargs="+", default=[0, 1], help="0: the first teaches the second; 1: the other way"
    )
    flags = parser.parse_args()
    for number in flags.directions:
        direction = Direction(flags.models[number], flags.models[1 - number], flags)
        before = direction.before()
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        for seed in range(flags.seeds):
            for way in WAYS:
                found[way].append(direction.run(way, seed)["kl"])
                say(
                    f"{' to '.join(direction.names)}, seed {seed}, {way}: {found[way][-1]:.4f} nats a byte, {before:.4f} before"
                )
        rows = [
            [way, ", ".join(f"{kl:.4f}" for kl in kls), shown([kl - before for kl in kls]), *("-" if way == other else shown([a - b for a, b in zip(kls, found[other], strict=True)]) for other in (BLACK, ALIGNED))]
            for way, kls in found.items()
        ]  # fmt: skip
        text = (
            f"{' teaches '.join(direction.names)}; {machine('cpu')}; {flags.steps} steps of {flags.batch} rows of {flags.new_tokens} new tokens, {flags.held_out} held-out texts of "
            f"{direction.bytes} bytes; {before:.4f} nats a byte before. {direction.coverage}.\n\n"
            + table(["way", "nats a byte by seed", "less before", f"less {BLACK}", f"less {ALIGNED}"], rows)
        )
        (direction.folder / "table.md").write_text(text, encoding="utf-8")
        say(text)
        if max(abs(kl - before) for kl in found[STILL]) > 1e-6:
            raise SystemExit(f"The control moved: {found[STILL]} from {before}. Nothing above can be believed.")


if __name__ == "__main__":
    main()
