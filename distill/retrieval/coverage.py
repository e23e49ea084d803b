"""Coverage: how many facts of each kind have training rows, and at which check the others were lost."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from distill.basics.curation_step import Step

EFFECT = "What is left is what the teacher could ask and answer from the passage: hard facts are rarer than in the documents."


@dataclass
class Coverage:
    """What became of facts, from the first question about each to its training rows.

    A filter can remove a whole kind of facts and leave the count of rows looking well; so it is counted per fact and per kind.

    Args:
        kinds: the kind of each fact, by its id; those without any row, too.
        rows: training rows of each fact.
        checked: rows, or wordings, that each check looked at.
        faults: those that it turned down, by why and by kind.
    """

    kinds: dict[str, str] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)
    checked: Counter[str] = field(default_factory=Counter)
    faults: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def look(self, check: str, kind: str, fault: str | None) -> bool:
        """Count one at a check; whether it is kept."""
        self.checked[check] += 1
        if fault is not None:
            self.faults[check, fault, kind] += 1
        return fault is None

    def count(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count training rows to their facts; those of none (replay) are left out."""
        self.rows.update(row["fact"] for row in rows if row["fact"])

    @property
    def lost_kinds(self) -> list[str]:
        """Kinds of which no fact has a row."""
        there = {kind for fact, kind in self.kinds.items() if self.rows[fact]}
        return sorted(set(self.kinds.values()) - there)

    def steps(self) -> list[Step]:
        """Each check as a step of curation."""
        made = []
        for check, count in self.checked.items():
            faults = Counter[str]()
            for (name, fault, _), number in self.faults.items():
                faults[fault] += number if name == check else 0
            told = {fault: number for fault, number in faults.most_common() if number}
            made.append(Step(check, count, count - sum(told.values()), EFFECT, told))
        return made

    def facts_step(self) -> Step:
        """The facts that were asked about, and those with training rows, as a step of curation; what was lost by kind."""
        lost = Counter(kind for fact, kind in self.kinds.items() if not self.rows[fact])
        there = len(self.kinds) - lost.total()
        return Step("facts with training rows", len(self.kinds), there, EFFECT, dict(lost.most_common()))

    def table(self) -> str:
        """For people: the checks with their reasons, and the facts and rows of each kind."""
        lines = []
        for step in self.steps():
            lines.append(f"{step.name}: {step.rows_out} of {step.rows_in} kept")
            lines += [f"  {number:5} {fault}" for fault, number in step.settings.items()]
        facts = Counter(self.kinds.values())
        with_rows = Counter(kind for fact, kind in self.kinds.items() if self.rows[fact])
        rows = Counter[str]()
        for fact, number in self.rows.items():
            rows[self.kinds[fact]] += number
        width = max([len("kind of fact"), *map(len, facts)])
        lines.append(f"{'kind of fact':{width}}  facts  with rows   rows  a fact")
        for kind in [*sorted(facts), "all"]:
            some = (
                (facts[kind], with_rows[kind], rows[kind])
                if kind != "all"
                else (facts.total(), with_rows.total(), rows.total())
            )
            each = some[2] / some[1] if some[1] else 0
            lines.append(f"{kind:{width}}  {some[0]:5}  {some[1]:9}  {some[2]:5}  {each:6.1f}")
        if self.lost_kinds:
            lines.append(f"No row is left of {len(self.lost_kinds)} kinds of facts: {', '.join(self.lost_kinds)}.")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "facts": {fact: {"kind": kind, "rows": self.rows[fact]} for fact, kind in self.kinds.items()},
            "lost_kinds": self.lost_kinds,
            "checks": [step.as_dict() for step in self.steps()],
        }
