"""A run's folder: whose it is, how training in it is interrupted and resumed, and what a user is told when it ends."""

import errno
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout
from transformers import TrainerCallback

from distill.basics import processes
from distill.basics.settings import differences
from distill.models.adapters import save_model
from distill.reports.card import CARD, is_edited
from distill.running.telling import one_sentence as one_sentence
from distill.teachers.server import is_address
from distill.text.dates import fix_day
from distill.trainers.checkpoints import LOCK_FILE

RUN_FILE = "run.json"
DAY = "begun"  # the day, no setting


class RunFolder:
    """An output folder that belongs to one run: the same settings continue it, other settings are refused.

    In several processes the first one looks and locks.

    Args:
        path: the folder; made if missing.
        settings: plain values that decide the run's results.

    Raises:
        ValueError: the folder holds another run (the differing settings are named), something else, or is in use.
    """

    def __init__(self, path: str | os.PathLike[str], settings: dict[str, Any]) -> None:
        self.path = Path(path)
        with processes.first_then_others():
            if processes.is_main():
                self._open(settings)
            # chat templates that write a date write the one of the run's beginning, in every process and on every later day
            fix_day(json.loads((self.path / RUN_FILE).read_text(encoding="utf-8")).get(DAY))

    def _open(self, settings: dict[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        wanted = json.loads(json.dumps(settings, default=str))
        file = self.path / RUN_FILE
        self._lock = FileLock(self.path / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"{self.path} is in use by another process; wait for it, or give another folder."
            ) from None
        if file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            # an earlier version wrote down the address of a server
            old = {n: v for n, v in found.items() if n != DAY and not (n == "teacher" and is_address(str(v)))}
            if changed := differences(old, wanted):
                raise ValueError(
                    f"{self.path} holds another run ({'; '.join(changed)}). Give another --output_dir, or the same settings to "
                    "continue it."
                )
            processes.say(f"Continuing the run in {self.path}.")
        elif others := [
            p.name for p in self.path.iterdir() if p.name not in (".lock", LOCK_FILE) and p.suffix != ".part"
        ]:
            raise ValueError(
                f"{self.path} is not empty ({', '.join(sorted(others)[:3])}) and holds no run of this recipe; give another "
                "--output_dir."
            )
        else:
            write_json(file, {**wanted, DAY: fix_day()})

    def __truediv__(self, name: str) -> Path:
        return self.path / name


def write_json(path: Path, value: Any) -> None:
    """Write a file that is either the old one or the whole new one."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1), encoding="utf-8")
    os.replace(part, path)


def train_or_resume(trainer: Any) -> None:
    """Train to the end, from the last complete checkpoint in the trainer's output folder if there is one.

    The first Ctrl-C finishes the step, saves a checkpoint and raises `KeyboardInterrupt`; a second one stops at once.

    Raises:
        OSError: too little disk space for a checkpoint, found before training starts.
        ValueError: as `PairTrainer.train`.
        KeyboardInterrupt: after the checkpoint is saved.
    """
    _check_space(trainer, Path(str(trainer.args.output_dir)), checkpoints=2)
    stop = _StopOnInterrupt(trainer.args.device)
    trainer.add_callback(stop)
    try:
        trainer.train(resume_from_checkpoint=True, or_start=True)
    finally:
        stop.let_go()
        trainer.remove_callback(stop)
    if stop.asked and trainer.state.global_step < trainer.state.max_steps:
        raise KeyboardInterrupt


def save_student(model: Any, tokenizer: Any, folder: Path, card: Callable[[Path], Any] | None = None) -> None:
    """Save model and tokenizer in one rename; an existing folder of that name is replaced, but not an edited README.md.

    The card comes after: whatever goes wrong with it is said, and never costs the student.

    A student with an adapter is merged, so that it loads anywhere, and its adapter saved beside it (`distill.models.adapters`).
    Of several processes the first one saves and the others wait.

    Args:
        card: writes what the student was trained on into the folder it is given; see `distill.reports.card.write_card`.
    """
    if processes.is_main():
        _save_student(model, tokenizer, folder, card)
    processes.wait_for_all()


def remove_checkpoints(folder: Path) -> None:
    """Of a training whose student is saved: each is several times the student's size."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def _save_student(model: Any, tokenizer: Any, folder: Path, card: Callable[[Path], Any] | None) -> None:
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    save_model(model, part)
    tokenizer.save_pretrained(part)
    if is_edited(folder):
        shutil.copy2(folder / CARD, part / CARD)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
    if card:
        try:
            card(folder)
        except Exception as error:  # a card is words; the weights took hours
            processes.say(
                f"The student is saved in {folder}, but its card could not be written: {type(error).__name__}: {error}"
            )


def _check_space(trainer: Any, folder: Path, checkpoints: int) -> None:
    weights = sum(p.numel() * p.element_size() for p in trainer.model.parameters() if p.requires_grad)
    need = checkpoints * 3 * weights  # a checkpoint holds the weights and AdamW's two averages
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise OSError(
            errno.ENOSPC,
            f"{folder} has {free / 2**30:.1f} GiB free, and checkpoints of this run need {need / 2**30:.1f} GiB",
        )


class _StopOnInterrupt(TrainerCallback):
    """First Ctrl-C: finish the step, save, stop. A second one: stop at once.

    In several processes all stop after the same step, whoever heard of it first.
    """

    def __init__(self, device: Any) -> None:
        self.device, self.asked, self.when = device, False, 0.0
        self.before: Any = None
        self.holds = False  # whether the signal is ours

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # a smaller batch after a failure begins once more
        if threading.current_thread() is threading.main_thread() and not self.holds:
            self.before, self.holds = signal.signal(signal.SIGINT, self.handle), True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # a signal that comes while the processes tell each other counts at the next step, and in none may it be forgotten
        heard = processes.any_of_them(self.asked, self.device)
        if not heard:
            return
        if not self.asked:  # one's own signal may be on its way: it is no second one
            self.asked, self.when = True, time.monotonic()
        control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.let_go()

    def let_go(self) -> None:
        """The signal is what it was before."""
        if self.holds:
            signal.signal(signal.SIGINT, self.before)
            self.holds = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        if self.asked and processes.count() > 1 and time.monotonic() - self.when < 2:
            return  # the terminal tells every process, and the launcher tells them again
        if self.asked:
            self.let_go()
            raise KeyboardInterrupt
        self.asked, self.when = True, time.monotonic()
        print("\nStopping: finishing this step and saving a checkpoint.", file=sys.stderr, flush=True)
