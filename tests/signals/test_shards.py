"""A shard is there wholly or not at all, gives back what was written, and no changed byte of it is ever taken for one of the teacher's."""

import contextlib
import pickle
import resource
import signal
from functools import partial

import numpy as np
import pytest

from distill.signals.shard_index import ShardIndex
from distill.signals.shards import (
    DamagedShard,
    Row,
    damaged_rows,
    next_number,
    read_shard,
    shard_name,
    shards_in,
    write_shard,
)


def rows(count, seed=0, most=40):
    draw = np.random.default_rng(seed)
    return [
        Row(draw.bytes(16), int(draw.integers(1, 9)), draw.integers(0, 256, draw.integers(0, most), dtype=np.uint8))
        for _ in range(count)
    ]


def keys_of(some):
    return np.frombuffer(b"".join(row.key for row in some), np.uint8).reshape(-1, 16)


def read(folder, some):
    """The bytes of some rows, by the index of their folder."""
    index = ShardIndex(folder)
    found = index.find(keys_of(some))
    assert (found >= 0).all()
    return [blob.tobytes() for blob in index.blobs(found.tolist(), [f"pair {i}" for i in range(len(some))])]


def test_what_was_written_is_read_in_any_order(tmp_path):
    parts = [rows(7, seed) for seed in range(5)]
    for number, part in enumerate(parts):
        write_shard(tmp_path / shard_name(number % 2, number), part)
    every = [row for part in parts for row in part]
    order = np.random.default_rng(0).permutation(len(every))
    mixed = [every[i] for i in order] + every[:3]
    assert read(tmp_path, mixed) == [row.blob.tobytes() for row in mixed]
    index = ShardIndex(tmp_path)
    assert len(index) == 35
    assert index.bytes == sum(row.blob.size for row in every)
    assert index.positions[index.find(keys_of(every))].tolist() == [row.positions for row in every]
    assert (index.find(keys_of(rows(9, seed=99))) == -1).all()
    assert ShardIndex(tmp_path / "nothing").find(keys_of(every)).tolist() == [-1] * 35


def test_keys_that_begin_alike_are_told_apart(tmp_path):
    alike = [Row(b"\0" * 8 + bytes([number]) * 8, 1, np.asarray([number], np.uint8)) for number in range(6)]
    write_shard(tmp_path / shard_name(0, 0), alike[:5][::-1])
    assert read(tmp_path, alike[:5]) == [bytes([number]) for number in range(5)]
    assert ShardIndex(tmp_path).find(keys_of(alike[5:])).tolist() == [-1]


def test_of_a_key_that_is_there_twice_the_row_of_more_positions_counts(tmp_path):
    key = b"k" * 16
    for number, positions in enumerate((2, 7, 5)):
        write_shard(tmp_path / shard_name(0, number), [Row(key, positions, np.full(positions, number, np.uint8))])
    index = ShardIndex(tmp_path)
    assert len(index) == 1
    assert index.positions.tolist() == [7]
    assert read(tmp_path, [Row(key, 0, np.zeros(0))]) == [b"\1" * 7]


def test_more_shards_than_may_be_open_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("distill.signals.shard_index._OPEN", 3)
    every = rows(12)
    for number, row in enumerate(every):
        write_shard(tmp_path / shard_name(0, number), [row])
    assert read(tmp_path, every * 2) == [row.blob.tobytes() for row in every] * 2
    index = ShardIndex(tmp_path)
    index.blobs(list(range(12)), [""] * 12)
    assert len(index._files) == 3
    index.close()
    assert index.blobs([4], [""])


