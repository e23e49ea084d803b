"""The plan in words and tables: cost, and what would fit where it does not."""

import itertools
import time
from typing import Any

import torch

from distill.objectives import Logits
from distill.planning.communication import traffic
from distill.planning.dry_run import TEACHER
from distill.planning.plan import Plan, changed, without_teacher

GIB = 2**30
NEAR = 0.9  # of the memory; above it is said to be close
ORDER = ("student's weights", "teacher's weights", "optimiser states", "gradients")


def gib(size: float) -> str:
    """Such as `1.23 GiB`; with more digits below a tenth."""
    return f"{size / GIB:,.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:,.1f} MiB"


def memory_table(plans: dict[str, Plan]) -> str:
    """What is held at the peak, one column a plan; and how high each part of a step is."""
    names = dict.fromkeys([*ORDER, *(name for planned in plans.values() for name in planned.parts)])
    rows = [["at the peak, one process", *plans]]
    for name in names:
        if any(name in planned.parts for planned in plans.values()):
            sizes = [planned.parts.get(name) for planned in plans.values()]
            rows.append([name, *("-" if size is None else gib(size) for size in sizes)])
    rows.append(["peak", *(gib(planned.peak) for planned in plans.values())])
    rows.append(["reached in the", *(planned.peak_moment for planned in plans.values())])
    moments = dict.fromkeys(name for planned in plans.values() for name in planned.totals)
    for name in (TEACHER, *(moment for moment in moments if moment != TEACHER)):
        if name in moments:
            totals = [planned.totals.get(name) for planned in plans.values()]
            rows.append([f"highest in the {name}", *("-" if total is None else gib(total) for total in totals)])
    return aligned(rows)


def cost_table(plans: dict[str, Plan], rate: float | None, what: str = "") -> str:
    """Operations of a step, beside those of the black box's; in seconds at a measured rate; and what is sent to others."""
    sft = min(planned.student_flops for planned in plans.values() if planned.teacher is None)
    rows = [["a step, one process", *plans]]
    flops = [(planned.teacher_flops, planned.student_flops) for planned in plans.values()]
    rows.append(["teacher forward, TFLOP", *(f"{teacher / 1e12:,.3f}" if teacher else "-" for teacher, _ in flops)])
    rows.append(["student, loss, backward, TFLOP", *(f"{student / 1e12:,.3f}" for _, student in flops)])
    floors = [teacher + sft for teacher, _ in flops]
    rows.append(["floor (teacher forward + SFT step)", *(f"{floor / 1e12:,.3f}" for floor in floors)])
    rows.append(["floor over the SFT step", *(f"{floor / sft:.2f}" for floor in floors)])
    if rate:
        rows.append([f"floor in seconds {what}", *(f"{floor / rate:,.2f}" for floor in floors)])
    sent = [traffic(planned) for planned in plans.values()]
    for name in dict.fromkeys(name for found in sent for name in found):
        rows.append([f"sends: {name}", *(gib(found[name]) if name in found else "-" for found in sent)])
    return aligned(rows)


def advice(planned: Plan, black_box: Plan, limit: int) -> list[str]:
    """Sentences: whether it fits into `limit` bytes a process, and if not, what would.

    Args:
        planned: white or black box.
        black_box: the same without the teacher.
        limit: bytes of a process.
    """
    way = "The black box" if planned.teacher is None else "The white box"
    if planned.peak <= limit:
        close = " That is close: allocators, kernels and a GPU's context need a tenth more." * (
            planned.peak > NEAR * limit
        )
        return [f"{way} fits: {gib(planned.peak)} of {gib(limit)}.{close}"]
    said = [f"{way} does not fit: {gib(planned.peak)} of {gib(limit)}."]
    alone = without_teacher(planned)
    if planned.teacher is not None:
        said += [f"  {fits(size, limit)}: {text}" for size, text in _for_the_teacher(planned, black_box, alone)]
    else:
        said += [f"  {fits(size, limit)}: {text}" for size, text in _sharded(planned)]
    if alone > limit:
        beginning = "Even without the teacher it is" if planned.teacher is not None else "Not divided it is"
        said.append(f"  {beginning} {gib(alone)}; these make the student's side smaller:")
        said += [f"    {fits(size, limit)}: {text}" for size, text in _for_the_student(planned)]
    return said


def fits(size: int, limit: int) -> str:
    """The size, and whether it is within the limit; close: within the last tenth of it."""
    word = "too much" if size > limit else "close" if size > NEAR * limit else "fits"
    return f"{gib(size)}, {word}"


def _for_the_teacher(planned: Plan, black_box: Plan, alone: int) -> list[tuple[int, str]]:
    setting, teacher = planned.setting, planned.teacher
    assert teacher is not None
    found = [
        (
            changed(planned, teacher_bits=bits).peak,
            f"quantising: the teacher in {bits} bits, {gib(teacher.weight_bytes(bits))}",
        )
        for bits in (8, 4)
        if setting.teacher_bits is None or bits < setting.teacher_bits
    ]
    found += _sharded(planned)
    served = (
        f"serving: the teacher ({gib(teacher.weight_bytes())} of weights) on a server, ServerTeacher; a black box then"
    )
    found.append((black_box.peak, served))
    if any(not isinstance(objective, Logits) for objective in setting.objectives):
        return found  # hidden states and maps of every row are too much to keep
    each = 128 * 6 * setting.share
    cached = (
        "caching: the teacher's signals on disk, made before "
        f"(the 128 likeliest tokens at each supervised position: {each * setting.length / 1024:,.0f} KiB a row; not in this "
        "library yet)"
    )
    found.append((alone, cached))
    return found


def _sharded(planned: Plan) -> list[tuple[int, str]]:
    """Everything divided over the processes there are, if they do not do it yet, and over more, where the rows allow them."""
    setting = planned.setting
    counts = [2**power for power in range(1, 12) if setting.processes < 2**power <= setting.batch]
    if setting.processes > 1 and setting.sharding == "none":
        counts = [setting.processes, *counts]
    return [
        (
            changed(planned, processes=count, sharding="fsdp").peak,
            f"sharding: --sharding fsdp over {count} processes (an estimate)",
        )
        for count in counts[:3]
    ]


def _for_the_student(planned: Plan) -> list[tuple[int, str]]:
    changes: dict[str, dict[str, Any]] = {
        "--checkpointing": {"checkpointing": True},
        "--optimiser adamw_8bit": {"optimiser": "adamw_8bit"},
        "--lora_r 16": {"lora_r": 16},
    }
    found = []
    for text, change in changes.items():
        if all(getattr(planned.setting, name) != value for name, value in change.items()):
            found.append((without_teacher(changed(planned, **change)), text))
    return found


def aligned(rows: list[list[str]]) -> str:
    """Columns, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def matrix_rate(dtype: torch.dtype, device: str, size: int = 512) -> float:
    """Operations a second of this machine in matrix products of `size` rows and columns: the best of several."""
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, begun = float("inf"), time.perf_counter()
    for number in itertools.count():
        start = time.perf_counter()
        one @ other
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
        if number >= 3 and time.perf_counter() - begun > 0.5:
            break
    return 2 * size**3 / best
