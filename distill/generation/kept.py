"""Kept: what a call of `generate` has finished, in memory or in a journal, by one process or shared by all of a run.

Several processes share a journal through parts: each writes `pairs.jsonl.part-0`, `-1`, ... beside it, a journal of its own with its
own lock, and the first process takes them all into `pairs.jsonl` at the end. What a killed run left in parts is taken in when the
next one begins, with however many processes. A part is removed when its rows are on the disk in the whole.
"""

import os
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any, TypeVar

from distill.basics import processes
from distill.generation.journal import Journal
from distill.generation.journal_rows import JournalRows
from distill.generation.journal_settings import settings_file
from distill.generation.refusals import RefusalFile, Refused

T = TypeVar("T")
MOST_AT_ONCE = 256  # rows in one write


class Kept:
    """Rows by id, and refusals; `keep` adds to both, on disk where there is a journal.

    Args:
        journal: where this process writes; None: in memory.
        before: rows that are there already, in the journal of the whole.
        refusals: recorded ones.
        place, places: of this process among those that share the work.
    """

    def __init__(
        self,
        journal: Journal | None = None,
        before: Mapping[str, dict[str, Any]] | None = None,
        refusals: RefusalFile | None = None,
        place: int = 0,
        places: int = 1,
    ) -> None:
        self._journal, self.file, self._place, self._places = journal, refusals, place, places
        self._memory: dict[str, dict[str, Any]] = {}
        own: Mapping[str, dict[str, Any]] = journal.rows if journal else self._memory
        maps: list[Any] = [own, before or {}]
        self.rows: Mapping[str, dict[str, Any]] = ChainMap(*maps)
        self.refused: list[Refused] = []

    def keep(self, finished: list[dict[str, Any]], refused: list[Refused]) -> None:
        """Write rows and refusals."""
        self.refused.extend(refused)
        try:
            if self._journal:
                self._journal.append(finished)
            else:
                self._memory.update((row["id"], row) for row in finished)
        finally:  # answers were paid for, whatever became of the rows beside them
            if self.file:
                self.file.add(refused)

    def share_of(self, items: Sequence[T]) -> Sequence[T]:
        """Those that this process does."""
        return items[self._place :: self._places]

    def in_memory(self) -> dict[str, dict[str, Any]]:
        """Rows that are nowhere else."""
        return self._memory


@contextmanager
def kept_in(
    output: str | os.PathLike[str] | None, settings: dict[str, Any], incidental: Mapping[str, Any], share: bool
) -> Iterator[Kept]:
    """Where finished rows go; after the block its `rows` are those of all processes, and so are its refusals.

    Args:
        output: a journal; None keeps rows in memory.
        settings, incidental: of the journal.
        share: all processes of this run are in this block, and each does its share.

    Raises:
        ValueError: as `Journal`; an output that the processes do not share.
    """
    if output is not None and Path(output).is_symlink():
        output = Path(output).resolve()  # as a journal does: its parts lie beside the file itself
    places = processes.count() if share and processes.meet() else 1
    if places == 1:
        with _alone(output, settings, incidental) as kept:
            yield kept
        return
    place = processes.rank()
    if output is None:
        kept = Kept(place=place, places=places)
        yield kept
        rows = {key: row for part in processes.from_all(kept.in_memory()) for key, row in part.items()}
    else:
        whole = Path(output)
        with processes.first_then_others():
            if processes.is_main():
                _take_in(whole, settings, incidental)
        part = whole.with_name(f"{whole.name}.part-{place}")
        with Journal(part, settings) as journal:
            kept = Kept(journal, JournalRows(whole), RefusalFile(part, before=whole), place, places)
            yield kept
            own = len(journal.rows)
        written = sum(processes.from_all(own))  # and a barrier: all parts are closed
        with processes.first_then_others():
            if processes.is_main() and (found := _take_in(whole, settings, incidental)) < written:
                raise ValueError(
                    f"{places} processes wrote {written} pairs beside {whole}, and {found} of them are seen here; give an output on a "
                    "disk that all of them share."
                )
        rows = JournalRows(whole)  # type: ignore[assignment]
    kept.rows = rows
    kept.refused = [one for part in processes.from_all(kept.refused) for one in part]


@contextmanager
def _alone(
    output: str | os.PathLike[str] | None, settings: dict[str, Any], incidental: Mapping[str, Any]
) -> Iterator[Kept]:
    if output is None:
        yield Kept()
        return
    with Journal(output, settings, incidental=incidental) as journal:
        if journal.torn:
            processes.tell(f"{journal.path} ended in a torn line of {journal.torn} bytes; its pair is asked for again.")
        _take_in_parts(journal, settings)
        kept = Kept(journal, refusals=RefusalFile(journal.path))
        yield kept
        assert kept.file is not None
        kept.file.close(kept.rows.__contains__)


def _take_in(whole: Path, settings: dict[str, Any], incidental: Mapping[str, Any]) -> int:
    with Journal(whole, settings, incidental=incidental) as journal:
        taken = _take_in_parts(journal, settings)
        RefusalFile(journal.path).close(journal.rows.__contains__)
    return taken


def _take_in_parts(whole: Journal, settings: dict[str, Any]) -> int:
    """How many rows the parts had; they are in the whole now, and the parts are gone."""
    taken, paths = 0, sorted(whole.path.parent.glob(f"{escape(whole.path.name)}.part-*"))
    for path in paths:
        if not path.name.removeprefix(f"{whole.path.name}.part-").isdigit():
            continue  # its settings, its lock, its refusals
        with Journal(path, settings) as part:
            rows = list(part.rows)
            for first in range(0, len(rows), MOST_AT_ONCE):
                whole.append([part.rows[key] for key in rows[first : first + MOST_AT_ONCE]])
            refusals = RefusalFile(path)
            RefusalFile(whole.path).take_in(refusals)
        whole.flush()
        taken += len(rows)
        for file in (refusals.path, path, settings_file(path), path.with_name(f"{path.name}.lock")):
            file.unlink(missing_ok=True)
    return taken
