"""Refusals beside a journal: what could not be used, why, and the answer itself where one came and was paid for."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.generation.requests import Request
from distill.teachers.base import DOZEN, Refusal
from distill.text.encode import Prompt

Refused = tuple[Request, Refusal]


class RefusalFile:
    """`pairs.jsonl.refused.jsonl`: a line for each refusal, appended as it comes. Only whoever holds the journal writes it.

    An answer that came is in it as it came, so that it is read again, and not paid for again, by a later call that can make
    more of it. A line that cannot be read is passed over: its answer is asked for again.

    Args:
        journal: the path of the pairs.
        before: another one, whose refusals count here too; of a part, the whole.

    Attributes:
        rows: by id; the last line of an id counts.
    """

    def __init__(self, journal: Path, before: Path | None = None) -> None:
        self.path = _beside(journal)
        self.rows: dict[str, Refusal] = {}
        for data in (_bytes_of(_beside(before)) if before else b"", own := _bytes_of(self.path)):
            for line in data.splitlines():
                try:
                    row = json.loads(line)
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

    def _write(self, data: bytes) -> None:
        if data:
            with self.path.open("ab") as file:
                file.write(b"\n" * self._torn + data)
            self._torn = False

    def close(self, done: Callable[[str], bool]) -> None:
        """Remove the file once everything in it has been had after all."""
        if self.rows and all(map(done, self.rows)):
            self.path.unlink(missing_ok=True)

    def check_not_alike(self, done: Callable[[str], bool]) -> None:
        """Refuse to ask for more where the last answers could not be used, and still cannot, all for one reason.

        Raises:
            ValueError: so it is.
        """
        still = [refusal for key, refusal in self.rows.items() if not done(key)][-DOZEN:]
        last = [refusal for refusal in still if refusal.answer and not refusal.of_prompt]
        if len(last) == DOZEN and len({refusal.reason for refusal in last}) == 1:
            raise ValueError(
                f"The last {DOZEN} answers could not be used, all for one reason, so no more are asked for: {last[0].reason}. "
                f"They are kept in {self.path}; allow_refusals=True (--allow_refusals) asks for the others all the same."
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
    raise ValueError(f"{sentence} {way} returned without these with allow_refusals=True.")


def _asked_last(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    content: Any = prompt[-1].get("content") if isinstance(prompt[-1], Mapping) else None
    return content if isinstance(content, str) else str(content)
