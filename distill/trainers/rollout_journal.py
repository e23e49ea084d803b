"""Journal of rollouts: what the student wrote in each step, as pairs to look at; a resumed run goes on in it where its checkpoint was."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from distill.basics.jsonl import parse_line, sealed_line

NAME = "rollouts"


class RolloutJournal:
    """`rollouts.jsonl` in a run's output folder; of further processes, `rollouts-of-process-1.jsonl` and so on.

    Args:
        folder: of the run.
        process: number of this one.
    """

    def __init__(self, folder: Path, process: int = 0) -> None:
        self.path = folder / (f"{NAME}-of-process-{process}.jsonl" if process else f"{NAME}.jsonl")

    def begin(self, step: int) -> None:
        """Keep what was written before this step: what was behind it comes again, or is of another run."""
        if not self.path.exists():
            return
        kept = []
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = parse_line(line, f"{self.path.name}:{number}")
                except ValueError:
                    break  # a kill cut it; nothing whole stands behind it
                if row.get("step", step) >= step:
                    break
                kept.append(line)
        part = self.path.with_suffix(".part")
        part.write_bytes(b"".join(kept))
        part.replace(self.path)

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows behind those that are there. A journal is for looking at: it is not forced to the disk, as a checkpoint is."""
        lines = b"".join(sealed_line(json.loads(json.dumps(row, default=str))) for row in rows)
        if lines:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(lines)
