"""Changed settings: what Trainer takes from its arguments when it is made, taken anew where a trial, or a line of the user's, changed them since."""

from enum import Enum
from typing import Any

from transformers import IntervalStrategy, SchedulerType, TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig, LabelSmoother
from transformers.trainer_utils import SaveStrategy

from distill.basics.settings import plain
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
    "accelerator_config",
    "ddp_broadcast_buffers",
    "ddp_bucket_cap_mb",
    "ddp_find_unused_parameters",
    "ddp_static_graph",
    "fsdp",
    "fsdp_config",
    "label_names",
    "place_model_on_device",
)
# read again with each student of a `model_init`; of one that is given, when the trainer is made
READ_WITH_A_STUDENT = ("full_determinism", "seed", "use_cache")
# the old word is read when the arguments are made, and is the new one's mirror from then on
MIRRORS = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}


class ChangedSettings:
    """What a trainer took from `args`; before every training, `look` and then, once all of it is found good, `take`.

    Behind a search users go on with `setattr(trainer.args, name, value)`, as transformers says, and whatever Trainer had taken from the
    last trial (rows a batch, noise, smoothed labels) would stay.

    Args:
        trainer: just made.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._choices = {name: type(value) for name, value in vars(trainer.args).items() if isinstance(value, Enum)}
        self._read_once = self._to_read_once()
        self._mirrored = {new: getattr(trainer.args, new) for new in MIRRORS.values()}
        self._taken = self._to_take()

    def _to_take(self) -> dict[str, Any]:
        args = self.trainer.args
        return {
            "rows": args.train_batch_size,
            "accumulation": args.gradient_accumulation_steps,
            "order": order_seed(args),
            "sampling": args.train_sampling_strategy,
            "noise": args.neftune_noise_alpha,
            "smoothing": args.label_smoothing_factor,
        }

    def _to_read_once(self) -> dict[str, Any]:
        """By name, as plain values, which no change in place reaches; parts of `accelerator_config` by theirs."""
        args = self.trainer.args
        found = {name: plain(getattr(args, name, None)) for name in READ_ONCE + READ_WITH_A_STUDENT}
        parts = found.pop("accelerator_config")
        return found | {f"accelerator_config.{name}": value for name, value in parts.items()}

    def look(self) -> set[str]:
        """Find what was changed since the last `take`. Nothing of it is in the trainer yet: it may be refused, and put right.

        Returns:
            What was changed of rows a batch, the steps that are accumulated, the order of packed rows and of others, noise and smoothing.

        Raises:
            ValueError: a setting that is read once was changed; a word that names none of a setting's choices.
        """
        trainer, args = self.trainer, self.trainer.args
        for name, kind in self._choices.items():
            if isinstance(value := getattr(args, name), str) and not isinstance(value, kind):
                setattr(args, name, kind(value))
        derive(args)
        if str(args.eval_strategy.value) != "no" and trainer.eval_dataset is None:
            raise ValueError(
                f"eval_strategy={args.eval_strategy.value!r}, and there is no eval_dataset. Give one when the trainer is made."
            )
        if isinstance(args.accelerator_config, dict):
            args.accelerator_config = AcceleratorConfig(**args.accelerator_config)
        for name, now in self._to_read_once().items():
            if trainer.model_init is not None and name in READ_WITH_A_STUDENT:
                continue
            if now != (before := self._read_once[name]):
                raise ValueError(
                    f"{name} was {before!r} when the trainer was made and is {now!r} now, and it is read only then: it would be written down "
                    f"and not be used. Leave it out of the search; make a trainer with {name}={now!r}."
                )
        for old, new in MIRRORS.items():
            changed_by_old = getattr(args, new) == self._mirrored[new]
            self._mirrored[new] = getattr(args, old if changed_by_old else new)
            for name in (old, new):
                setattr(args, name, self._mirrored[new])
        return {name for name, value in self._to_take().items() if value != self._taken[name]}

    def take(self) -> None:
        """Take what was changed; what was not is left as it is, since `auto_find_batch_size` may have found fewer rows a batch."""
        trainer, changed = self.trainer, self.look()
        self._taken, self._read_once = self._to_take(), self._to_read_once()
        trainer.accelerator.dataloader_config.data_seed = trainer.args.data_seed
        if "rows" in changed:
            trainer._train_batch_size = self._taken["rows"]
        if "noise" in changed:
            trainer.neftune_noise_alpha = self._taken["noise"]
        if "smoothing" in changed:
            factor = self._taken["smoothing"]
            trainer.label_smoother = LabelSmoother(epsilon=factor) if factor else None


def derive(args: TrainingArguments) -> None:
    """Settings that `TrainingArguments` derives from others when it is made, where these were changed since; and its own refusals.

    Raises:
        ValueError: settings that do not go together.
    """
    if args.eval_strategy == IntervalStrategy.STEPS and not args.eval_steps:
        if not args.logging_steps > 0:
            raise ValueError("eval_strategy='steps' needs eval_steps= or logging_steps= above 0.")
        args.eval_steps = args.logging_steps
    tracks = args.load_best_model_at_end or args.lr_scheduler_type in (
        SchedulerType.REDUCE_ON_PLATEAU,
        SchedulerType.GREEDY,
    )
    if args.metric_for_best_model is None and tracks:
        args.metric_for_best_model = "loss"
    if args.metric_for_best_model is None and args.save_strategy == SaveStrategy.BEST:
        raise ValueError("save_strategy='best' needs metric_for_best_model=, e.g. 'loss'.")
    if args.metric_for_best_model is not None and args.greater_is_better is None:
        args.greater_is_better = not args.metric_for_best_model.endswith("loss")
    args._validate_args()
