"""A checkpoint on disk: what marks it as whole, what is refused, which is the last (when one is written: `resume`).

Trainer writes a checkpoint file by file into a folder that has its final name from the start, `trainer_state.json` last. Beside
Trainer's files lies `checkpoint.json` of this package, written just before that: the settings of the run, and names and
sizes of all files that will be loaded. A checkpoint is complete if both are there and every listed file has its size.
"""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.basics.disk import sync_folder, write_durably
from distill.trainers.pickles import check_file, refuse_pickled_weights

logger = logging.getLogger(__name__)
STATE_FILE = "trainer_state.json"
RECORD_FILE = "checkpoint.json"
LOCK_FILE = ".training.lock"
FORMAT = 1

_LOADED = (".safetensors", ".pt", ".pth", ".bin", ".distcp", ".metadata", ".index.json")  # endings of what is loaded
_UNREAD = ("training_args.bin",)  # written by Trainer, read by nobody here


def begin(checkpoint: Path) -> None:
    """Before anything of a checkpoint is written: an older one of this name is put aside, and the new one marked as begun."""
    aside = _aside(checkpoint)
    shutil.rmtree(aside, ignore_errors=True)
    if checkpoint.exists():
        os.replace(checkpoint, aside)
    checkpoint.mkdir(parents=True)
    (checkpoint / RECORD_FILE).write_text(json.dumps({"format": FORMAT}), encoding="utf-8")


def seal(checkpoint: Path, record: Mapping[str, Any]) -> None:
    """When all files but Trainer's state are written: flush them to the disk and list them, with the run's settings."""
    files = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path.name.endswith(_LOADED) and path.name not in _UNREAD:
            _flush(path)
            files[path.relative_to(checkpoint).as_posix()] = path.stat().st_size
    write_durably(checkpoint / RECORD_FILE, json.dumps({"format": FORMAT, **record, "files": files}, indent=1))


def finish(checkpoint: Path) -> None:
    """When all of it is written: flush the last file and the names, then let go of the older one that was put aside."""
    if (checkpoint / STATE_FILE).is_file():  # not with a plain Trainer's own `save_only_model` on another machine
        _flush(checkpoint / STATE_FILE)
        sync_folder(checkpoint)
        sync_folder(checkpoint.parent)
    shutil.rmtree(_aside(checkpoint), ignore_errors=True)


def tidy(folder: Path) -> None:
    """After a kill: put back what was put aside for a checkpoint that was not finished, and remove the unfinished ones.

    Only folders that `begin` marked are removed; Trainer would count them among those to keep.
    """
    for path in sorted(folder.glob("checkpoint-*")):
        if (path / RECORD_FILE).is_file() and read_state(path) is None:
            logger.warning("%s was not written to its end; it is removed.", path)
            shutil.rmtree(path)
    for aside in sorted(folder.glob(".checkpoint-*.old")):
        path = folder / aside.name.removeprefix(".").removesuffix(".old")
        if path.exists():
            shutil.rmtree(aside)
        else:
            os.replace(aside, path)


def read_state(checkpoint: Path) -> dict[str, Any] | None:
    """Trainer's state of a checkpoint; None where it is missing or torn, or of another step than the folder's name says."""
    try:
        state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    step = checkpoint.name.removeprefix("checkpoint-")
    return None if not isinstance(state, dict) or (step.isdigit() and state.get("global_step") != int(step)) else state


def read_record(checkpoint: Path) -> dict[str, Any]:
    """What `seal` wrote.

    Raises:
        ValueError: there is none, or it is not whole, or of a later version of this package.
    """
    try:
        record = json.loads((checkpoint / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("format"), int):
        raise ValueError(
            f"{checkpoint} has no {RECORD_FILE} that can be read, so nobody knows which run it is of; another program or an "
            "older version of this one wrote it. Start a new run, with its weights as the model if you like."
        )
    if record["format"] > FORMAT:
        raise ValueError(f"{checkpoint} was written by a newer version of this package; use that one.")
    return record


def check(checkpoint: Path) -> dict[str, Any]:
    """Refuse a checkpoint that is not whole, or in which weights are pickled.

    Sizes are compared and headers are read; damage inside a file that leaves its size alone is not noticed.

    Returns:
        What `seal` wrote.

    Raises:
        ValueError: names the file, and the way out.
    """
    if not checkpoint.is_dir():
        raise ValueError(f"There is no checkpoint {checkpoint}.")
    refuse_pickled_weights(checkpoint)
    if read_state(checkpoint) is None:
        raise ValueError(
            f"{checkpoint} is half-written: {STATE_FILE}, the last file of a checkpoint, is missing or torn. Take an earlier "
            "checkpoint, or resume_from_checkpoint=True, which takes the last complete one."
        )
    record = read_record(checkpoint)
    if "files" not in record:
        raise ValueError(
            f"{checkpoint} holds a model without the state of its optimiser (save_only_model=True), so no run can go on from "
            "it. Load the model and start a new run."
        )
    if damaged := [part for part in ("files", "settings", "environment", "window") if not record.get(part)]:
        raise ValueError(
            f"{checkpoint}: {RECORD_FILE} has been changed since it was written ({', '.join(damaged)} missing or empty), so nobody "
            "knows which run and which files it is of. Take another checkpoint, or copy it anew."
        )
    for name, size in record["files"].items():
        path = checkpoint / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            what = "is missing" if found is None else f"has {found} bytes in place of {size}"
            raise ValueError(f"{checkpoint} is not whole: {name} {what}. Take another checkpoint, or copy it anew.")
        check_file(path)
    return record


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step that is whole. Others with a higher step are left aside, and said so."""
    return next((path for path, wrong in _newest_first(folder) if wrong is None), None)


def why_none(folder: Path) -> str:
    """Why no checkpoint of a folder can be resumed, as the end of a sentence."""
    wrong = [str(reason) for _, reason in _newest_first(folder, quiet=True)]
    return f"{folder} has no complete checkpoint" + (f"; the newest: {wrong[0]}" if wrong else ".")


def _newest_first(folder: Path, quiet: bool = False) -> Any:
    """(checkpoint, what is wrong with it or None), the highest step first."""
    steps = {path.name.removeprefix("checkpoint-"): path for path in folder.glob("checkpoint-*") if path.is_dir()}
    for step in sorted((step for step in steps if step.isdigit()), key=int, reverse=True):
        try:
            check(steps[step])
        except ValueError as error:
            if not quiet:
                logger.warning("A checkpoint is left aside: %s", error)
            yield steps[step], error
        else:
            yield steps[step], None


def _aside(checkpoint: Path) -> Path:
    return checkpoint.with_name(f".{checkpoint.name}.old")


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
