"""A file that was written durably is on the disk before it has its name, and its name is before anybody is told."""

import os

import pytest

from distill.basics.disk import make_folder, write_all, write_durably


@pytest.fixture
def order(monkeypatch):
    """What happened to which file or folder, in order: by inode, which a rename keeps."""
    happened = []
    real = {"fsync": os.fsync, "replace": os.replace}

    def fsync(number):
        real["fsync"](number)
        happened.append(("flushed", os.fstat(number).st_ino))

    def replace(source, target):
        happened.append(("named", os.stat(source).st_ino))
        real["replace"](source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    return happened


def test_a_durable_file_is_flushed_then_named_then_its_name_is_flushed(tmp_path, order):
    path = tmp_path / "a.json"
    write_durably(path, "old")
    order.clear()
    write_durably(path, "new")
    file, folder = path.stat().st_ino, tmp_path.stat().st_ino
    assert order == [("flushed", file), ("named", file), ("flushed", folder)]
    assert path.read_text() == "new"
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_every_new_folder_has_its_name_flushed_in_the_one_above(tmp_path, order):
    make_folder(tmp_path / "a" / "b")
    assert {inode for _, inode in order} == {tmp_path.stat().st_ino, (tmp_path / "a").stat().st_ino}


def test_a_disk_that_takes_a_part_first_gets_the_rest():
    class Slow:
        taken = b""

        def write(self, data):
            self.taken += data[:3]
            return len(data[:3])

    file = Slow()
    write_all(file, b"0123456789")
    assert file.taken == b"0123456789"
