"""Capturing: a teacher runs once over pairs, and what it says is written beside; the training then needs no teacher."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.basics import processes
from distill.basics.disk import make_folder, sync_folder
from distill.signals.encodings import Encoding, encoding_of
from distill.signals.served_reader import ServedReader
from distill.signals.shard_index import ShardIndex
from distill.signals.shard_writer import ShardWriter
from distill.signals.shards import DAMAGED, DamagedShard, Row, damaged_rows, read_shard
from distill.signals.signal_folder import (
    LOCK,
    MANIFEST,
    begin,
    describe_tokenizer,
    note_fields,
    read_head,
    read_manifest,
    remove_parts,
    whose,
    words_of_shards,
)
from distill.signals.stored import StoredSignals
from distill.signals.teacher_reader import TeacherReader, as_teacher, check_no_other_tokenizer
from distill.signals.teacher_rows import Rows, as_tables, check_pairs, layout, rows_of, teachers_pairs
from distill.teachers.local import LocalTeacher
from distill.teachers.server import ServerTeacher


def capture(
    teacher: LocalTeacher | ServerTeacher | PreTrainedModel | str | Any,
    pairs: Any,
    *,
    output: str | os.PathLike[str],
    encoding: str | Encoding = "hidden",
    max_length: int | None = None,
    batch_tokens: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    share: bool = False,
    verify: bool = False,
    progress: bool = True,
    **settings: Any,
) -> StoredSignals:
    """Run a teacher over pairs, and store its next-token distributions at their supervised positions.

    What is there already is not done again, so an interrupted capture goes on with the same call, and pairs may be added. Where a pair
    has a teacher prompt, the teacher is shown that. A killed capture loses the shard that it was filling (at most a minute's work); all
    others are whole.

    Args:
        teacher: a `LocalTeacher`, a loaded model (perhaps quantised, or with an adapter), or a name; for `"top"` also a `ServerTeacher`.
        pairs: see `distill.pairs.columns`.
        output: a folder, made or continued.
        encoding: `"hidden"`, `"threshold"`, `"draws"`, `"top"` (a number may follow, `"threshold:16"`), or an `Encoding`.
        max_length: that of the training: longest row of the student in tokens. What it cuts off is not stored.
        batch_tokens: tokens, with padding, that the teacher is given at once (8,192; of a server 65,536); a longer row goes alone.
        tokenizer: the teacher's, where `teacher` is a loaded model that does not say where it came from.
        share: several processes (`accelerate launch`) each do their share; every one must call it.
        verify: read all bytes that are there first, and set damaged shards aside.
        progress: draw a bar.
        settings: of the encoding, by its name.

    Returns:
        The source, to be given as `teacher=` to `WhiteBoxTrainer`.

    Raises:
        ValueError: the folder holds signals of another teacher, tokenizer, precision or encoding (both values are named), or another
            process writes there; a pair without tokens to learn from, or beyond what the teacher takes (its id is named); an
            encoding that this teacher cannot fill.
        OSError: the disk is full, say; what was written is whole, and the same call goes on.

    Example:
        >>> signals = capture("smollm2-135m", pairs, output="signals", encoding="threshold", n=32)
    """
    for name, value in (("batch_tokens", batch_tokens), ("max_length", max_length)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1.")
    dataset, folder, chosen = check_pairs(pairs), Path(output).expanduser(), encoding_of(encoding, **settings)
    reader = reader_of(teacher, tokenizer)
    rows = rows_of(dataset, max_length, reader.limits, "reading pairs")
    beside = reader.open(chosen)
    wanted = {
        "teacher": reader.identity,
        "tokenizer": describe_tokenizer(reader.tokenizer),
        "encoding": {"name": chosen.name, "settings": reader.encoding.settings},
    }
    places, place = (processes.count(), processes.rank()) if share else (1, 0)
    with _opened(folder, partial(begin, folder, wanted, reader.record(), beside), verify, places, place):
        distinct = rows.distinct()
        missing = distinct & _lacking(folder, rows)
        mine = [
            batch
            for number, batch in enumerate(layout(rows.lengths, batch_tokens or reader.batch_tokens))
            if number % places == place
        ]
        todo = [batch[missing[batch]] for batch in mine if missing[batch].any()]
        total, left = (sum(int(which[batch].sum()) for batch in mine) for which in (distinct, missing))
        hidden, tables = not progress or not processes.is_main(), as_tables(dataset)
        with (
            tqdm(total=total, initial=total - left, desc="capturing", unit="pair", disable=hidden) as bar,
            ShardWriter(folder, place, whose(read_manifest(folder))) as writer,
            reader.reading(),
        ):
            for number, batch in enumerate(todo):
                blobs = reader.read(teachers_pairs(tables, batch, max_length), rows, batch)
                if place == number == 0:
                    note_fields(folder, wanted)
                writer.add(
                    [Row(rows.keys[i].tobytes(), int(rows.positions[i]), b) for i, b in zip(batch, blobs, strict=True)]
                )
                bar.update(len(batch))
            if place == 0 and not todo and missing.any():  # the others have answers
                note_fields(folder, wanted)
        if places > 1:
            _check_written(folder, writer.written)  # the locks are kept until all have written
    return StoredSignals(folder)


@contextmanager
def _opened(folder: Path, make: Callable[[], None], verify: bool, places: int, place: int) -> Iterator[None]:
    """The folder, made or found, and nobody else writes there meanwhile.

    The first process makes it and holds its lock, and every other one a lock of its own: if the first ends early, a second capture does not
    begin beside those that still write.
    """
    lock = FileLock(folder / (f"{LOCK}-{place}" if place else LOCK))
    try:
        if places == 1:
            _begin(folder, make, verify, lock)
        else:
            _all_or_none(partial(_begin, folder, make, verify, lock) if not place else None)
            _all_or_none(partial(_join, folder, make, lock) if place else None)
        yield
    finally:
        lock.release()


def _all_or_none(do: Callable[[], None] | None) -> None:
    """What some processes do before any goes on; what goes wrong in one is told by all."""
    problem = None
    try:
        if do is not None:
            do()
    except (ValueError, OSError) as error:
        problem = error
    if told := next(filter(None, processes.from_all(problem)), None):
        raise told


def _join(folder: Path, make: Callable[[], None], lock: FileLock) -> None:
    """Find the folder that the first process has made."""
    if not (folder / MANIFEST).is_file():
        raise ValueError(
            f"{folder} of process {processes.rank()} is not that of process 0, which has begun it: no manifest.json is there. All processes "
            "must write to one folder that their machines share."
        )
    make()  # compares
    lock.acquire(timeout=0)


def _check_written(folder: Path, written: list[str]) -> None:
    """Whether every process sees the shards of all."""
    lacking = [name for names in processes.from_all(written) for name in names if not (folder / name).is_file()]
    told = [number for number, names in enumerate(processes.from_all(lacking)) if names]
    if told:
        raise ValueError(
            f"{folder} is not one folder: process {told[0]} does not see all shards that the others have written. All processes must write to one "
            "folder that their machines share; copy the shards of all into one of them, whose names do not collide, and capture again."
        )


def _begin(folder: Path, make: Callable[[], None], verify: bool, lock: FileLock) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for the signals.")
    make_folder(folder)
    others = [
        FileLock(path) for path in folder.glob(f"{LOCK}-*")
    ]  # of a capture in several processes, whose first one has ended
    try:
        lock.acquire(timeout=0)
        for other in others:
            other.acquire(timeout=0)
            other.release()
    except Timeout:
        lock.release()
        raise ValueError(
            f"{folder} is being written by another process; wait for it, or give another output. Several processes share a capture with "
            "accelerate launch (capture(share=True))."
        ) from None
    try:
        make()
        remove_parts(folder)
        _set_damaged_aside(folder, verify)
    except BaseException:
        lock.release()
        raise


def _set_damaged_aside(folder: Path, verify: bool) -> None:
    """Shards that cannot be read get another name, and their rows are missing from now on."""
    damaged: list[DamagedShard] = []
    manifest = read_manifest(folder)
    index = ShardIndex(folder, damaged, words_of_shards(manifest))
    if verify:
        if encoding_of(manifest["encoding"]["name"]).next_token == "head":
            read_head(folder, manifest)
        damaged += [
            DamagedShard(path, "has rows that were changed") for path in index.paths if damaged_rows(read_shard(path))
        ]
    index.close()
    for error in damaged:
        aside = error.path.with_name(error.path.name + DAMAGED)
        os.replace(error.path, aside)
        processes.tell(f"{error.path} {error.what}. It is set aside as {aside.name}, and its rows are captured again.")
    if damaged:
        sync_folder(folder)


def reader_of(teacher: Any, tokenizer: PreTrainedTokenizerBase | None = None) -> TeacherReader | ServedReader:
    """What reads a teacher; see `capture`."""
    if isinstance(teacher, ServerTeacher):
        check_no_other_tokenizer(teacher, tokenizer)
        return ServedReader(teacher)
    return TeacherReader(as_teacher(teacher, tokenizer))


def _lacking(folder: Path, rows: Rows) -> NDArray[np.bool_]:
    """Which pairs are not there to all their positions."""
    index = ShardIndex(folder)
    found = index.find(rows.keys)
    index.close()
    lacking = found < 0
    lacking[~lacking] = index.positions[found[~lacking]] < rows.positions[~lacking]
    return lacking
