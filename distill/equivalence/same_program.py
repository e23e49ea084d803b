"""Same program: independent programs on one list of pairs, all parameters compared after every optimiser step.

Three populations have to come out, orders of magnitude apart: the same bits; the same mathematics in another order of
addition (rounding); another convention, which is another loss. The third shows that the first could have come out
otherwise.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from distill.equivalence.bitwise import obstacles
from distill.equivalence.programs import Job, Trail, black_box, by_hand, has_trl, plain_trainer, trl
from distill.equivalence.results import Section
from distill.pairs.collate import PairCollator

NO_TRL = "skipped: TRL is not installed, or not one that works here (pip install 'distill[peers]')"


@dataclass(frozen=True)
class Rung:
    """One program, or one change, against the hand loop.

    Args:
        kind: `"same"`, `"rounding"` or `"convention"`.
        run: what is compared.
        needs_trl: left out where TRL is not installed.
    """

    name: str
    kind: str
    run: Callable[[Job], Trail]
    needs_trl: bool = False


SAME = [
    Rung("transformers.Trainer", "same", plain_trainer),
    Rung("distill.BlackBoxTrainer", "same", black_box),
    Rung("TRL SFTTrainer, plain cross-entropy", "same", lambda job: trl(job, plain=True), needs_trl=True),
]
ROUNDING = [
    Rung("TRL SFTTrainer as it comes", "rounding", lambda job: trl(job, plain=False), needs_trl=True),
    Rung("logits of supervised positions alone", "rounding", lambda job: black_box(job, supervised_only=True)),
    Rung("eager attention for SDPA", "rounding", lambda job: black_box(_with_kernel(job, "eager"))),
    Rung("rows padded to 64", "rounding", lambda job: plain_trainer(job, PairCollator(job.tokenizer, None, "right", 64))),
    Rung("a window as one batch", "rounding", lambda job: black_box(_one_batch(job))),
    Rung("another number of threads", "rounding", lambda job: _with_other_threads(job)),
    Rung("AdamW without fusion", "rounding", lambda job: black_box(job, optim="adamw_torch")),
]  # fmt: skip
CONVENTIONS = [
    Rung("mean of micro-batch means", "convention", lambda job: mean_of_means(job)),
    Rung("no clipping", "convention", lambda job: black_box(job, max_grad_norm=0.0)),
    Rung("bfloat16 autocast", "convention", lambda job: black_box(job, bf16=True)),
]
# what a user may set and must not matter; name, changes of the settings, dtype of the weights
SETTINGS: list[tuple[str, dict[str, Any], torch.dtype | None]] = [
    ("accumulation 1", {"accumulation": 1}, None),
    ("accumulation 3", {}, None),
    ("accumulation 3, bfloat16 weights", {}, torch.bfloat16),
    ("accumulation 3, gradient checkpointing", {"gradient_checkpointing": True}, None),
]

QUICK = SETTINGS[1:2]


def ladder(job: Job, quick: bool = False) -> Section:
    """Run every rung.

    Args:
        job: start, pairs, settings; accumulation of 2 or more and pairs of unequal length, else some errors stay hidden.
        quick: only accumulation 3, of the settings.
    """
    section = Section("ladder")
    reasons = obstacles(job.start)
    rungs = []
    for setting, changes, dtype in QUICK if quick else SETTINGS:
        start = copy.deepcopy(job.start).to(dtype) if dtype else job.start  # type: ignore[arg-type]
        one = Job(start, job.pairs, job.tokenizer, job.but(**changes).settings)
        reference = by_hand(one)
        rungs += [measure(rung, one, reference, setting) for rung in SAME]
    reference = by_hand(job)
    rungs += [measure(rung, job, reference, "accumulation 3") for rung in ROUNDING + CONVENTIONS]
    section.data = {"steps": len(reference.hashes), "rungs": rungs, "obstacles": reasons}

    for rung in rungs:
        if rung["kind"] == "same":
            claim_equal(section, rung, reasons)
    measured = {
        kind: {r["name"]: r["distance"] for r in rungs if r["kind"] == kind and r["distance"] is not None}
        for kind in ("rounding", "convention")
    }
    peer = measured["rounding"].get("TRL SFTTrainer as it comes")
    text = "TRL SFTTrainer as it comes differs by rounding: it sums in another order"
    if peer is None:
        section.claim(text, NO_TRL, None)
    else:
        section.claim_unless(reasons, text, f"largest difference of a parameter {peer:.1e}", peer < 1e-4)
    worst, least = max(measured["rounding"].values()), min(measured["convention"].values())
    section.claim_unless(
        reasons,
        "Every other convention moves parameters at least ten times as far as every other order of addition",
        f"rounding up to {worst:.1e}, conventions from {least:.1e}",
        least > 10 * worst,
    )
    return section


def claim_equal(section: Section, rung: dict[str, Any], reasons: list[str]) -> None:
    """The claim that one program has the hand loop's bits."""
    text = f"{rung['name']} has the same bits as the hand loop after every step ({rung['setting']})"
    if rung["skipped"]:
        section.claim(text, rung["skipped"], None)
    else:
        measured = f"{rung['equal_steps']} of {rung['steps']} steps equal"
        section.claim_unless(reasons, text, measured, rung["is_equal"])


def mean_of_means(job: Job) -> Trail:
    """What Trainer does with a model that cannot be told the tokens of the whole window: the usual silent error."""
    start = copy.deepcopy(job.start)
    start.accepts_loss_kwargs = False  # type: ignore[assignment]
    return plain_trainer(Job(start, job.pairs, job.tokenizer, job.settings))


def measure(rung: Rung, job: Job, reference: Trail, setting: str) -> dict[str, Any]:
    """One rung against the reference, as plain values."""
    row: dict[str, Any] = {"name": rung.name, "kind": rung.kind, "setting": setting, "steps": len(reference.hashes)}
    if rung.needs_trl and not has_trl():
        return {**row, "skipped": NO_TRL, "equal_steps": None, "is_equal": None, "distance": None}
    trail = rung.run(job)
    return {
        **row,
        "skipped": None,
        "equal_steps": trail.equal_steps(reference),
        "is_equal": trail.is_equal(reference),
        "distance": trail.distance(reference),
    }


def _with_kernel(job: Job, kernel: str) -> Job:
    start: PreTrainedModel = copy.deepcopy(job.start)
    start.set_attn_implementation(kernel)
    return Job(start, job.pairs, job.tokenizer, job.settings)


def _one_batch(job: Job) -> Job:
    return job.but(batch_size=job.settings.batch_size * job.settings.accumulation, accumulation=1)


def _with_other_threads(job: Job) -> Trail:
    with _threads(1 if torch.get_num_threads() > 1 else 2):
        return black_box(job)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
