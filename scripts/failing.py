"""A server that fails, disks that fill up, damaged files. Used by `reliability.py`."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent / "tests"
PROMPTS = [f"what is a colour {i}" for i in range(60)]


def failing_server(folder: Path, requests: int, seed: int) -> bool:
    """The same run through the proxy without and with faults; whether every pair came exactly once, and the same."""
    from conftest import build_tokenizer  # type: ignore[import-not-found]
    from fault_proxy import FAULTS  # type: ignore[import-not-found]

    from distill import generate
    from distill.teachers import ServerTeacher

    print(f"## A server that fails: {requests} completions, 32 at once, 30% of the requests fail\n")
    prompts, lines, calls, seconds = [f"the cat {i}" for i in range(requests)], {}, {}, {}
    with _serving("fake_server.py", "--latency", "0.02") as (server, _):
        port, reports = 0, {}
        for rate in (0.0, 0.3):
            flags = ("--server", server, "--rate", f"{rate}", "--seed", f"{seed}", "--hang", "8", "--port", f"{port}")
            with _serving("fault_proxy.py", *flags) as (url, process):
                port = int(url.rpartition(":")[2].partition("/")[0])
                teacher = ServerTeacher(url, tokenizer=build_tokenizer(), timeout=6, backoff=0.1)
                path, calls[rate], begun = folder / f"{rate}.jsonl", 0, time.perf_counter()
                while calls[rate] < 10:
                    calls[rate] += 1
                    try:
                        generate(teacher, prompts, output=path, progress=False)
                        break
                    except ValueError as error:
                        print(f"Call {calls[rate]} ended with: {error}\n", flush=True)
                seconds[rate] = time.perf_counter() - begun
                reports[rate] = json.loads(process.communicate("")[0])
            lines[rate] = path.read_bytes().splitlines()
    seen = reports[0.3]["seen"]
    print("| fault | times |\n|---|---|")
    print("\n".join(f"| {fault} | {seen.get(fault, 0)} |" for fault in FAULTS))
    print(f"\n{reports[0.3]['requests']} requests met {sum(seen.values())} faults. ", end="")
    unique = {json.loads(line)["id"] for line in lines[0.3]}
    print(f"The journal has {len(lines[0.3])} lines with {len(unique)} ids. ", end="")
    same = set(lines[0.0]) == set(lines[0.3]) and len(unique) == len(lines[0.3]) == requests
    print(f"Without faults {seconds[0.0]:.1f} s, with them {seconds[0.3]:.1f} s in {calls[0.3]} call(s) of `generate`.")
    print(f"The two journals, line by line, whatever the order: {'equal' if same else 'DIFFERENT'}.\n", flush=True)
    return same and all(seen.get(fault) for fault in FAULTS)


@contextmanager
def _serving(program: str, *flags: str) -> Iterator[tuple[str, Any]]:
    process = subprocess.Popen(
        [sys.executable, TESTS / program, *flags], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    try:
        yield process.stdout.readline().strip(), process
    finally:
        process.terminate()
        process.wait()


def full_disks(folder: Path, sizes: Sequence[int] = range(4, 53, 4)) -> bool:
    """A run on a disk too small for it, for many sizes; then with room. Whether only whole lines were there, and all at last."""
    from conftest import build_model, build_tokenizer

    from distill import generate
    from distill.teachers import LocalTeacher

    teacher = LocalTeacher(build_model(), build_tokenizer(), name="tiny")

    def run(path: Path) -> None:
        generate(teacher, PROMPTS, samples=2, max_new_tokens=16, batch_size=4, output=path, progress=False)

    run(folder / "whole.jsonl")
    whole = set((folder / "whole.jsonl").read_bytes().splitlines())
    place = folder / "small"
    place.mkdir()
    mounted = _mounts(place)
    print("## A disk that fills up\n")
    print(
        "A tmpfs of each size, later enlarged by a remount."
        if mounted
        else "Mounting a small tmpfs is not allowed here, so the size of files is limited in its place (RLIMIT_FSIZE)."
    )
    print("\n| KiB | error | lines | whole | after there is room |\n|---|---|---|---|---|")
    good, told = True, ""
    for size in sizes:
        with _small_disk(place, size, mounted) as make_room:
            path, error = place / "pairs.jsonl", ""
            try:
                run(path)
            except OSError as raised:
                told = raised.strerror or ""
                error = os.strerror(raised.errno or 0)
            data = path.read_bytes()
            lines = data.splitlines()
            some = data.endswith(b"\n") * bool(lines) or not data
            some = some and set(lines) <= whole and len(set(lines)) == len(lines)
            make_room()
            run(path)
            last = path.read_bytes().splitlines()
            same = set(last) == whole and len(last) == len(whole)
        good &= bool(error) and bool(some) and same
        print(
            f"| {size} | {error or 'NONE'} | {len(lines)} | {'yes' if some else 'NO'} | {'equal' if same else 'DIFFERS'} |"
        )
    print(f"\nThe sentence, the last time: {told.replace(str(place), 'DISK')}.\n", flush=True)
    return good


def _mounts(place: Path) -> bool:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True).returncode:
        return False
    subprocess.run(["umount", "-l", place], check=True)
    return True


@contextmanager
def _small_disk(place: Path, kib: int, mounted: bool) -> Iterator[Any]:
    if mounted:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", place], check=True)
        try:
            yield lambda: subprocess.run(["mount", "-o", "remount,size=16m", place], check=True)
        finally:
            subprocess.run(["umount", "-l", place], check=True)
        return
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kib * 1024, before[1]))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
        for path in place.iterdir():
            path.unlink()


def fuzzing(examples: int) -> bool:
    """The tests of tests/pairs/test_fuzz.py with more examples; how many ended in a sentence and how many in rows."""
    os.environ["FUZZ_EXAMPLES"] = str(examples)
    sys.path.insert(0, str(TESTS / "pairs"))
    import test_fuzz  # type: ignore[import-not-found]

    print(f"## Damaged files and arbitrary bytes: {examples} examples of each kind\n")
    begun = time.perf_counter()
    for name, test in vars(test_fuzz).items():
        if name.startswith("test_") and name != "test_each_piece_at_each_place_of_a_row":
            test()
    for piece in test_fuzz.PIECES:
        test_fuzz.test_each_piece_at_each_place_of_a_row(piece)
    print("| what was read: how it ended | examples |\n|---|---|")
    print("\n".join(f"| {kind} | {count} |" for kind, count in sorted(test_fuzz.SEEN.items())))
    print(f"\nNo wrong row and no crash in {time.perf_counter() - begun:.0f} s.\n", flush=True)
    return True
