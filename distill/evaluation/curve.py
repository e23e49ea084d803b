"""The held-out figures while a student trains."""

import time
from typing import Any

from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from distill.evaluation.agreement import Agreement, HeldOut


class AgreementCurve(TrainerCallback):
    """Measures a student's agreement at even distances during training, in either trainer.

    The points go to `trainer.state.log_history` (`{"step", "seconds", "held_out": {...}}`), which is saved in every
    checkpoint: the curve of a resumed run has no gap. `seconds` is time spent in training steps; measuring is not in it.

    Args:
        held_out: what to measure on.
        points: how many measurements after the start; the last one is the end of training.
        start: the figures of the untouched student, if they are known already.
    """

    def __init__(self, held_out: HeldOut, points: int = 3, start: Agreement | None = None) -> None:
        self.held_out, self.points, self.start = held_out, points, start
        self._seconds, self._begun = 0.0, 0.0
        self._clock: dict[str, Any] | None = None  # the entry that a resumed run takes the time from

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the start, or take up the clock of the run that is resumed."""
        self._seconds = max((entry.get("seconds", 0.0) for entry in state.log_history), default=0.0)
        self._clock = next((entry for entry in state.log_history if entry.keys() == {"step", "seconds"}), None)
        if not any("held_out" in entry for entry in state.log_history):
            self._add(state, self.start or self.held_out.measure(kwargs["model"]))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._begun = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop the clock; measure if a point is due."""
        self._seconds += time.monotonic() - self._begun
        due = {round(state.max_steps * (i + 1) / self.points) for i in range(self.points)}
        if state.global_step in due:
            self._add(state, self.held_out.measure(kwargs["model"]))
        else:
            # one entry for the whole run, the last: with one a step, every checkpoint's state would be longer than the one before
            history = state.log_history
            if not history or history[-1] is not self._clock:
                history[:] = [entry for entry in history if entry is not self._clock]
                history.append(self._clock or {})
                self._clock = history[-1]
            self._clock.update(step=state.global_step, seconds=self._seconds)

    def _add(self, state: TrainerState, agreement: Agreement) -> None:
        entry: Any = {"step": state.global_step, "seconds": self._seconds, "held_out": agreement.as_dict()}
        state.log_history.append(entry)
