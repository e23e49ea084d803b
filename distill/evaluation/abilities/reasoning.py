"""Arithmetic and reasoning: tasks of `reasoning-gym`, whose answers are one number."""

from typing import Any

from distill.basics.fingerprint import fingerprint
from distill.curation.verifiers.tasks import task_rows
from distill.evaluation.abilities.checks import Check
from distill.evaluation.abilities.probe import PURPOSES, Probe

TASKS: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2},
    "leg_counting": {"min_animals": 1, "max_animals": 2, "min_instances": 1, "max_instances": 6},
    "letter_counting": {"min_words": 3, "max_words": 6},
}
INSTRUCTION = "\nAnswer with the number only."
_GROUPS = 32  # of seeds; questions of two groups, and of two purposes, are never the same
_DRAWN = (
    100_003  # rows of a task are drawn from here on for the next seed, since row i of seed s is row 0 of seed s + i
)


def made(seed: int, n: int, purpose: str) -> list[Probe]:
    """Probes: the tasks take turns.

    A question belongs, by its hash, to one purpose and one of 32 groups of seeds, so that teaching and examining share none, nor do seeds of
    two groups; two seeds that are 32 apart may, as rarely as chance does it.

    Raises:
        ValueError: the extra `tasks` is missing.
    """
    found: list[Probe] = []
    rows = {task: _questions(task, seed, -(-n // len(TASKS)), purpose) for task in TASKS}
    for number in range(n):
        task = list(TASKS)[number % len(TASKS)]
        row = rows[task][number // len(TASKS)]
        check = Check((("number", str(row["answer"])),))
        found.append(Probe(f"reasoning-{number:03}", "reasoning", task, row["prompt"], check, 16, seed=seed))
    return found


def _questions(task: str, seed: int, n: int, purpose: str) -> list[dict[str, Any]]:
    wanted, found = (PURPOSES.index(purpose), seed % _GROUPS), dict[str, dict[str, Any]]()
    size, drawn = n * 2 * _GROUPS * 2, 0
    while len(found) < n:
        for row in task_rows(task, size, seed * _DRAWN + drawn, instruction=INSTRUCTION, **TASKS[task]):
            place = int(fingerprint(row["prompt"]), 16)
            if (place % 2, place // 2 % _GROUPS) == wanted and len(found) < n:
                found[row["prompt"]] = row
        drawn += size
    return list(found.values())
