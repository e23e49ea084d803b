"""A `transformers.Trainer` that goes on after any kill as if there had been none: what both trainers share beside the pairs."""

import contextlib
import logging
import math
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from filelock import FileLock, Timeout
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import IntervalStrategy, TrainOutput, rotate_checkpoints

from distill.basics.settings import differences, plain
from distill.trainers import checkpoints
from distill.trainers.identity import environment, run_settings

logger = logging.getLogger(__name__)


class ResumingTrainer(Trainer):
    """Trainer, with checkpoints that say what they are, and an output folder that belongs to one run at a time.

    In several processes the first one looks at the folder and decides; the others do as it says, or raise what it found wrong.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._identity: dict[str, Any] | None = None  # of the models, taken before anything is wrapped or sharded
        self._run_settings: dict[str, Any] = {}
        self._window: dict[str, Any] | None = None
        self._epoch_has_ended = self._save_waits = False
        self.add_callback(_Hooks(self))

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
        *,
        or_start: bool = False,
        allow_changes: Collection[str] = (),
    ) -> TrainOutput:
        """As Trainer's; a checkpoint is resumed only if it is whole and of this very run.

        Args:
            resume_from_checkpoint: True: the last complete one in the output folder; or a path; else training starts anew.
            trial, ignore_keys_for_eval: see `transformers.Trainer.train`.
            or_start: with True and no complete checkpoint, start anew in place of an error.
            allow_changes: names of settings that may differ from the checkpoint's, as the refusal writes them, e.g.
                `["training.max_steps"]`. The result is then no longer that of an unbroken run.

        Raises:
            ValueError: another process trains into the output folder; a checkpoint that is half-written, damaged, pickled or
                of other settings (each named with both values).
        """
        lock = FileLock(Path(str(self.args.output_dir)) / checkpoints.LOCK_FILE)
        try:
            checkpoint = self._decide(lock, resume_from_checkpoint, or_start, tuple(allow_changes))
            if checkpoint is None:
                return super().train(None, trial, ignore_keys_for_eval)
            record, state = checkpoints.read_record(Path(checkpoint)), checkpoints.read_state(Path(checkpoint))
            assert state is not None
            if self._is_over(state, record):
                return self._take_up_finished(checkpoint)
            self._window = record["window"]
            with _without_first_evaluation(self.args):
                return super().train(checkpoint, trial, ignore_keys_for_eval)
        finally:
            self._window = None
            lock.release()

    def _decide(self, lock: FileLock, asked: str | bool | None, or_start: bool, allowed: tuple[str, ...]) -> str | None:
        """The checkpoint to go on from; the same answer, or the same refusal, in every process."""
        answer: list[Any] = [None, None, None]
        if self.args.process_index == 0:
            if self._identity is None:
                self._identity = self.identity()
            try:
                answer[0] = self._look(lock, asked, or_start, allowed)
            except (ValueError, OSError) as error:
                answer[1] = error
            answer[2] = self._run_settings
        if self.args.world_size > 1:
            broadcast_object_list(answer)
        if answer[1] is not None:
            raise answer[1]
        self._run_settings = answer[2]  # others may write checkpoints too, with save_on_each_node
        return answer[0]

    def _look(self, lock: FileLock, asked: str | bool | None, or_start: bool, allowed: tuple[str, ...]) -> str | None:
        folder = Path(str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        _acquire(lock, folder)
        if asked and asked is not True:
            checkpoints.check(Path(asked))  # before a half-written one is removed, so that it is named as such
        checkpoints.tidy(folder)
        assert self._identity is not None
        self._run_settings = plain(run_settings(self) | self._identity)
        if not asked:
            return None
        if asked is True:
            found = checkpoints.last_complete_checkpoint(folder)
            if found is None and or_start:
                return None
            if found is None:
                raise ValueError(f"There is nothing to resume: {checkpoints.why_none(folder)}")
        else:
            found = Path(asked)
        record = checkpoints.check(found)
        if changed := differences(record["settings"], self._run_settings, allowed):
            raise ValueError(
                f"{found} is of a run with other settings ({'; '.join(changed)}). Give the same settings to go on with that run, "
                "or another output_dir for a new one. If you know what you do, "
                f"trainer.train(resume_from_checkpoint=..., allow_changes={[name.partition(':')[0] for name in changed]}) "
                "goes on all the same; the result is then not that of an unbroken run."
            )
        if moved := differences(record["environment"], plain(environment(self))):
            logger.warning("The run goes on elsewhere (%s): results may differ by rounding.", "; ".join(moved))
        return str(found)

    def identity(self) -> dict[str, Any]:
        """What a run is made of beside its settings: models, by what tells them apart. Plain values."""
        raise NotImplementedError

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As Trainer's, and marked as begun, sealed, and flushed to the disk before older ones are removed."""
        folder = Path(self._get_output_dir(trial=trial))
        checkpoint = folder / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            checkpoints.begin(checkpoint)
        self.accelerator.wait_for_everyone()  # before others write into the folder
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            checkpoints.finish(checkpoint)
            rotate_checkpoints(str(folder), limit, self.state.best_model_checkpoint, use_mtime=True)

    def _save_rng_state(self, output_dir: str) -> None:
        """As Trainer's; it is the last that is written before Trainer's state, so here a checkpoint is sealed."""
        super()._save_rng_state(output_dir)
        window = self._open_window()
        windows = (
            gather_object([window]) if self.args.world_size > 1 else [window]
        )  # all have written when this returns
        if self.args.should_save:
            record = {
                "settings": self._run_settings,
                "environment": plain(environment(self)),
                "window": {"last_logged": self._globalstep_last_logged, "processes": windows},
            }
            checkpoints.seal(Path(output_dir), record)

    def _open_window(self) -> dict[str, Any]:
        """Sums of this process since the last log, as plain values: so that logs go on as if nothing had happened."""
        return {"loss": float(self._tr_loss)}

    def _take_up_window(self, window: dict[str, Any]) -> None:
        """Put back what `_open_window` gave."""
        self._tr_loss += window["loss"]
        self._total_loss_scalar -= window["loss"]  # train_loss, at the end, is of the steps of this call, as Trainer's

    def _is_over(self, state: dict[str, Any], record: dict[str, Any]) -> bool:
        """Whether nothing is left to do; a run that was finished may be longer now, if its user allowed that."""
        if self.args.max_steps > 0:
            longer = self.args.max_steps > state["max_steps"]
            return state["global_step"] >= self.args.max_steps or (is_finished(state) and not longer)
        return (
            is_finished(state) and not self.args.num_train_epochs > record["settings"]["training"]["num_train_epochs"]
        )

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """As Trainer's; but a checkpoint of an epoch's last step waits for the log and the evaluation of the epoch's end.

        Else a run that goes on from it would never have them.
        """
        strategies = (self.args.eval_strategy, self.args.logging_strategy)
        if self.control.should_save and not self._epoch_has_ended and IntervalStrategy.EPOCH in strategies:
            self._save_waits = float(self.state.epoch or 0.5).is_integer()
            self.control.should_save = not self._save_waits
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _take_up_finished(self, checkpoint: str) -> TrainOutput:
        """A finished run is not trained on (Trainer would take one more step): only what it left is loaded."""
        self.state = TrainerState.load_from_json(os.path.join(checkpoint, checkpoints.STATE_FILE))
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        if best:  # the folder may have been moved
            best = self.state.best_model_checkpoint = str(Path(checkpoint).parent / Path(best).name)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            batches = self.get_train_dataloader()
            self._prepare_for_training(self.set_initial_training_values(self.args, batches)[-1], batches, checkpoint)
            if best:
                self._load_best_model()
        else:
            self._load_from_checkpoint(best or checkpoint)
        losses = [entry["loss"] for entry in self.state.log_history if "loss" in entry]
        return TrainOutput(self.state.global_step, losses[-1] if losses else math.nan, {})


