"""On a real model: equality at every step; and two sources of one text, told apart or not by a test of equivalence."""

import copy
import statistics
import tempfile
from dataclasses import replace
from typing import Any

import datasets
import torch
from transformers import PreTrainedModel, Trainer

from distill.collate import PairCollator
from distill.equivalence.ladder import NO_TRL
from distill.equivalence.obstacles import obstacles
from distill.equivalence.programs import Job, Settings, black_box, by_hand, has_trl, plain_trainer, train_silently, trl
from distill.equivalence.results import Section
from distill.evaluation import HeldOut
from distill.generation import generate
from distill.models import fast_dtype
from distill.pairs import retokenize
from distill.teachers import LocalTeacher
from distill.trainers.black_box import BlackBoxTrainer

# Stated before any of these trainings was run: two sources are equivalent if the mean difference of their held-out losses
# is shown, at level 5%, to be smaller than this share of the spread that the order of the pairs alone (the seed) causes.
MARGIN = 0.5
LEVEL = 0.05


def real(job: Job) -> Section:
    """Hand loop, `transformers.Trainer`, `BlackBoxTrainer` and TRL on a student cut from the teacher, in both precisions.

    Args:
        job: start, pairs and settings; a few steps are enough, because every step is compared.
    """
    section = Section("real")
    for dtype in (torch.float32, torch.bfloat16):
        start = copy.deepcopy(job.start).to(dtype)  # type: ignore[arg-type]
        one = replace(job, start=start)
        reference, reasons = by_hand(one), obstacles(start)
        for name, program in (
            ("transformers.Trainer", plain_trainer),
            ("distill.BlackBoxTrainer", black_box),
            ("TRL SFTTrainer, plain cross-entropy", lambda job: trl(job, plain=True)),
        ):
            text = f"{name} has the same bits as the hand loop after every step ({str(dtype).removeprefix('torch.')})"
            if name.startswith("TRL") and not has_trl():
                section.claim(text, NO_TRL, None)
                continue
            trail = program(one)
            measured = f"{trail.equal_steps(reference)} of {len(reference.hashes)} steps equal"
            if reasons:
                section.claim(text, f"not claimed: {'; '.join(reasons)}", None)
            else:
                section.claim(text, f"{measured}; {start.num_parameters():,} parameters", trail.is_equal(reference))
    return section


def sources(
    student: PreTrainedModel, teacher: LocalTeacher, pairs: datasets.Dataset, held_out: datasets.Dataset, seeds: int = 6
) -> Section:
    """The teacher's pairs by `BlackBoxTrainer`, the same text from a file by `transformers.Trainer`, one seed at a time.

    The file has text only, as a data set written by people would, so its tokens are made anew and are not all the same:
    equality bit for bit is gone, and what is left to ask is whether the difference matters. A third source is there to show
    that the test can say no: the same prompts, answered at temperature 0.5.

    Two one-sided tests (TOST; Schuirmann 1987) on the paired differences of held-out loss.
    """
    section = Section("sources")
    from_file = retokenize(pairs, teacher.tokenizer)
    surer = generate(
        teacher, pairs["prompt"], max_new_tokens=max(map(len, pairs["completion_ids"])), temperature=0.5, progress=False
    )
    measure = HeldOut(teacher.model, held_out, teacher.tokenizer)
    arms: dict[str, tuple[datasets.Dataset, bool]] = {
        "the teacher's pairs, BlackBoxTrainer": (pairs, True),
        "the same text from a file, transformers.Trainer": (from_file, False),
        "the teacher at temperature 0.5, BlackBoxTrainer": (surer, True),
    }
    losses = {
        name: [measure.measure(_train(student, data, teacher, seed, ours)).loss for seed in range(seeds)]
        for name, (data, ours) in arms.items()
    }
    first, second, third = losses.values()
    spread = statistics.stdev(first)
    margin = MARGIN * spread
    same, other = (paired_tost(first, values, margin) for values in (second, third))
    emitted = dict(zip(pairs["id"], pairs["completion_ids"], strict=True))
    changed = sum(emitted[row["id"]] != row["completion_ids"] for row in from_file)
    section.data = {
        "losses": losses, "spread": spread, "margin": margin, "same": same, "other": other, "tokenised_otherwise": changed,
        "pairs": len(pairs), "held_out": len(held_out),
    }  # fmt: skip
    section.claim(
        f"Teacher's pairs and the same text from a file are equivalent: within {MARGIN:g} of the seed-to-seed spread",
        f"difference {same['mean']:+.5f} +- {same['error']:.5f} nats a token, margin {margin:.5f}, p = {same['p']:.2g} over "
        f"{seeds} seeds{'' if same['p'] < LEVEL else ': not shown, it takes more seeds'}; {changed} of {len(pairs)} completions "
        "have other tokens",
        # a test of equivalence that does not reject says nothing against equivalence: more seeds are needed
        True if same["p"] < LEVEL else None,
    )
    section.claim(
        "The same test does not call another teacher (temperature 0.5) equivalent",
        f"difference {other['mean']:+.5f} +- {other['error']:.5f} nats a token, p = {other['p']:.2g}",
        other["p"] >= LEVEL,
    )
    return section


def paired_tost(one: list[float], other: list[float], margin: float) -> dict[str, float]:
    """Two one-sided t tests of |mean difference| < margin, paired (Schuirmann 1987); `p` is the larger of the two.

    Raises:
        ValueError: fewer than 2 pairs, or SciPy is not installed.
    """
    differences = [b - a for a, b in zip(one, other, strict=True)]
    if len(differences) < 2:
        raise ValueError(f"There are {len(differences)} seeds; a paired test needs at least 2.")
    try:
        from scipy.stats import t
    except ImportError:
        raise ValueError("The test of equivalence needs the 'scipy' package: pip install 'distill[report]'.") from None
    mean, error = statistics.fmean(differences), statistics.stdev(differences) / len(differences) ** 0.5
    if error == 0:
        return {"mean": mean, "error": 0.0, "p": 0.0 if abs(mean) < margin else 1.0}
    below, above = ((margin + sign * mean) / error for sign in (1, -1))
    return {"mean": mean, "error": error, "p": float(max(t.sf(below, len(one) - 1), t.sf(above, len(one) - 1)))}


def _train(start: PreTrainedModel, pairs: Any, teacher: LocalTeacher, seed: int, ours: bool) -> PreTrainedModel:
    settings = Settings(batch_size=4, accumulation=1, epochs=1, learning_rate=3e-4, weight_decay=0.0, seed=seed)
    student = copy.deepcopy(start)
    with tempfile.TemporaryDirectory() as folder:
        args = settings.arguments(folder, bf16=fast_dtype() == torch.bfloat16, remove_unused_columns=False)
        if ours:
            trainer: Trainer = BlackBoxTrainer(
                model=student, args=args, train_dataset=pairs, processing_class=teacher.tokenizer
            )
        else:
            trainer = Trainer(
                model=student, args=args, train_dataset=pairs, data_collator=PairCollator(teacher.tokenizer)
            )
        train_silently(trainer)
    return student.eval()
