"""The bed of `findings.py`: one start, many ways to go on from it, and what is measured of each; shared by all seven findings.

A student without some layers is fine-tuned on a few texts of its teacher (the same start for all). From there each arm trains as many steps of as many
rows. A seed decides which prompts an arm is trained on, their order, the draws and the rollouts, and all arms of a seed have the same prompts.
"""

import copy
import json
import tempfile
from argparse import Namespace
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import torch
from findings_arms import Arm, ChangedTop, LastThird, beginnings, rounded, train_only, write_rounded
from transformers import TrainerCallback, TrainingArguments

from distill import BlackBoxTrainer, HiddenStates, Logits, WhiteBoxTrainer, generate, make_student
from distill.basics.disk import write_durably
from distill.basics.processes import say
from distill.models.load import fast_dtype
from distill.pairs.collate import PairCollator
from distill.running.stages import block_sample, split_pairs
from distill.signals import capture
from distill.teachers import LocalTeacher
from distill.trainers import Rollouts

FIGURES = {
    "teachers_forward": "teacher's text, KL(teacher to student)",
    "teachers_reverse": "teacher's text, KL(student to teacher)",
    "own_forward": "own text, KL(teacher to student)",
    "own_reverse": "own text, KL(student to teacher)",
}


class Bed:
    """Teacher, texts and start; trains and measures arms.

    Args:
        flags: of `findings.py`.
        teacher: who it is.
    """

    def __init__(self, flags: Namespace, teacher: LocalTeacher) -> None:
        self.flags, self.teacher, self.tokenizer = flags, teacher, teacher.tokenizer
        count = flags.steps * flags.batch
        needed = flags.seeds * count + flags.start_steps * flags.batch + flags.held_out
        out = flags.output
        pairs = generate(
            teacher,
            beginnings(needed),
            max_new_tokens=flags.new_tokens,
            batch_size=64,
            output=out / "pairs.jsonl",
            allow_refusals=True,
        )
        learned, self.kept = split_pairs(pairs, flags.held_out)
        self.first = learned.select(range(flags.start_steps * flags.batch))
        self._rest, self._count = learned.select(range(len(self.first), len(learned))), count

    def pairs_of(self, seed: int) -> datasets.Dataset:
        """What the arms of a seed are trained on: none of it is another seed's (as far as there are enough)."""
        begin = seed * self._count
        return self._rest.select([i % len(self._rest) for i in range(begin, begin + self._count)])

    @cached_property
    def start(self) -> Any:
        """The student that all arms go on from."""
        layers, folder = self.flags.layers, self.flags.output / "start"
        student = make_student(
            self.teacher.model, layers, strategy="block_influence", sample=block_sample(self.first, "block_influence")
        )
        train_only(student, self.flags.trained)
        if (folder / "weights.pt").is_file():
            student.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
            return student
        before = self.figures(student, 0)
        say(f"{layers} layers without training: {before}")
        BlackBoxTrainer(
            model=student,
            train_dataset=self.first,
            processing_class=self.tokenizer,
            args=self._args(0, self.flags.start_steps),
        ).train()
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(student.state_dict(), folder / "weights.part")
        (folder / "weights.part").replace(folder / "weights.pt")
        write_durably(folder / "before.json", json.dumps(before))
        return student

    def _args(self, seed: int, steps: int, folder: str | None = None) -> TrainingArguments:
        flags = self.flags
        return TrainingArguments(
            folder or tempfile.mkdtemp(prefix="findings-"), per_device_train_batch_size=flags.batch, max_steps=steps, learning_rate=flags.learning_rate,
            lr_scheduler_type="linear", warmup_steps=min(2, steps - 1), seed=seed, save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True,
            bf16=fast_dtype() == torch.bfloat16, use_cpu=not torch.cuda.is_available(),
        )  # fmt: skip

    def run(self, name: str, arm: Arm, seed: int) -> dict[str, Any]:
        """Train and measure one arm: figures at each point, and the tokens that carried loss until then; from the file where it was done before."""
        safe = "".join(letter if letter.isalnum() else "_" for letter in name)
        file = self.flags.output / "arms" / f"{safe}-{seed}.json"
        if not file.is_file():
            student, points = copy.deepcopy(self.start), list[dict[str, Any]]()
            if arm.text == "none":
                points.append({"step": 0, "tokens": 0, **self.figures(student, seed)})
            else:
                with tempfile.TemporaryDirectory() as folder:
                    trainer = self._trainer(student, arm, seed, Path(folder))
                    watch = _Watch(self, arm.points, seed, points)
                    watch.count(trainer)
                    trainer.add_callback(watch)
                    trainer.train()
            file.parent.mkdir(parents=True, exist_ok=True)
            write_durably(file, json.dumps({"arm": name, "seed": seed, "points": points}, indent=1))
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found

    def _trainer(self, student: Any, arm: Arm, seed: int, folder: Path) -> Any:
        pairs = self.pairs_of(seed)
        common: dict[str, Any] = {
            "model": student, "train_dataset": pairs, "processing_class": self.tokenizer, "args": self._args(seed, self.flags.steps, str(folder / "run")),
        }  # fmt: skip
        if arm.divergence is None:
            return BlackBoxTrainer(**common)
        teacher: Any = self.teacher
        if arm.stored:
            drawn: dict[str, Any] = {} if arm.stored.startswith("top") else {"seed": seed}
            teacher = capture(
                self.teacher, pairs, output=folder / "signals", encoding=arm.stored, progress=False, **drawn
            )
            if arm.changed:
                teacher = ChangedTop(folder / "signals")
                teacher.how = arm.changed
        objectives: list[Any] = [Logits(arm.divergence, temperature=arm.temperature)]
        if arm.hidden:
            objectives.append(HiddenStates(weight=arm.hidden, distance=arm.distance))
        rollouts = None
        if arm.text == "own":
            kind = LastThird if arm.thirds == "last" else Rollouts
            first = 1 / 3 if arm.thirds == "first" else 1.0
            rollouts = kind(max_new_tokens=self.flags.new_tokens, first=first, look=0, sampler=write_rounded)
        return WhiteBoxTrainer(teacher=teacher, objectives=objectives, rollouts=rollouts, **common)

    def figures(self, student: Any, seed: int) -> dict[str, float]:
        """KL in both directions, nats a token, on held-out text of the teacher and on text that the student writes to the same prompts."""
        student = rounded(student)
        own = generate(
            LocalTeacher(student, self.tokenizer, name="student", chat=False), list(self.kept["prompt"]), max_new_tokens=self.flags.new_tokens, seed=1000 + seed,
            batch_size=64, progress=False, allow_refusals=True,
        )  # fmt: skip
        found = dict(zip(("own_forward", "own_reverse"), self._both_kl(student, own), strict=True))
        found |= dict(zip(("teachers_forward", "teachers_reverse"), self._both_kl(student, self.kept), strict=True))
        return {**found, "ended": sum(reason == "stop" for reason in own["finish_reason"]) / len(own)}

    @torch.no_grad()
    def _both_kl(self, student: Any, pairs: datasets.Dataset) -> tuple[float, float]:
        """KL(teacher to student) and KL(student to teacher)."""
        collate, sums, count = PairCollator(self.tokenizer), torch.zeros(2, dtype=torch.float64), 0
        for place in range(0, len(pairs), 8):
            batch = collate([pairs[i] for i in range(place, min(place + 8, len(pairs)))])
            kept = batch.pop("labels")[:, 1:] != -100
            inputs = {name: batch[name].to(student.device) for name in ("input_ids", "attention_mask")}
            mine, other = (
                model(**inputs).logits[:, :-1][kept].float().log_softmax(-1) for model in (student, self.teacher.model)
            )
            apart = other - mine
            sums += torch.stack(
                [(other.exp() * apart).sum().double().cpu(), -(mine.exp() * apart).sum().double().cpu()]
            )
            count += int(kept.sum())
        return float(sums[0] / count), float(sums[1] / count)


class _Watch(TrainerCallback):
    """Counts tokens with loss, and measures at even distances; the last point is the end."""

    def __init__(self, bed: Bed, points: int, seed: int, found: list[dict[str, Any]]) -> None:
        self.bed, self.points, self.seed, self.found, self.tokens = bed, points, seed, found, 0

    def count(self, trainer: Any) -> None:
        """Look at each batch of the trainer."""
        usual = trainer.compute_loss

        def counted(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self.tokens += int((inputs["labels"][:, 1:] != -100).sum())
            return usual(model, inputs, *args, **kwargs)

        trainer.compute_loss = counted

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure if a point is due."""
        if state.global_step in {round(state.max_steps * (i + 1) / self.points) for i in range(self.points)}:
            model = kwargs["model"]
            self.found.append({"step": state.global_step, "tokens": self.tokens, **self.bed.figures(model, self.seed)})
            model.train()
