"""Forgetting while a student trains."""

from typing import Any

from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from distill.evaluation.forgetting.before import Before


class ForgettingCurve(TrainerCallback):
    """Measures a student against its start at even distances during training, in either trainer.

    The points go to `trainer.state.log_history` (`{"step", "epoch", "forgetting": {...}}`, `Forgetting.as_dict` without `by_pair`), which is saved in every
    checkpoint: the curve of a resumed run has no gap.

    Args:
        before: what the start says.
        points: how many measurements after the start; the last one is the end of training.
        answers: let the student answer at each point, too, which takes longer than the rest.

    Example:
        >>> BlackBoxTrainer(..., callbacks=[ForgettingCurve(Before(start, old, held_out, tokenizer))])
    """

    def __init__(self, before: Before, points: int = 3, answers: bool = False) -> None:
        if points < 1:
            raise ValueError(f"points is {points}; at least the end is measured, so it is 1 or more.")
        self.before, self.points, self.answers = before, points, answers

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the start, unless a resumed run has done it."""
        if not any("forgetting" in entry for entry in state.log_history):
            self._add(state, kwargs["model"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure if a point is due."""
        if state.global_step in {round(state.max_steps * (i + 1) / self.points) for i in range(self.points)}:
            self._add(state, kwargs["model"])

    def _add(self, state: TrainerState, model: Any) -> None:
        found = self.before.measure(model, answers=self.answers).as_dict()
        found.pop("by_pair")
        entry: Any = {"step": state.global_step, "epoch": state.epoch or 0.0, "forgetting": found}
        state.log_history.append(entry)