def test_no_changed_byte_is_taken_for_one_that_was_written(tmp_path):
    """Every byte of a file in turn: either it cannot be opened, or the row that was hit is refused by its name, or nothing was lost."""
    path, some = tmp_path / shard_name(0, 0), rows(4)
    write_shard(path, some)
    whole, right, seen = path.read_bytes(), [row.blob.tobytes() for row in some], {"opened": 0, "read": 0, "same": 0}
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        index = _tried(lambda: ShardIndex(tmp_path), str(path))
        if index is None:
            seen["opened"] += 1
            continue
        found = index.find(keys_of(some)).tolist()
        for number, (row, blob) in enumerate(zip(found, right, strict=True)):
            said = _tried(partial(_blob, index, row, number), f"pair {number}")
            if said is None:
                assert damaged_rows(read_shard(path)) == [number]
            else:
                assert said.tobytes() == blob, place
            seen["read" if said is None else "same"] += 1
        index.close()
    assert seen["read"] == sum(map(len, right)), "each byte of a row, and of no other"
    assert seen["opened"] > 300


def _blob(index, row, number):
    return index.blobs([row], [f"pair {number}"])[0]


def _tried(read, named):
    """What is read; None where it was refused as damaged, with the name and the way out."""
    try:
        return read()
    except DamagedShard as error:
        said = str(error)
    assert named in said
    assert "distill capture" in said
    return None


def test_a_torn_file_is_told_wherever_it_is_cut(tmp_path):
    path = tmp_path / shard_name(0, 0)
    write_shard(path, rows(4))
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedShard, match=r"shard-0-00000.safetensors is damaged"):
            read_shard(path)


def test_a_file_that_is_cut_while_it_is_read_is_told_too(tmp_path):
    """Through a memory map it would end the process."""
    path, some = tmp_path / shard_name(0, 0), rows(4, most=30_000)
    write_shard(path, some)
    index = ShardIndex(tmp_path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DamagedShard, match=r"pair 3 has not its checksum"):
        index.blobs([int(index.find(keys_of(some[-1:]))[0])], ["pair 3"])


def test_a_full_disk_leaves_nothing_of_a_shard(tmp_path):
    path, before = tmp_path / shard_name(0, 0), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(OSError, match=r"could not write .*shard-0-00000.safetensors \(File too large\)") as error:
            write_shard(path, rows(100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert error.value.errno == 27
    assert not list(tmp_path.iterdir())


def test_numbers_of_shards_go_on(tmp_path):
    assert next_number(tmp_path, 0) == 0
    for name in (
        "shard-0-00004.safetensors",
        "shard-0-00009.safetensors.damaged",
        "shard-1-00020.safetensors",
        "shard-x.safetensors",
    ):
        (tmp_path / name).touch()
    assert [next_number(tmp_path, process) for process in range(3)] == [10, 21, 0]
    assert [path.name for path in shards_in(tmp_path)] == ["shard-0-00004.safetensors", "shard-1-00020.safetensors"]


def test_a_damaged_shard_is_told_to_other_processes(tmp_path):
    error = DamagedShard(tmp_path / "shard-0-00000.safetensors", "is damaged (torn)")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.path, again.what) == (str(error), error.path, error.what)


def test_a_shard_of_another_version_is_refused_and_not_set_aside(tmp_path):
    path = tmp_path / shard_name(0, 0)
    write_shard(path, rows(3))
    data = path.read_bytes().replace(b'"format":"2"', b'"format":"7"')
    path.write_bytes(data)
    damaged = []
    with pytest.raises(ValueError, match=r"of format '7', from another version of distill; this one reads '2'"):
        ShardIndex(tmp_path, damaged)
    assert not damaged


def test_too_many_open_files_are_called_so(tmp_path):
    path = tmp_path / shard_name(0, 0)
    write_shard(path, rows(3))
    before, held = resource.getrlimit(resource.RLIMIT_NOFILE), []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[0], 400), before[1]))
        with contextlib.suppress(OSError):
            for _ in range(400):
                held.append(path.open("rb"))
        with pytest.raises(OSError, match="Too many open files"):
            read_shard(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for file in held:
            file.close()


def test_a_shard_that_was_moved_since_it_was_opened_is_told(tmp_path):
    some = rows(3)
    path = tmp_path / shard_name(0, 0)
    write_shard(path, some)
    index = ShardIndex(tmp_path)
    path.rename(path.with_name(path.name + ".damaged"))
    with pytest.raises(
        ValueError, match=r"shard-0-00000.safetensors is gone since the folder was opened: .* Open the folder anew"
    ):
        index.blobs([0], ["pair 0"])
