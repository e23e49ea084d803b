"""Sums of the loss terms since the last log and over an evaluation, which outlive a kill."""

from typing import Any

import torch
from torch import Tensor

from distill.models.precision import exact_on


class TermSums:
    """Sums of every term since the last log, and over an evaluation; on the device, so that nothing waits for it.

    Args:
        accelerator: of the trainer; it adds up processes and knows when a step is whole.
        device: where training runs.
    """

    def __init__(self, accelerator: Any, device: torch.device) -> None:
        self.accelerator, self.device = accelerator, device
        self.exact = exact_on(device)
        self.begin_training_window()
        self.begin_evaluation()

    def begin_training_window(self) -> None:
        """After a log."""
        self._train: dict[str, Tensor] = {}  # sums of values already divided
        self._steps: dict[
            str, int
        ] = {}  # and over how many optimiser steps: a term of weight 0 is not there in all of them

    def begin_evaluation(self) -> None:
        """Before an evaluation."""
        self._eval: dict[str, Tensor] = {}  # sums over rows, and the number of rows

    def keep_training(self, sums: dict[str, Tensor], items: Tensor) -> None:
        """A micro-batch: the sum over its rows of every term; `items` are the rows of the whole step."""
        self._add(self._train, {name: value.detach() / items for name, value in sums.items()})
        for name in sums if self.accelerator.sync_gradients else ():  # the last micro-batch of a step
            self._steps[name] = self._steps.get(name, 0) + 1

    def keep_evaluation(self, sums: dict[str, Tensor], rows: Tensor) -> None:
        """A batch of an evaluation and how many rows it has."""
        self._add(self._eval, {name: value.detach() for name, value in sums.items()} | {"rows": rows})

    def training_means(self) -> dict[str, float]:
        """Mean over the optimiser steps since the last log that had the term; a new window begins."""
        means = {name: value / max(self._steps.get(name, 1), 1) for name, value in self._gathered(self._train).items()}
        self.begin_training_window()
        return means

    def evaluation_means(self) -> dict[str, float]:
        """Mean over all supervised tokens of the evaluation, by name."""
        sums = self._gathered(self._eval)
        rows = sums.pop("rows", 0.0)
        return {name: value / rows for name, value in sums.items()} if rows else {}

    def open_window(self) -> dict[str, Any]:
        """The training sums as plain values."""
        return {"terms": {name: float(value) for name, value in self._train.items()}, "steps": dict(self._steps)}

    def take_up_window(self, window: dict[str, Any]) -> None:
        """Put back what `open_window` gave."""
        steps: Any = window["steps"]  # one number for all of them in older checkpoints
        self._steps = dict(steps) if isinstance(steps, dict) else dict.fromkeys(window["terms"], steps)
        self._train = {
            name: torch.tensor(value, dtype=self.exact, device=self.device) for name, value in window["terms"].items()
        }

    def _gathered(self, sums: dict[str, Tensor]) -> dict[str, float]:
        if not sums:
            return {}
        total = self.accelerator.reduce(torch.stack([value.to(self.device) for value in sums.values()]), "sum")
        return dict(zip(sums, total.tolist(), strict=True))

    def _add(self, sums: dict[str, Tensor], values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            sums[name] = sums.get(name, 0) + value.to(self.exact)
