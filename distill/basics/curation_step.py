"""The record of a curation step: what was done to pairs between teacher and training, for reports and cards."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Step:
    """A step that kept some rows and removed others.

    Args:
        name: what it is called in a table, e.g. `"near duplicates"`.
        rows_in, rows_out: counts before and after.
        effect: one sentence: what this does to the distribution that is distilled.
        settings: plain values that decide it.
        examples: some of what was removed, shortened for people.
        changed: rows that are kept with another text.
    """

    name: str
    rows_in: int
    rows_out: int
    effect: str
    settings: dict[str, Any] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    changed: int = 0

    @property
    def removed(self) -> int:
        """Rows that are gone."""
        return self.rows_in - self.rows_out

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        share = self.removed / self.rows_in if self.rows_in else 0.0
        changed = f", {self.changed} changed" if self.changed else ""
        return f"{self.name}: {self.removed} of {self.rows_in} rows removed ({share:.1%}){changed}. {self.effect}"


def steps_table(steps: Sequence[Step]) -> str:
    """A Markdown table of steps, with the effect of each in words."""
    lines = [
        "| step | rows in | rows out | removed | what it does to the distilled distribution |",
        "|---|---|---|---|---|",
    ]
    rows = [(s.name, s.rows_in, s.rows_out, s.removed, s.effect) for s in steps]
    # p(y|x) would end a cell
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
