"""Refusals beside a journal: what could not be used, why, and the answer itself where one came and was paid for."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.generation.requests import Request
from distill.teachers.base import DOZEN, Completion, Refusal
from distill.text.encode import Prompt

Refused = tuple[Request, Refusal]
STOP = "stopped"  # in place of an id: a line that says that a run stopped, or null: that it may go on


class RefusalFile:
    """`pairs.jsonl.refused.jsonl`: a line for each refusal, appended as it comes. Only whoever holds the journal writes it.

    An answer that came is in it as it came, so that it is read again, and not paid for again, by a later call that can make
    more of it. A line that cannot be read is passed over: its answer is asked for again.

    Args:
        journal: the path of the pairs.
        before: another one, whose refusals count here too; of a part, the whole.

    Attributes:
        rows: by id; the last line of an id counts.
        stopped: the refusal that was one too many, with its prompt, where a run stopped because answer after answer could not
            be used. It stays until that answer can be used, or the file is removed.
    """

    def __init__(self, journal: Path, before: Path | None = None) -> None:
        self.path = _beside(journal)
        self.rows: dict[str, Refusal] = {}
        self.stopped: tuple[Prompt, Refusal] | None = None
        for data in (_bytes_of(_beside(before)) if before else b"", own := _bytes_of(self.path)):
            for line in data.splitlines():
                try:
                    row = json.loads(line)
                    if STOP in row:
                        told = row[STOP]
                        self.stopped = told and (told["prompt"], Refusal(told["reason"], told["answer"]))
                        continue
                    self.rows.pop(row["id"], None)  # so that the order is that of the last lines
                    self.rows[row["id"]] = Refusal(row["reason"], row["answer"], row["of_prompt"])
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue
        self._torn = bool(own) and not own.endswith(b"\n")

    def add(self, refused: Iterable[Refused]) -> None:
        """Write refusals, each as a line."""
        lines = []
        for request, refusal in refused:
            self.rows[request.id] = refusal
            row = {"id": request.id, "reason": refusal.reason, "of_prompt": refusal.of_prompt, "prompt": request.prompt}
            lines.append(json.dumps({**row, "sample": request.sample, "answer": refusal.answer}) + "\n")
        self._write("".join(lines).encode("ascii"))

    def take_in(self, other: "RefusalFile") -> None:
        """Write the lines of another one, of a part, behind these."""
        data = _bytes_of(other.path)
        self._write(data if data.endswith(b"\n") or not data else data + b"\n")
        self.rows |= other.rows

    def stop(self, request: Request, refusal: Refusal) -> None:
        """Remember that the run stopped at this one, which was paid for as those before it."""
        self._mark(request.prompt, refusal)

    def _mark(self, prompt: Prompt | None, refusal: Refusal | None) -> None:
        told = refusal and {"reason": refusal.reason, "prompt": prompt, "answer": refusal.answer}
        self.stopped = None if prompt is None or refusal is None else (prompt, refusal)
        self._write((json.dumps({STOP: told}) + "\n").encode("ascii"))

    def _write(self, data: bytes) -> None:
        if data:
            before, self._torn = b"\n" * self._torn, True  # whatever happens to the write
            with self.path.open("ab") as file:
                file.write(before + data)
                file.flush()
                os.fsync(file.fileno())  # answers that were paid for; those of a part are removed there next
            self._torn = False

    def close(self, done: Callable[[str], bool]) -> None:
        """Remove the file once everything in it has been had after all."""
        if self.rows and all(map(done, self.rows)):
            self.path.unlink(missing_ok=True)

    def check_not_stopped(self, read: Callable[[Prompt, Mapping[str, Any]], Completion | Refusal] | None) -> None:
        """Refuse to ask for more where an earlier run stopped because of answers that still cannot be used.

        Args:
            read: an answer again: more may be known today of what it means. Then the stop is over.

        Raises:
            ValueError: so it is.
        """
        if self.stopped is None:
            return
        prompt, refusal = self.stopped
        again = read(prompt, refusal.answer) if read and refusal.answer is not None else refusal
        if isinstance(again, Completion):
            self._mark(None, None)
            return
        raise ValueError(
            f"The last {DOZEN} answers could not be used, all for one reason, so no more are asked for: {again.reason}. They are "
            f"kept in {self.path}; when you have mended the reason, remove that file, and they are asked for again."
        )


def _beside(journal: Path) -> Path:
    return journal.with_name(f"{journal.name}.refused.jsonl")


def _bytes_of(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def tell_refused(
    refused: Sequence[Refused],
    total: int,
    output: str | os.PathLike[str] | None,
    allow: bool,
    tell: Callable[[str], None],
) -> None:
    """Say how many there are and why; an error unless they are allowed.

    Raises:
        ValueError: they are not.
    """
    if not refused:
        return
    reasons = dict.fromkeys(f"{_asked_last(request.prompt)[:60]!r}: {refusal.reason}" for request, refusal in refused)
    sentence = f"{len(refused)} of {total} completions could not be had. The first: {'; '.join(list(reasons)[:3])}."
    paid = sum(refusal.answer is not None for _, refusal in refused)
    if paid and output is not None:
        sentence += f" {paid} of them were answered; these answers are kept in {os.fspath(output)}.refused.jsonl and not asked for again."
    if allow:
        tell(sentence)
        return
    way = "The others are"
    if output is not None:
        way = f"The others are in {os.fspath(output)}, and the same call asks only for those that are missing. They are"
    raise ValueError(f"{sentence} {way} returned without these with allow_refusals=True (--allow_refusals).")


def _asked_last(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    content: Any = prompt[-1].get("content") if isinstance(prompt[-1], Mapping) else None
    return content if isinstance(content, str) else str(content)
