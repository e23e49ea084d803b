"""On a real model: equality at every step; and two sources of one text, told apart or not by a test of equivalence."""

import copy
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import PreTrainedModel, Trainer

from distill.equivalence.bitwise import obstacles
from distill.equivalence.programs import Job, Settings, by_hand, train_silently
from distill.equivalence.results import Section
from distill.equivalence.same_program import SAME, claim_equal, measure
from distill.evaluation import HeldOut
from distill.models.load import fast_dtype
from distill.pairs import load_pairs
from distill.pairs.collate import PairCollator
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
    section = Section("real", data={"parameters": job.start.num_parameters(), "rungs": []})
    for dtype in (torch.float32, torch.bfloat16):
        one = replace(job, start=copy.deepcopy(job.start).to(dtype))  # type: ignore[arg-type]
        reasons, reference = obstacles(one.start), by_hand(one)
        for rung in SAME:
            row = measure(rung, one, reference, str(dtype).removeprefix("torch."))
            section.data["rungs"].append(row)
            claim_equal(section, row, reasons)
    return section


def sources(
    student: PreTrainedModel,
    teacher: LocalTeacher,
    pairs: datasets.Dataset,
    held_out: datasets.Dataset,
    seeds: int = 12,
) -> Section:
    """The teacher's pairs by `BlackBoxTrainer`, the same text from a file by `transformers.Trainer`, seed by seed.

    The file has text only (and whether it was cut), as a data set written by people might, so its tokens are made anew and
    are not all the same: equality bit for bit is gone, and what is left to ask is whether the difference matters. A third
    source is there to show that the test can see a difference: the same file without the word that a text was cut, so
    that an EOS is put after all of them.

    Two one-sided tests (TOST; Schuirmann 1987) on the paired differences of held-out loss. The margin is a share of a
    spread that is estimated from the same seeds, so the level of 5% is approximate.

    Args:
        student: the start of all trainings.
        teacher: whose text it is.
        pairs, held_out: to train and to measure on.
        seeds: orders of the pairs; the third source gets half as many.
    """
    section = Section("sources")
    from_file, always_ended = (_through_a_file(pairs, teacher, keep_ends=keep) for keep in (True, False))
    held_out_measure = HeldOut(teacher.model, held_out, teacher.tokenizer)

    def losses_on(data: datasets.Dataset, ours: bool, count: int) -> list[float]:
        return [held_out_measure.measure(_train(student, data, teacher, seed, ours)).loss for seed in range(count)]

    first, second = losses_on(pairs, True, seeds), losses_on(from_file, False, seeds)
    third = losses_on(always_ended, False, max(2, seeds // 2))
    spread = statistics.stdev(first)
    margin = MARGIN * spread
    same = paired_tost(first, second, margin)
    other = paired_tost(first[: len(third)], third, margin)
    changed = sum(
        a != b for a, b in zip(pairs["completion_ids"], from_file["completion_ids"], strict=True)
    )  # fmt: skip
    shown = same["p"] < LEVEL
    section.data = {
        "losses": {
            "the teacher's pairs, BlackBoxTrainer": first,
            "the same text from a file, transformers.Trainer": second,
            "the same file, EOS put after cut completions": third,
        },
        "spread": spread, "margin": margin, "same": same, "other": other, "tokenised_otherwise": changed,
        "pairs": len(pairs), "held_out": len(held_out), "layers": student.config.num_hidden_layers,
    }  # fmt: skip
    section.claim(
        f"Teacher's pairs and the same text from a file are equivalent: within {MARGIN:g} of the seed-to-seed spread",
        f"difference {same['mean']:+.4f} +- {same['error']:.4f} nats a token, margin {margin:.4f}, p = {same['p']:.2g} over "
        f"{seeds} seeds; {changed} of {len(pairs)} completions have other tokens"
        + (
            ""
            if shown
            else "; not shown: a test of equivalence that does not reject says nothing, it takes more --seeds"
        ),
        True if shown else None,
    )
    section.claim(
        "The same text with an EOS put after every cut completion is shown to differ by more than that margin",
        f"difference {other['mean']:+.4f} +- {other['error']:.4f} nats a token, p = {other['p_differs']:.2g} over {len(third)} "
        "seeds",
        True if other["p_differs"] < LEVEL else None if not shown else False,
    )
    return section


def _through_a_file(pairs: datasets.Dataset, teacher: LocalTeacher, *, keep_ends: bool) -> datasets.Dataset:
    """Write prompts and completions as text, and read them as pairs; without their ends, all count as having stopped."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for row in pairs:
                end = {"finish_reason": row["finish_reason"]} if keep_ends else {}
                text = {"prompt": row["prompt"], "completion": row["completion"], "teacher": "a person", **end}
                file.write(json.dumps(text) + "\n")
        return load_pairs(path, teacher.tokenizer)


def paired_tost(one: list[float], other: list[float], margin: float) -> dict[str, float]:
    """Two one-sided t tests of |mean difference| < margin, paired (Schuirmann 1987); `p` is the larger of the two.

    `p_differs` is that of the opposite statement, |mean difference| > margin, in the direction of the mean.

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
    inside = abs(mean) < margin
    if error == 0:
        return {"mean": mean, "error": 0.0, "p": float(not inside), "p_differs": float(inside)}
    near, far = ((margin + sign * abs(mean)) / error for sign in (-1, 1))
    free = len(differences) - 1
    return {
        "mean": mean,
        "error": error,
        "p": float(max(t.sf(near, free), t.sf(far, free))),
        "p_differs": float(t.sf(-near, free)),
    }


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
