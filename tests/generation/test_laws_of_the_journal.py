"""What a journal calls safe was on the disk before it was called so: also a row that came while a flush was under way."""

import os

import pytest
from conftest import build_pairs

from distill.basics.jsonl import sealed_line
from distill.generation.journal import Journal

ROWS = build_pairs(3).to_list()
SETTINGS = {"teacher": "tiny", "seed": 0}


@pytest.fixture
def disk(monkeypatch):
    """A disk on which every flush of a journal takes a moment: `disk(during)` calls the function within the first."""
    real, flushes = os.fsync, []

    def arrange(during, then=None):
        def fsync(number):
            if os.fstat(number).st_size == 0 or not os.readlink(f"/proc/self/fd/{number}").endswith(".jsonl"):
                return real(number)
            flushes.append(os.fstat(number).st_size)
            if len(flushes) == 1:
                during()
            elif then:
                then()
            return real(number)

        monkeypatch.setattr(os, "fsync", fsync)
        return flushes

    return arrange


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="which file is flushed is read from /proc")
def test_a_row_that_came_during_a_flush_is_not_yet_safe(tmp_path, disk):
    """The flush after it fails: nobody knows what the disk took of that row, so it is cut off and asked for again."""

    def fails():
        raise OSError(28, "No space left on device")

    journal = Journal(tmp_path / "p.jsonl", SETTINGS, sync_seconds=0.001)
    disk(lambda: journal.append(ROWS[1:2]), fails)
    journal.append(ROWS[:1])
    with pytest.raises(OSError, match="the 1 pairs written before are safe"):
        journal.close()
    assert (tmp_path / "p.jsonl").read_bytes() == sealed_line(ROWS[0])
    assert list(journal.rows) == [ROWS[0]["id"]]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="which file is flushed is read from /proc")
def test_a_journal_is_closed_when_all_of_it_was_flushed(tmp_path, disk):
    """A row that came during a flush gets one of its own, also where the journal is closed at once."""
    journal = Journal(tmp_path / "p.jsonl", SETTINGS, sync_seconds=0.001)
    flushes = disk(lambda: journal.append(ROWS[1:]))
    journal.append(ROWS[:1])
    journal.close()
    assert flushes[-1] == sum(len(sealed_line(row)) for row in ROWS)
    assert len(flushes) > 1
