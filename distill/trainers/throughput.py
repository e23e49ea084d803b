"""Throughput: tokens a second of teacher and student apart, and the share of tokens that carry loss."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from distill.models.precision import exact_on
from distill.pairs.collate import document_tokens, supervised_rows


class Rates:
    """Counts from one log to the next. Nothing waits for a GPU before the log does.

    A window begins with the first step after a log, when its rows are fetched, and ends with the next log. Evaluation and
    saving are not in it, nor is padding.

    Args:
        accelerator: sums over all processes.
        device: where the models run.
    """

    def __init__(self, accelerator: Any, device: torch.device) -> None:
        self.accelerator, self.device = accelerator, device
        self._begun: float | None = None
        self._counts: list[Tensor] = []  # tokens and supervised tokens of each micro-batch
        self._earlier = [0, 0]  # of the same window, before this process took up a checkpoint
        self._teacher_seconds = 0.0
        self._events: list[tuple[Any, Any]] = []
        self._shown: list[Tensor] = []  # tokens that the teacher was shown, of each micro-batch

    def begin_window(self) -> None:
        """Called at the beginning of a training, and after a log."""
        self._begun, self._counts, self._earlier, self._events, self._teacher_seconds = None, [], [0, 0], [], 0.0
        self._shown = []

    def begin(self) -> None:
        """Called before the rows of each step are fetched."""
        if self._begun is None:
            self._begun = time.perf_counter()

    def count(self, batch: Mapping[str, Tensor]) -> None:
        """Called for each micro-batch."""
        if "labels" not in batch:
            return  # an own collator's; a display must not stop a training
        tokens = _tokens(batch)
        self._counts.append(torch.stack([tokens, supervised_rows(batch["labels"]).sum()]))
        own = {name.removeprefix("teacher_"): part for name, part in batch.items() if name.startswith("teacher_")}
        self._shown.append(_tokens(own) if "labels" in own else tokens)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What runs within it (evaluation, saving) is not counted."""
        begun, self._begun = self._begun, None
        since = time.perf_counter()
        try:
            yield
        finally:
            if begun is not None:
                self._begun = begun + time.perf_counter() - since

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """What runs within it is the teacher's time; outside a window (in evaluation) it is not counted."""
        if self._begun is None:
            yield
        elif self.device.type == "cuda":
            events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            events[0].record()
            yield
            events[1].record()
            self._events.append(events)
        else:
            begun = time.perf_counter()
            yield
            self._teacher_seconds += time.perf_counter() - begun

    def close(self) -> dict[str, float]:
        """Of the window that ends now, over all processes: for Trainer's log. Every process must call it."""
        if self._begun is None:
            return {}
        if self._events:
            torch.cuda.synchronize(self.device)
            self._teacher_seconds += sum(first.elapsed_time(last) for first, last in self._events) / 1000
        seconds = time.perf_counter() - self._begun
        now = self._sums()[0]  # of this process's life; the share is of the whole window
        shown = torch.stack(self._shown).sum().item() if self._shown else 0
        mine = torch.tensor([*self.open_window(), now, shown, seconds, self._teacher_seconds], dtype=torch.float64)
        if self.accelerator.num_processes > 1:
            mine = self.accelerator.reduce(mine.to(exact_on(self.device)).to(self.device), "sum").cpu()
            mine[4:] /= self.accelerator.num_processes
        whole, supervised, tokens, shown, seconds, teacher = mine.tolist()
        self.begin_window()
        found = {"student_tokens_per_second": tokens / max(seconds - teacher, 1e-9)}
        if teacher:
            found["teacher_tokens_per_second"] = shown / teacher
        return {**found, "supervised_share": supervised / max(whole, 1)}

    def open_window(self) -> list[int]:
        """Tokens and supervised tokens since the last log, for a checkpoint."""
        return [first + now for first, now in zip(self._earlier, self._sums(), strict=True)]

    def take_up_window(self, counts: list[int]) -> None:
        """Put back what `open_window` gave; it counts for the share, and for no speed."""
        self._earlier = list(counts)

    def _sums(self) -> list[int]:
        return torch.stack(self._counts).sum(0).tolist() if self._counts else [0, 0]


def _tokens(batch: Mapping[str, Tensor]) -> Tensor:
    marked = "attention_mask" in batch or "position_ids" in batch
    return document_tokens(batch).sum() if marked else batch["labels"].new_tensor(batch["labels"].numel())
