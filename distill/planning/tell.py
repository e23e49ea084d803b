"""A plan in words: tables, cost, and what would fit where it does not."""

import itertools
import time
from dataclasses import replace

import torch

from distill.planning.dry_run import TEACHER
from distill.planning.plan import Plan, plan, with_teacher_in, without_teacher

GIB = 2**30
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
            rows.append([name, *(gib(planned.parts.get(name, 0)) for planned in plans.values())])
    rows.append(["peak", *(gib(planned.peak) for planned in plans.values())])
    rows.append(["reached in the", *(planned.peak_moment for planned in plans.values())])
    moments = dict.fromkeys(name for planned in plans.values() for name in planned.totals)
    for name in (TEACHER, *(moment for moment in moments if moment != TEACHER)):
        if name in moments:
            totals = [planned.totals.get(name) for planned in plans.values()]
            rows.append([f"highest in the {name}", *("-" if total is None else gib(total) for total in totals)])
    return aligned(rows)


def cost_table(plans: dict[str, Plan], rate: float | None, what: str = "") -> str:
    """Operations of a step, beside those of the black box's; in seconds at a measured rate."""
    sft = min(planned.student_flops for planned in plans.values() if planned.teacher is None)
    rows = [["a step, one process", *plans]]
    flops = [(planned.teacher_flops, planned.student_flops) for planned in plans.values()]
    rows.append(["teacher forward, TFLOP", *(f"{teacher / 1e12:,.3f}" for teacher, _ in flops)])
    rows.append(["student, loss, backward, TFLOP", *(f"{student / 1e12:,.3f}" for _, student in flops)])
    floors = [teacher + sft for teacher, _ in flops]
    rows.append(["floor (teacher forward + SFT step)", *(f"{floor / 1e12:,.3f}" for floor in floors)])
    rows.append(["floor over the SFT step", *(f"{floor / sft:.2f}" for floor in floors)])
    if rate:
        rows.append([f"floor in seconds {what}", *(f"{floor / rate:,.2f}" for floor in floors)])
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
        return [f"{way} fits: {gib(planned.peak)} of {gib(limit)}."]
    said = [f"{way} does not fit: {gib(planned.peak)} of {gib(limit)}."]
    alone = without_teacher(planned)
    if planned.teacher is not None:
        said += [f"  {fits(size, limit)}: {text}" for size, text in _for_the_teacher(planned, black_box, alone)]
    if alone > limit:
        beginning = "Even without the teacher" if planned.teacher is not None else "For the student"
        said.append(f"  {beginning} it is {gib(alone)}; these make the student's side smaller:")
        said += [f"    {fits(size, limit)}: {text}" for size, text in _for_the_student(black_box)]
    return said


def fits(size: int, limit: int) -> str:
    """The size, and whether it is within the limit."""
    return f"{gib(size)}, {'fits' if size <= limit else 'too much'}"


def _for_the_teacher(planned: Plan, black_box: Plan, alone: int) -> list[tuple[int, str]]:
    setting, teacher = planned.setting, planned.teacher
    assert teacher is not None
    found = [
        (with_teacher_in(planned, bits), f"quantising: the teacher in {bits} bits, {gib(teacher.weight_bytes(bits))}")
        for bits in (8, 4)
        if setting.teacher_bits is None or bits < setting.teacher_bits
    ]
    for processes in _more_processes(setting.processes, setting.batch):
        sharded = _on(planned, processes)
        found.append((sharded, f"sharding: --sharding fsdp over {processes} processes (an estimate from above)"))
    served = (
        f"serving: the teacher ({gib(teacher.weight_bytes())} of weights) on a server, ServerTeacher; a black box then"
    )
    found.append((black_box.peak, served))
    each = 128 * 6 * setting.share
    cached = (
        "caching: the teacher's signals on disk, made before "
        f"(the 128 likeliest tokens at each supervised position: {each * setting.length / 1024:,.0f} KiB a row; not in this "
        "library yet)"
    )
    found.append((alone, cached))
    return found


def _for_the_student(black_box: Plan) -> list[tuple[int, str]]:
    setting, found = black_box.setting, []
    changes = {
        "--checkpointing": replace(setting, checkpointing=True),
        "--optimiser adamw_8bit": replace(setting, optimiser="adamw_8bit"),
        "--lora_r 16": replace(setting, lora_r=16),
    }
    for text, changed in changes.items():
        if changed != setting:
            found.append((plan(changed, black_box.student).peak, f"{text} (as a black box)"))
    return found


def _more_processes(now: int, batch: int) -> list[int]:
    """The next three powers of two that the rows allow."""
    counts = [2**power for power in range(1, 12) if 2**power > now and 2**power <= batch]
    return counts[:3]


def _on(planned: Plan, processes: int) -> int:
    """Bytes with everything sharded over so many processes and the batch divided over them."""
    setting = replace(planned.setting, processes=processes, sharding="fsdp")
    return plan(setting, planned.student, planned.teacher).peak


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
