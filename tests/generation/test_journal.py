"""The journal: whatever interrupts it, wherever, it holds whole rows, each once, and nothing else."""

import errno
import json
import os
import signal
import sys
import threading
import time

import pytest
from conftest import build_pairs, wait_until

from distill.basics import disk
from distill.basics.jsonl import is_intact, sealed_line
from distill.generation import journal
from distill.generation.journal import Journal
from distill.pairs import load_pairs

SECONDS = 60  # until a process or thread that hangs is given up
SETTINGS = {"teacher": "tiny", "seed": 0}
ROWS = build_pairs(4).to_list()


def by_id(rows):
    return {row["id"]: row for row in rows}


def content(path, settings=SETTINGS):
    with Journal(path, settings) as found:
        return dict(found.rows)


def outcome(path):
    """The rows, or the sentence."""
    try:
        return content(path)
    except ValueError as error:
        return str(error)


def write(path, rows=ROWS, settings=SETTINGS, **how):
    with Journal(path, settings, **how) as made:
        for row in rows:
            made.append([row])
    return path.read_bytes()


def in_a_child(work):
    """Run in a forked process, which ends without any cleaning up; what it ended with."""
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        try:
            work()
        except ValueError as error:
            os._exit(1 if "another process" in str(error) else 2)
        except BaseException:
            os._exit(3)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("order", [ROWS, ROWS[::-1], [*ROWS, *ROWS]])
def test_rows_come_back_whatever_their_order_each_once(tmp_path, order):
    data = write(tmp_path / "p.jsonl", order)
    assert all(map(is_intact, data.splitlines(keepends=True)))
    assert data.count(b"\n") == len(ROWS)
    assert content(tmp_path / "p.jsonl") == by_id(ROWS) == by_id(load_pairs(tmp_path / "p.jsonl"))


def test_cut_at_any_byte_it_holds_the_whole_lines_and_goes_on(tmp_path):
    path = tmp_path / "p.jsonl"
    data = write(path)
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for size in {*range(0, len(data) + 1, 7), *ends, *(end - 1 for end in ends), *(end + 1 for end in ends[:-1])}:
        path.write_bytes(data[:size])
        whole = sum(end <= size for end in ends)
        with Journal(path, SETTINGS) as found:
            assert list(found.rows) == [row["id"] for row in ROWS[:whole]]
            if size % 5 == 0:
                found.append(ROWS)
                assert path.read_bytes() == data


def test_any_flipped_byte_is_noticed(tmp_path):
    """Never a wrong row: what is found is what was written, or a sentence that names the line."""
    path = tmp_path / "p.jsonl"
    data, good = write(path, ROWS[:2]), by_id(ROWS[:2])
    refused = 0
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= (1, 4, 0x20, 0x80)[place % 4]
        path.write_bytes(damaged)
        found = outcome(path)
        refused += isinstance(found, str)
        assert "p.jsonl:" in found if isinstance(found, str) else found.items() <= good.items(), f"byte {place}"
    assert refused > 0.9 * len(data)


class Stop(BaseException):
    """As Ctrl-C."""


def test_killed_anywhere_in_the_code_it_goes_on(tmp_path):
    """The process ends without cleaning up after every fifth line: between folder, lock, settings, file, rows."""
    files = {module.__file__ for module in (journal, disk)}

    def die_at(step):
        left = [step]

        def trace(frame, event, _):
            if frame.f_code.co_filename not in files:
                return None
            left[0] -= event == "line"
            if left[0] == 0:
                os._exit(9)
            return trace

        return trace

    def work(folder, step):
        sys.settrace(die_at(step))
        with Journal(folder / "deep" / "p.jsonl", SETTINGS, sync_seconds=0) as made:
            made.append(ROWS[:1])
            made.append(ROWS[1:3])

    seen = set()
    for step in range(1, 10_000, 5):
        folder = tmp_path / str(step)
        ended = in_a_child(lambda folder=folder, step=step: work(folder, step))
        assert ended in (0, 9)
        path = folder / "deep" / "p.jsonl"
        with Journal(path, SETTINGS, sync_seconds=0) as found:
            seen.add(len(found.rows))
            found.append(ROWS)
            assert dict(found.rows) == by_id(ROWS)
        if ended == 0:
            break
    assert step > 100
    assert seen == {0, 1, 3}, "an append of several rows is there whole, or not at all"


def test_no_row_yet_then_other_settings_may_begin(tmp_path):
    path = tmp_path / "p.jsonl"
    write(path, [])
    path.write_bytes(b'{"id": "torn')
    assert content(path, {"seed": 1}) == {}
    assert json.loads((tmp_path / "p.jsonl.settings.json").read_text()) == {"journal_format": 2, "seed": 1}


