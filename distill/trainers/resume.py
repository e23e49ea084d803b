"""Checkpoints written and removed when; and from which one a run goes on after any kill."""

import contextlib
import logging
import math
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from filelock import FileLock, Timeout
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import IntervalStrategy, TrainOutput, rotate_checkpoints

from distill.basics.settings import differences, plain
from distill.signals.facts import as_said_then
from distill.trainers import checkpoints
from distill.trainers.identity import environment, run_settings

logger = logging.getLogger(__name__)


class Resumption(TrainerCallback):
    """Checkpoints of a trainer that say what they are, and an output folder that belongs to one run at a time.

    In several processes the first one looks at the folder and decides; the others do as it says, or raise what it found wrong.

    Args:
        trainer: whose callback this becomes. Its `identity()` says what a run is made of beside its settings; `open_window()`
            and `take_up_window(window)` are its sums since the last log, as plain values, and `begin_window()` forgets them.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.identity: dict[str, Any] | None = None  # of the models, taken before anything is wrapped or sharded
        self.run_settings: dict[str, Any] = {}
        self._window: dict[str, Any] | None = None
        self._resumed: tuple[str | None, tuple[str, ...]] = None, ()  # the checkpoint, and what may differ from it
        self._epoch_has_ended = self._save_waits = False
        trainer.add_callback(self)

    @contextlib.contextmanager
    def checkpoint(
        self, folder: Path, asked: str | bool | None, or_start: bool, allowed: Collection[str]
    ) -> Iterator[str | None]:
        """The checkpoint to go on from, None to start anew; the folder is this run's until the context ends.

        Where each training makes its student (`model_init`), it is held against the checkpoint when it is there: `settle`.

        Args:
            folder: that checkpoints go into: of a trial of a search, its own.

        Other args and errors as in `PairTrainer.train`.
        """
        lock = FileLock(folder / checkpoints.LOCK_FILE)
        try:
            found: str | None = self._decided(lambda: self._find(folder, lock, asked, or_start))
            self._resumed = found, tuple(allowed)
            if self.trainer.model_init is None:
                self.settle()
            if found is None:
                yield None
                return
            self._window = checkpoints.read_record(Path(found))["window"]
            with _without_first_evaluation(self.trainer.args):
                yield found
        finally:
            self._window, self._resumed = None, (None, ())
            lock.release()

    def settle(self) -> None:
        """What the run is made of, now that its student is there; and whether the checkpoint that it goes on from is of the same.

        Raises:
            ValueError: it is of another; each difference is named.
        """
        # others may write checkpoints too, with save_on_each_node
        self.run_settings = self._decided(self._describe)

    def _decided(self, look: Callable[[], Any]) -> Any:
        """What the first process finds, or the same refusal, in every process."""
        args, answer = self.trainer.args, list[Any]([None, None])
        if args.process_index == 0:
            try:
                answer[0] = look()
            except (ValueError, OSError) as error:
                answer[1] = error
        if args.world_size > 1:
            broadcast_object_list(answer)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def _find(self, folder: Path, lock: FileLock, asked: str | bool | None, or_start: bool) -> str | None:
        folder.mkdir(parents=True, exist_ok=True)
        _acquire(lock, folder)
        if asked and asked is not True:
            checkpoints.check(Path(asked))  # before a half-written one is removed, so that it is named as such
        checkpoints.tidy(folder)
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
        checkpoints.check(found)
        return str(found)

    def _describe(self) -> dict[str, Any]:
        found, allowed = self._resumed
        if self.identity is None:
            self.identity = self.trainer.identity()
        settings: dict[str, Any] = plain(run_settings(self.trainer) | self.identity)
        if found is None:
            return settings
        record = checkpoints.read_record(Path(found))
        # the record of an earlier version says less of a teacher
        there = record["settings"]
        now = {name: as_said_then(there.get(name), one) if name == "teacher" else one for name, one in settings.items()}
        if changed := differences(there, now, allowed):
            raise ValueError(
                f"{found} is of a run with other settings ({'; '.join(changed)}). Give the same settings to go on with that run, "
                "or another output_dir for a new one. If you know what you do, "
                f"trainer.train(resume_from_checkpoint=..., allow_changes={[name.partition(':')[0] for name in changed]}) "
                "goes on all the same; the result is then not that of an unbroken run."
            )
        self._check_stream(Path(found))
        if moved := differences(record["environment"], plain(environment(self.trainer))):
            logger.warning("The run goes on elsewhere (%s): results may differ by rounding.", "; ".join(moved))
        return settings

    def _check_stream(self, found: Path) -> None:
        """Refuse to go on behind the first epoch of a stream: Trainer skips batches of one epoch, and cannot know how long one is."""
        state, trainer = checkpoints.read_state(found), self.trainer
        assert state is not None
        epoch, stream = int(state.get("epoch") or 0), not hasattr(trainer.train_dataset, "__len__")
        if stream and epoch and not trainer.args.ignore_data_skip and not self.is_over(str(found)):
            raise ValueError(
                f"{found} is of epoch {epoch + 1} of a stream, and where an epoch of a stream ends is not known, so the rows would begin anew. "
                "Make it one long epoch, rows.repeat() of datasets; or take ignore_data_skip=True, which begins at the first row."
            )

    @contextlib.contextmanager
    def saving(self, folder: Path) -> Iterator[Path]:
        """Around the writing of a checkpoint: it is marked as begun, and on the disk before older ones are removed."""
        trainer, args = self.trainer, self.trainer.args
        checkpoint = folder / f"checkpoint-{trainer.state.global_step}"
        if args.should_save:
            checkpoints.begin(checkpoint)
        trainer.accelerator.wait_for_everyone()  # before others write into the folder
        limit, args.save_total_limit = args.save_total_limit, None
        try:
            yield checkpoint
        finally:
            args.save_total_limit = limit
        if args.should_save:
            checkpoints.finish(checkpoint)
            rotate_checkpoints(str(folder), limit, trainer.state.best_model_checkpoint, use_mtime=True)

    def seal(self, checkpoint: Path, last_logged: int) -> None:
        """When all of a checkpoint but Trainer's state is written: its record, with the sums since step `last_logged`."""
        args, window = self.trainer.args, self.trainer.open_window()
        windows = gather_object([window]) if args.world_size > 1 else [window]  # all have written when this returns
        if args.should_save:
            record = {
                "settings": self.run_settings,
                "environment": plain(environment(self.trainer)),
                "window": {"last_logged": last_logged, "processes": windows},
            }
            checkpoints.seal(checkpoint, record)

    def is_over(self, checkpoint: str) -> bool:
        """Whether nothing is left to do; a run that was finished may be longer now, if its user allowed that."""
        state, record = checkpoints.read_state(Path(checkpoint)), checkpoints.read_record(Path(checkpoint))
        assert state is not None
        args = self.trainer.args
        if args.max_steps > 0:
            longer = args.max_steps > state["max_steps"]
            return state["global_step"] >= args.max_steps or (is_finished(state) and not longer)
        return is_finished(state) and not args.num_train_epochs > record["settings"]["training"]["num_train_epochs"]

    def finished_state(self, checkpoint: str) -> tuple[TrainerState, TrainOutput]:
        """Trainer's state of a run that is over, and what its `train` gave; the folder may have been moved since."""
        state = TrainerState.load_from_json(str(Path(checkpoint) / checkpoints.STATE_FILE))
        if self.trainer.args.load_best_model_at_end and state.best_model_checkpoint:
            state.best_model_checkpoint = str(Path(checkpoint).parent / Path(state.best_model_checkpoint).name)
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        return state, TrainOutput(state.global_step, losses[-1] if losses else math.nan, {})

    def hold_back_save(self) -> None:
        """A checkpoint of an epoch's last step waits for the log and the evaluation of the epoch's end.

        Else a run that goes on from it would never have them.
        """
        trainer = self.trainer
        strategies = (trainer.args.eval_strategy, trainer.args.logging_strategy)
        if trainer.control.should_save and not self._epoch_has_ended and IntervalStrategy.EPOCH in strategies:
            self._save_waits = float(trainer.state.epoch or 0.5).is_integer()
            trainer.control.should_save = not self._save_waits

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Trainer begins every call of `train`, and every try of it, with empty sums."""
        self.trainer.begin_window()
        window = self._window
        if window is not None and len(window["processes"]) == args.world_size:
            self.trainer.take_up_window(window["processes"][args.process_index], window["last_logged"])

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Checkpoints are held back from here ..."""
        self._epoch_has_ended = False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """... to here, where a held one is written."""
        self._epoch_has_ended = True
        if self._save_waits:
            self._save_waits, control.should_save = False, True


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
