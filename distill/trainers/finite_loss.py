"""A loss that is not finite stops a run: before the optimiser's step, in every process, and before anything is written."""

from typing import Any

import torch
from torch import Tensor

from distill.basics import processes


class FiniteLoss:
    """Looks at the loss when the backward pass is on its way, because to look at it is to wait for the device.

    In several processes all of them stop: gradients are reduced by then, so whoever went on would take a step with what the
    others found.

    Args:
        trainer: whose loss it is.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._details: tuple[dict[str, Tensor], Tensor, Any] | None = None
        self._failure: FloatingPointError | None = None

    def begin(self) -> None:
        """At the beginning of a training."""
        self._details = self._failure = None

    def remember(self, values: dict[str, Tensor], rows: Tensor, ids: list[str] | None) -> None:
        """What a message about the batch under way needs: `[N]` of every term, `[B, T]` supervised positions, names of its rows."""
        self._details = {name: value.detach() for name, value in values.items()}, rows, ids

    def check_at_once(self, loss: Tensor) -> None:
        """Raises FloatingPointError if this process's loss is not finite."""
        details, self._details = self._details, None
        if not torch.isfinite(loss):
            step = self.trainer.state.global_step
            raise FloatingPointError(
                f"The loss at step {step} is not finite ({float(loss)}). {_ADVICE}"
                if details is None
                else describe_non_finite(*details, step)
            )

    def check_step(self, loss: Tensor) -> None:
        """After the backward pass of a micro-batch; in several processes they agree at the end of the step.

        Raises:
            FloatingPointError: the loss of this process, or of another one, is not finite.
        """
        try:
            self.check_at_once(loss)
        except FloatingPointError as error:
            self._failure = self._failure or error
        accelerator = self.trainer.accelerator
        several = accelerator.num_processes > 1
        if several and not accelerator.sync_gradients:
            return
        anywhere = (
            processes.any_of_them(self._failure is not None, loss.device) if several else self._failure is not None
        )
        if anywhere:
            raise self._failure or FloatingPointError(
                f"The loss of another process is not finite at step {self.trainer.state.global_step}; its message names the pairs."
            )


_ADVICE = "A smaller learning rate, max_grad_norm or bfloat16 in place of float16 may help; or look at these pairs."


def describe_non_finite(values: dict[str, Tensor], rows: Tensor, ids: list[str] | None, step: int) -> str:
    """Which terms, of which rows, at which step."""
    row_of = rows.nonzero()[:, 0]
    bad = {name: row_of[~value.isfinite()].unique().tolist() for name, value in values.items()}
    said = [
        f"{name} of {', '.join(repr(ids[r]) if ids else f'row {r} of the batch' for r in where)}"
        for name, where in bad.items()
        if where
    ]
    sums = ", ".join(f"{name} {float(value.detach().sum()):.4g}" for name, value in values.items())
    return (
        f"The loss at step {step} is not finite: {'; '.join(said) or 'a sum is too large'} (sums of this batch: {sums}). "
        f"{_ADVICE}"
    )