def is_finished(state: dict[str, Any]) -> bool:
    """Whether a checkpoint's state is that of a run's end: all of its steps are done, or it was stopped early."""
    early: Any = state.get("stateful_callbacks", {}).get("EarlyStoppingCallback")
    for stop in early if isinstance(early, list) else [early] if early else []:
        if stop["attributes"]["early_stopping_patience_counter"] >= stop["args"]["early_stopping_patience"]:
            return True
    return bool(state["global_step"] >= state["max_steps"])


def _acquire(lock: FileLock, folder: Path) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"{folder} is in use: another training writes its checkpoints there. Wait for it, or give another output_dir. "
            f"If none does, remove {checkpoints.LOCK_FILE} from it."
        ) from None


@contextlib.contextmanager
def _without_first_evaluation(args: Any) -> Iterator[None]:
    """`eval_on_start` is for the start of a run, not for each of its lives."""
    before, args.eval_on_start = args.eval_on_start, False
    try:
        yield
    finally:
        args.eval_on_start = before


class _Hooks(TrainerCallback):
    """What happens at moments that only callbacks hear of."""

    def __init__(self, trainer: ResumingTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer, window = self.trainer, self.trainer._window  # Trainer begins every call of `train` with an empty one
        if window is not None and len(window["processes"]) == args.world_size:
            trainer._globalstep_last_logged = window["last_logged"]
            trainer._take_up_window(window["processes"][args.process_index])

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._epoch_has_ended = False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._epoch_has_ended = True
        if self.trainer._save_waits:
            self.trainer._save_waits, control.should_save = False, True
