"""Changed settings: what Trainer takes from its arguments when it is made, taken anew where a trial, or a line of the user's, changed them since."""

from enum import Enum
from typing import Any

from transformers.trainer_pt_utils import LabelSmoother

from distill.trainers.packing_check import order_seed

# read when the arguments or the trainer are made, and never again: a change would be written down and not be used
READ_ONCE = (
    "bf16",
    "fp16",
    "tf32",
    "torch_compile",
    "torch_compile_backend",
    "torch_compile_mode",
    "use_cpu",
)
# the old word is read when the arguments are made, and is the new one's mirror from then on
MIRRORS = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}


class ChangedSettings:
    """What a trainer took from `args`; `take` before every training.

    Behind a search users go on with `setattr(trainer.args, name, value)`, as transformers says, and whatever Trainer had taken from the
    last trial (rows a batch, noise, smoothed labels) would stay.

    Args:
        trainer: just made.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._choices = {name: type(value) for name, value in vars(trainer.args).items() if isinstance(value, Enum)}
        self._read_once = {name: getattr(trainer.args, name, None) for name in READ_ONCE}
        self._mirrored = {new: getattr(trainer.args, new) for new in MIRRORS.values()}
        self._taken = self._to_take()

    def _to_take(self) -> dict[str, Any]:
        args = self.trainer.args
        return {
            "rows": args.train_batch_size,
            "accumulation": args.gradient_accumulation_steps,
            "order": order_seed(args),
            "noise": args.neftune_noise_alpha,
            "smoothing": args.label_smoothing_factor,
        }

    def take(self) -> set[str]:
        """Take what was changed; what was not is left as it is, since `auto_find_batch_size` may have found fewer rows a batch.

        Returns:
            What was changed of rows a batch, the steps that are accumulated, the order of packed rows, noise and smoothing.

        Raises:
            ValueError: a setting that is read once was changed; a word that names none of a setting's choices.
        """
        trainer, args = self.trainer, self.trainer.args
        for name, kind in self._choices.items():
            if isinstance(value := getattr(args, name), str) and not isinstance(value, kind):
                setattr(args, name, kind(value))
        for name, before in self._read_once.items():
            if (now := getattr(args, name, None)) != before:
                raise ValueError(
                    f"{name} was {before!r} when the trainer was made and is {now!r} now, and it is read only then: it would be written down "
                    f"and not be used. Leave it out of the search; make a trainer with {name}={now!r}."
                )
        for old, new in MIRRORS.items():
            changed_by_old = getattr(args, new) == self._mirrored[new]
            self._mirrored[new] = getattr(args, old if changed_by_old else new)
            for name in (old, new):
                setattr(args, name, self._mirrored[new])
        before, self._taken = self._taken, self._to_take()
        changed = {name for name, value in self._taken.items() if value != before[name]}
        if "rows" in changed:
            trainer._train_batch_size = self._taken["rows"]
        if "noise" in changed:
            trainer.neftune_noise_alpha = self._taken["noise"]
        if "smoothing" in changed:
            factor = self._taken["smoothing"]
            trainer.label_smoother = LabelSmoother(epsilon=factor) if factor else None
        return changed
