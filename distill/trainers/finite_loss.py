"""A loss or a gradient that is not finite stops a run: before the optimiser's step, in every process, and before anything is written."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import TrainerCallback

from distill.basics import processes


class Found(NamedTuple):
    """What is kept of a term in a micro-batch, however long its rows are; nothing waits for the device.

    Args:
        bad: `[B]`, which rows of the batch have a number that is none.
        total: the sum of all.
    """

    bad: Tensor
    total: Tensor

    @classmethod
    def of(cls, value: Tensor, rows: Tensor) -> "Found":
        """Of `[N]` at the supervised positions `[B, T]`."""
        return cls(torch.zeros_like(rows).masked_scatter(rows, ~value.isfinite()).any(1), value.sum())


class FiniteLoss(TrainerCallback):
    """Looks at the sum of losses once a step, when its backward passes are on their way: to look is to wait for the device.

    Trainer itself would log such a loss as 0, train on, and save what became of the weights over the last good checkpoint. In
    several processes all of them stop: gradients are reduced by then, so whoever went on would take a step with what the others
    found. A gradient may be no number under a loss that is one: its norm, which Trainer takes in every step, is looked at in the
    same wait. A loss in float16 that overflows stops a run, too; a gradient that does is the gradient scaler's matter.
    (DeepSpeed takes its step within the backward pass: there the black box stops when its weights in memory are spoiled, before
    anything is written.)

    Args:
        trainer: whose callback this becomes.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._details: list[tuple[dict[str, Found], Any]] = []  # of the micro-batches of the step under way
        self._kept: FloatingPointError | None = None  # what an evaluation has found so far
        self.norm: Tensor | float | None = (
            None  # of the gradient of the step under way, over all processes; the trainer writes it
        )
        trainer.add_callback(self)

    @contextmanager
    def unfiltered(self) -> Iterator[None]:
        """Without Trainer's filter, which puts the mean of other losses in the place of one that is no number."""
        args = self.trainer.args
        before, args.logging_nan_inf_filter = args.logging_nan_inf_filter, False
        try:
            yield
        finally:
            args.logging_nan_inf_filter = before

    def remember(self, values: dict[str, Tensor], rows: Tensor, ids: list[str] | None) -> None:
        """What a message about a micro-batch needs: `[N]` of each term that counts, `[B, T]` supervised positions, names of its rows."""
        self._details.append(({name: Found.of(value.detach(), rows) for name, value in values.items()}, ids))

    def check(self, loss: Tensor, norm: Tensor | float | None = None) -> None:
        """Raises FloatingPointError if a loss of this process, or a sum of losses, or the gradient's norm, is not finite."""
        details, self._details = self._details, []
        if torch.isfinite(loss if norm is None else loss + 0 * norm):
            return
        step = self.trainer.state.global_step
        if norm is not None and torch.isfinite(loss):
            several = self.trainer.accelerator.num_processes > 1
            raise FloatingPointError(
                f"The gradient at step {step} is not finite (its norm is {float(norm)}), while the loss is"
                + (
                    ", in this process; the message of another process may say more. "
                    if several
                    else f" ({float(loss):.4g}). "
                )
                + _ADVICE
            )
        for values, ids in details:
            if any(found.bad.any() for found in values.values()):
                raise FloatingPointError(describe_non_finite(values, ids, step))
        raise FloatingPointError(f"The loss at step {step} is not finite ({float(loss)}). {_ADVICE}")

    def look(self, loss: Tensor) -> None:
        """In an evaluation: as `check`; in several processes it is kept until all are there (`agree`), or the others would wait for ever."""
        try:
            self.check(loss)
        except FloatingPointError as error:
            if self.trainer.accelerator.num_processes == 1:
                raise
            self._kept = self._kept or error

    def agree(self, device: torch.device) -> None:
        """At the end of an evaluation, in every process: raises what one of them has found."""
        kept, self._kept = self._kept, None
        if self.trainer.accelerator.num_processes > 1 and processes.any_of_them(kept is not None, device):
            raise kept or FloatingPointError(
                "The loss of another process is not finite in this evaluation; its message says more."
            )

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Nothing is left of a call that failed."""
        self._details = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """All gradients are there, and nothing has been changed by them."""
        loss, failure = self.trainer._tr_loss, None
        # with a scaler, a norm that is none is what it has to see to find its scale
        norm, self.norm = None if self.trainer.accelerator.scaler else self.norm, None
        try:
            self.check(loss, norm)
        except FloatingPointError as error:
            failure = error
        several = self.trainer.accelerator.num_processes > 1
        if processes.any_of_them(failure is not None, loss.device) if several else failure is not None:
            if (scaler := self.trainer.accelerator.scaler) is not None:
                scaler.update()  # clipping has unscaled the gradients; another call of `train` begins anew
            raise failure or FloatingPointError(
                f"The loss of another process is not finite at step {state.global_step}; its message says more."
            )


_ADVICE = "A smaller learning rate, max_grad_norm or bfloat16 in place of float16 may help; or look at these pairs."


def describe_non_finite(values: dict[str, Found], ids: list[str] | None, step: int) -> str:
    """Which terms, of which rows, at which step."""
    bad = {name: found.bad.nonzero()[:, 0].tolist() for name, found in values.items()}
    said = [
        f"{name} of {', '.join(repr(ids[r]) if ids else f'row {r} of the batch' for r in where)}"
        for name, where in bad.items()
        if where
    ]
    sums = ", ".join(f"{name} {float(found.total):.4g}" for name, found in values.items())
    return (
        f"The loss at step {step} is not finite: {'; '.join(said) or 'a sum is too large'} (sums of this batch: {sums}). "
        f"{_ADVICE}"
    )
