"""Generation survives a server that fails, kill -9 and a full disk; the long version is `scripts/reliability.py`."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import build_model, build_tokenizer
from fake_server import FakeServer
from fault_proxy import FAULTS, FaultProxy

from distill import generate
from distill.running.folder import one_sentence
from distill.teachers import LocalTeacher, ServerTeacher

SCRIPT = Path(__file__).parents[2] / "scripts" / "reliability.py"
REQUESTS = 200


def lines_of(path):
    """The lines of a journal as a set; every id once."""
    lines = path.read_bytes().splitlines()
    assert len({json.loads(line)["id"] for line in lines}) == len(lines)
    return set(lines)


def test_a_server_that_fails_changes_nothing(tmp_path):
    """30% of the requests fail in eight ways: every pair comes, once, and is the one of the fault-free run."""
    prompts = [f"the cat {i}" for i in range(REQUESTS)]
    with FakeServer(latency=0.005) as server, FaultProxy(server.url, rate=0.0, hang=4) as proxy:
        teacher = ServerTeacher(proxy.url, tokenizer=build_tokenizer(), timeout=3, backoff=0.02)
        free = generate(teacher, prompts, output=tmp_path / "free.jsonl", progress=False)
        before = proxy.requests  # on a busy machine a good answer may come too late, and is asked for again
        assert before >= REQUESTS
        assert not proxy.seen
        proxy.rate = 0.3
        faulty = generate(teacher, prompts, output=tmp_path / "faulty.jsonl", progress=False)
    assert set(proxy.seen) == set(FAULTS), "every kind of fault was met"
    assert proxy.requests - before >= REQUESTS + sum(proxy.seen.values())
    assert lines_of(tmp_path / "faulty.jsonl") == lines_of(tmp_path / "free.jsonl")
    assert faulty.to_list() == free.to_list()
    assert len(faulty) == REQUESTS


def test_killed_again_and_again_it_ends_as_the_unbroken_run():
    """A run against a server and a local one: the script's verdict, and its exit status."""
    flags = [sys.executable, SCRIPT, "kills", "--kills", "4", "--rows", "40"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(flags, capture_output=True, text=True, timeout=400, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    rows = [[c.strip() for c in line.split("|")] for line in result.stdout.splitlines() if line.startswith("| ")][1:]
    assert [[*row[1:3], row[4], row[-2]] for row in rows] == [
        [teacher, "40", "4", "equal to the unbroken one"] for teacher in ("server", "local")
    ]


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 16 KiB; a function makes room on it."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", place], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"mounting a small disk is not allowed here ({made.stderr.strip()})")
    yield place, lambda: subprocess.run(["mount", "-o", "remount,size=4m", place], check=True)
    subprocess.run(["umount", "-l", place], check=True)  # a traceback may hold the file open


def test_a_disk_that_fills_up_loses_nothing(small_disk, tmp_path, capsys):
    place, make_room = small_disk
    teacher = LocalTeacher(build_model(), build_tokenizer(), name="tiny")

    def run(path):
        generate(
            teacher, [f"the cat {i}" for i in range(60)], max_new_tokens=16, batch_size=4, output=path, progress=False
        )

    run(tmp_path / "whole.jsonl")
    with pytest.raises(OSError, match="pairs written before are safe") as error:
        run(place / "pairs.jsonl")
    assert error.value.errno == errno.ENOSPC
    kept = (place / "pairs.jsonl").read_bytes()
    assert kept.endswith(b"\n")
    assert 0 < len(lines_of(place / "pairs.jsonl")) < 60
    assert lines_of(place / "pairs.jsonl") < lines_of(tmp_path / "whole.jsonl")
    with pytest.raises(SystemExit):
        one_sentence(run)(place / "pairs.jsonl")
    assert "Free some space and give the same command again" in capsys.readouterr().err
    assert (place / "pairs.jsonl").read_bytes() == kept
    make_room()
    run(place / "pairs.jsonl")
    assert lines_of(place / "pairs.jsonl") == lines_of(tmp_path / "whole.jsonl")
    assert (place / "pairs.jsonl").read_bytes().startswith(kept)
