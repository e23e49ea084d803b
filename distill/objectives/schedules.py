"""Weights of objectives that change over the steps of a training."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """A weight that goes from `start` to `end` and stays there.

    It is a function of the optimiser step alone, so a resumed run has the weights of an unbroken one.

    Args:
        start, end: 0 or more.
        steps: optimiser steps from one to the other; None: the whole training.
        shape: `"linear"`, or `"cosine"` (half a wave: slow at both ends).

    Raises:
        ValueError: a value that is negative or no number, steps below 1, an unknown shape.

    Example:
        >>> Schedule(1.0, 0.0, steps=100)(50, 1000)
        0.5
    """

    start: float
    end: float
    steps: int | None = None
    shape: str = "linear"

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} of a schedule is {value}; it must be a number of 0 or more.")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"A schedule has {self.steps} steps; it needs at least 1.")
        if self.shape not in ("linear", "cosine"):
            raise ValueError(f"The shape of a schedule is {self.shape!r}; it must be 'linear' or 'cosine'.")

    def __call__(self, step: int, max_steps: int) -> float:
        """The weight in optimiser step `step` (from 0) of `max_steps`."""
        length = self.steps if self.steps is not None else max(max_steps, 1)
        share = min(step / length, 1.0)
        if self.shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.start + (self.end - self.start) * share
