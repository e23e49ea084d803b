"""The flag `--overfitting`: a curve of trained and held-out pairs, and what is said of it in the end."""

from typing import Any

import datasets

from distill.basics.processes import say
from distill.evaluation.overfitting import OverfittingCurve, best_steps, overfitting_table


def overfitting_of(
    args: Any, train: datasets.Dataset, held_out: datasets.Dataset, tokenizer: Any, teacher: Any
) -> list[OverfittingCurve]:
    """The callback, to stand before others; none without the flag.

    Args:
        args: of a recipe.
        train, held_out: both sides.
        tokenizer: of the student.
        teacher: a model, for the KL to it; None: the loss alone.
    """
    if not args.overfitting:
        return []
    return [OverfittingCurve(train, held_out, tokenizer, teacher=teacher, max_length=args.max_length)]


def say_overfitting(trainer: Any) -> None:
    """The table, and the best steps, if there was such a curve."""
    history = trainer.state.log_history
    if not any("overfitting" in entry for entry in history):
        return
    best = ", ".join(f"step {step} by held-out {name}" for name, step in best_steps(history).items())
    say(f"{overfitting_table(history)}\n\nBest: {best}.")
