"""What each training gave and cost, in figures with their intervals, and in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.basics.intervals import Interval, exact_share, over_units
from distill.evaluation.abilities import ABILITIES

WAYS = {"": "", "black": "black box", "white": "white box", "control": "control"}
CONTROLS = {"own": "its own answers, shown nothing", "shuffled": "shuffled facts"}


@dataclass(frozen=True)
class Row:
    """A row of the table: an arm over its seeds.

    Args:
        arm: what was taught, `"untouched"`, or a control (`CONTROLS`).
        way: a key of `WAYS`.
        figures: of each column (ability, or task of `--tasks`), the share of right answers over all probes of all seeds, with the exact
            interval (Clopper and Pearson 1934); a bootstrap where a task gives more than right and wrong.
        n: of each column, how many answers.
        changes: of each ability its difference to the untouched model on the very same probes, with a bootstrap interval.
        kl: to the start, nats a token, of each seed.
        single: of each ability, the share of each seed.
    """

    arm: str
    way: str
    figures: dict[str, Interval]
    n: dict[str, int]
    changes: dict[str, Interval]
    kl: list[float]
    single: dict[str, list[float]]

    @property
    def title(self) -> str:
        """As the table says it."""
        if self.arm == "untouched":
            return "untouched"
        return f"control: {CONTROLS[self.arm]}" if self.arm in CONTROLS else f"{self.arm}, {WAYS[self.way]}"

    def moved(self, ability: str) -> int:
        """1 where it is better than the untouched model and its interval leaves 0 out, -1 where it is worse, else 0."""
        change = self.changes[ability]
        return 1 if change.low > 0 else -1 if change.high < 0 else 0


def table_rows(results: Mapping[str, Any]) -> list[Row]:
    """The rows of `abilities.json`, in their order.

    The units of both intervals are the probes, of all seeds together; that trainings differ, too, is in neither, so look at `Row.single`.
    """
    by_arm: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run in results["runs"]:
        by_arm.setdefault((run["arm"], run["way"]), []).append(run)
    start = _right(by_arm["untouched", ""])
    return [_row(arm, way, runs, start) for (arm, way), runs in by_arm.items()]


def columns_of(rows: list[Row]) -> list[str]:
    """The abilities, and the tasks that were run beside them."""
    return [
        *(name for name in ABILITIES if name in rows[0].figures),
        *(n for n in rows[0].figures if n not in ABILITIES),
    ]


def verdict(results: Mapping[str, Any]) -> list[str]:
    """Sentences, each from figures: what was learned, what the controls did, what the trainings did to everything else."""
    rows = table_rows(results)
    columns = columns_of(rows)
    start, controls = rows[0], [row for row in rows if row.arm in CONTROLS]
    taught = [row for row in rows if row not in controls and row is not start]
    said = []
    for ability in dict.fromkeys(row.arm for row in taught):
        ways = ", ".join(
            f"{_percent(row.figures[ability])} after the {WAYS[row.way]}{_mark(row, ability)}"
            for row in taught
            if row.arm == ability
        )
        said.append(f"{ability.capitalize()}: {_percent(start.figures[ability])} before, {ways}.")
    for row in controls:
        gained = [name for name in columns if row.moved(name) > 0]
        said.append(
            f"The {row.title} gained nothing."
            if not gained
            else f"The {row.title} gained in {' and '.join(gained)}, so a gain there says little of what was taught."
        )
    said += _beside(taught, -1, "lost") + _beside(taught, 1, "gained, though not taught")
    lost = [row for row in taught if any(row.moved(name) < 0 for name in columns if name != row.arm)]
    if not lost:
        said.append(
            "No training lost an ability that it did not teach by more than its interval (with so few probes, only large losses are seen)."
        )
    return said


def _beside(taught: list[Row], sign: int, word: str) -> list[str]:
    """What trainings did to abilities that they did not teach."""
    found = [
        f"{row.title}: {name} ({100 * row.changes[name].mean:+.0f} points)"
        for row in taught
        for name in row.figures
        if name != row.arm and row.moved(name) == sign
    ]
    return [f"Beside what was taught, {word}: {'; '.join(found)}."] if found else []


def _mark(row: Row, ability: str) -> str:
    return "" if row.moved(ability) else " (its interval does not leave out no change)"


def _row(arm: str, way: str, runs: list[Mapping[str, Any]], start: Mapping[str, Mapping[Any, float]]) -> Row:
    right = _right(runs)
    single = {}
    for column, answers in right.items():
        seeds = dict.fromkeys(seed for seed, _ in answers)
        single[column] = [float(np.mean([v for (s, _), v in answers.items() if s == seed])) for seed in seeds]
    return Row(
        arm,
        way,
        {column: _figure(list(answers.values())) for column, answers in right.items()},
        {column: len(answers) for column, answers in right.items()},
        {
            column: _mean([value - start[column][key] for key, value in answers.items()])
            for column, answers in right.items()
        },
        [float(run["kl"]) for run in runs],
        single,
    )


def _figure(values: list[float]) -> Interval:
    if all(value in (0, 1) for value in values):
        share = exact_share(int(sum(values)), len(values))
        return Interval(share.mean, share.low, share.high)
    return _mean(values)


def _mean(values: list[float]) -> Interval:
    table = np.array(values)
    return over_units(lambda counts: counts @ table / counts.sum(1), len(table))


def _right(runs: list[Mapping[str, Any]]) -> dict[str, dict[Any, float]]:
    """Of each column, by seed and probe how right the answer was: 0 or 1, but for some tasks."""
    found: dict[str, dict[Any, float]] = {}
    for run in runs:
        for one in run["answers"]:
            found.setdefault(one["ability"], {})[run["seed"], one["probe"]] = float(one["right"])
    return found


def _percent(share: Interval) -> str:
    return f"{share.mean:.0%}"
