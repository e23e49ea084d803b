"""Over-fitting while a student trains: the same figures on trained and on held-out pairs, and which step was the best."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from distill.evaluation.agreement import Agreement, HeldOut
from distill.pairs.apart import check_apart

LARGER_IS_BETTER = {"loss": False, "kl": False, "accuracy": True}


class OverfittingCurve(TrainerCallback):
    """Measures trained and held-out pairs alike at each evaluation of either trainer (`eval_strategy="epoch"`: each epoch).

    Each point goes to `trainer.state.log_history` (`{"step", "epoch", "overfitting": {"trained", "held_out", "gap", ...}}`), and its held-out figures to the
    evaluation's metrics as `eval_held_out_loss`, `eval_held_out_kl` (with a teacher) and `eval_held_out_accuracy` (with `accuracy`). So Trainer's own switches keep the
    best student and stop early by any of them: `metric_for_best_model="eval_held_out_kl"` and `EarlyStoppingCallback`, which must come behind this callback.
    Give it in `callbacks=[OverfittingCurve(...), EarlyStoppingCallback(2)]`.

    Args:
        train: the pairs that are trained; a sample of them is measured.
        held_out: pairs of other prompts.
        tokenizer: the student's.
        teacher: whose distributions the KL is to; None: the loss alone is known. A black box's held-out loss is its KL plus the teacher's entropy, so
            the best step by the one is, in expectation, that by the other.
        accuracy: what the model gets right, from 0 to 1, by a verifier say; called in each evaluation.
        sample: trained pairs that are measured; as many as are held out, by default.
        batch_size, max_length: as of `HeldOut`.

    Raises:
        ValueError: a prompt on both sides, no pairs on one.

    Example:
        >>> curve = OverfittingCurve(train, held_out, tokenizer, teacher=teacher.model)
    """

    def __init__(
        self,
        train: datasets.Dataset,
        held_out: datasets.Dataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        teacher: PreTrainedModel | None = None,
        accuracy: Callable[[Any], float] | None = None,
        sample: int | None = None,
        batch_size: int = 8,
        max_length: int | None = None,
    ) -> None:
        if not len(train) or not len(held_out):
            raise ValueError(
                f"There are {len(train)} trained and {len(held_out)} held-out pairs; both sides need some."
            )
        check_apart(train, held_out)
        count = min(len(train), len(held_out) if sample is None else sample)
        spread = train.select([number * len(train) // count for number in range(count)])  # files come sorted
        self.sides = {"trained": spread, "held_out": held_out}
        self.teacher, self.accuracy, self._tokenizer = teacher, accuracy, tokenizer
        self._rows: dict[str, Any] = {"batch_size": batch_size, "max_length": max_length}
        self._held: dict[str, HeldOut] = {}

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure both sides, and put what is held out among the metrics."""
        model, metrics = kwargs["model"], kwargs.get("metrics")
        if not self._held:  # without a teacher only what does not depend on one is told
            teacher = model if self.teacher is None else self.teacher
            self._held = {name: HeldOut(teacher, pairs, self._tokenizer, **self._rows) for name, pairs in self.sides.items()}  # fmt: skip
        found = {name: _figures(held.measure(model), self.teacher is not None) for name, held in self._held.items()}
        gap = {name: found["held_out"][name] - found["trained"][name] for name in found["held_out"]}
        point: dict[str, Any] = {**found, "gap": gap}
        if self.accuracy is not None:
            point["held_out"] = {**found["held_out"], "accuracy": float(self.accuracy(model))}
        if metrics is not None:
            metrics.update({f"eval_held_out_{name}": value for name, value in point["held_out"].items()})
        if any("overfitting" in entry and entry["step"] == state.global_step for entry in state.log_history):
            return  # the same step evaluated once more, at the end
        entry: Any = {"step": state.global_step, "epoch": state.epoch or 0.0, "overfitting": point}
        state.log_history.append(entry)


def _figures(found: Agreement, with_kl: bool) -> dict[str, float]:
    return {"loss": found.loss, "kl": found.kl} if with_kl else {"loss": found.loss}


def best_steps(log_history: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The step that was best on held-out pairs, by each figure that was measured; of equal ones the first.

    They need not be one: the KL may rise while answers get better still (a student grows sure), and where they are far apart the choice is
    the user's.

    Args:
        log_history: `trainer.state.log_history`.

    Returns:
        By `"loss"`, `"kl"`, `"accuracy"`; empty where nothing was measured.

    Example:
        >>> best_steps(trainer.state.log_history)
        {'loss': 40, 'kl': 40, 'accuracy': 60}
    """
    points = [(entry["step"], entry["overfitting"]["held_out"]) for entry in log_history if "overfitting" in entry]
    best = {}
    for name, larger in LARGER_IS_BETTER.items():
        # a figure that is no number is no best one
        if found := [
            (step, held_out[name]) for step, held_out in points if math.isfinite(held_out.get(name, math.nan))
        ]:
            best[name] = (max if larger else min)(found, key=lambda one: one[1])[0]
    return best


def overfitting_table(log_history: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of the points of an `OverfittingCurve`: trained, held out, and their gap; the best of each figure is marked with a star."""
    points = [entry for entry in log_history if "overfitting" in entry]
    if not points:
        raise ValueError(
            "There are no points of an OverfittingCurve; give it to the trainer as a callback, with eval_strategy='epoch' and an eval_dataset."
        )
    best, names = best_steps(log_history), list(points[0]["overfitting"]["held_out"])
    titles = [f"{name}, {side}" for name in names for side in _sides(name)]
    lines = [f"| step | epoch | {' | '.join(titles)} |", "|---" * (len(titles) + 2) + "|"]
    for entry in points:
        cells = []
        for name in names:
            for side in _sides(name):
                star = " *" if side == "held out" and best[name] == entry["step"] else ""
                cells.append(f"{entry['overfitting'][side.replace(' ', '_')][name]:.3f}{star}")
        lines.append(f"| {entry['step']} | {entry['epoch']:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _sides(name: str) -> tuple[str, ...]:
    return ("held out",) if name == "accuracy" else ("trained", "held out", "gap")