def test_one_process_at_a_time_and_a_killed_one_leaves_no_lock(tmp_path):
    path = tmp_path / "p.jsonl"
    (tmp_path / "link.jsonl").symlink_to(path)
    with Journal(path, SETTINGS) as first:
        assert in_a_child(lambda: Journal(path, SETTINGS)) == 1
        assert in_a_child(lambda: Journal(tmp_path / "link.jsonl", SETTINGS)) == 1
        first.append(ROWS[:1])
    child = os.fork()
    if child == 0:
        try:
            held = Journal(path, SETTINGS)
            held.append(ROWS[1:2])
            (tmp_path / "ready").touch()
            time.sleep(2 * SECONDS)
        finally:
            os._exit(1)
    try:
        wait_until((tmp_path / "ready").exists, SECONDS)
        with pytest.raises(ValueError, match="being written by another process"):
            Journal(path, SETTINGS)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert content(path) == by_id(ROWS[:2])


def test_a_file_changed_by_another_program_is_not_written_on(tmp_path):
    path = tmp_path / "p.jsonl"
    with Journal(path, SETTINGS) as made:
        made.append(ROWS[:1])
        with path.open("ab") as other:
            other.write(sealed_line(ROWS[1]))
        with pytest.raises(ValueError, match="changed or deleted by another program"):
            made.append(ROWS[2:3])
    assert content(path) == by_id(ROWS[:2])
    with Journal(path, SETTINGS) as made:
        path.unlink()
        with pytest.raises(ValueError, match="changed or deleted by another program"):
            made.append(ROWS[2:3])


class Breaks:
    """A file whose writes go wrong after some bytes."""

    def __init__(self, file, room, error):
        self.file, self.room, self.error = file, room, error
        self.fileno, self.close = file.fileno, file.close

    def write(self, data):
        if self.room == 0:
            raise self.error
        written = self.file.write(data[: self.room])
        self.room -= written
        return written


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, None])
def test_a_write_that_breaks_off_anywhere_leaves_whole_lines_and_can_be_repeated(tmp_path, code):
    """A full disk, a quota; or Ctrl-C between two parts of a line."""
    error = OSError(code, os.strerror(code)) if code else Stop()
    for room in range(0, len(sealed_line(ROWS[1])), 25):
        path = tmp_path / str(room) / "p.jsonl"
        with Journal(path, SETTINGS) as made:
            made.append(ROWS[:1])
            before, file = path.read_bytes(), made._file
            made._file = Breaks(file, room, error)
            with pytest.raises(type(error), match="1 pairs written before are safe" if code else None):
                made.append(ROWS[1:3])
            assert path.read_bytes() == before
            assert list(made.rows) == [ROWS[0]["id"]]
            made._file = file
            made.append(ROWS[1:])
        assert content(path) == by_id(ROWS)


def test_a_failed_flush_is_told_and_what_it_covered_is_asked_again(tmp_path, monkeypatch):
    path = tmp_path / "p.jsonl"
    write(path, ROWS[:1])
    real, broken = os.fsync, OSError(errno.EIO, os.strerror(errno.EIO))

    def fsync(descriptor):
        if threading.current_thread().name == "journal":
            raise broken
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    made = Journal(path, SETTINGS, sync_seconds=0.001)
    made.append(ROWS[1:2])
    with pytest.raises(OSError, match="the 1 pairs written before are safe"):
        made.close()
    monkeypatch.undo()
    assert content(path) == by_id(ROWS[:1])


def test_appends_share_flushes_and_all_are_flushed_at_the_end(tmp_path, monkeypatch):
    real, flushed = os.fsync, []

    def fsync(descriptor):
        real(descriptor)
        flushed.append(os.fstat(descriptor).st_size)

    rows = [{**ROWS[0], "id": f"row{i}"} for i in range(200)]
    monkeypatch.setattr(os, "fsync", fsync)
    for seconds, most in ((10.0, 5), (0, 210)):
        flushed.clear()
        path = tmp_path / str(seconds) / "p.jsonl"
        data = write(path, rows, sync_seconds=seconds)
        assert len(flushed) <= most
        assert flushed[-1] == len(data)
    assert len(flushed) >= 200


def test_threads_may_append_together(tmp_path):
    rows = [{**ROWS[i % 4], "id": f"row{i}"} for i in range(400)]
    with Journal(tmp_path / "p.jsonl", SETTINGS) as made:
        threads = [
            threading.Thread(target=lambda k=k: [made.append([r]) for r in rows[k::8]], daemon=True) for k in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
    assert content(tmp_path / "p.jsonl") == by_id(rows)
    assert (tmp_path / "p.jsonl").read_bytes().count(b"\n") == 400
