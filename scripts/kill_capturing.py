"""kill -9 at random moments of a capture, again and again, until it has finished. Prints a Markdown table.

    python scripts/kill_capturing.py               # 30 kills of each encoding, about two minutes on two cores

Each life of a capture is a child of the process in `nursery.py`: it calls `capture`, is killed by its id, and the next one goes on. After
each kill the folder is opened and every row of it read: what is there has to be what the unbroken capture wrote, byte for byte.

Ends with status 1 if anything differs. Needs the `dev` extra.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
TESTS = Path(__file__).parent.parent / "tests"
sys.path.insert(0, str(TESTS))

from nursery import Nursery, serve  # noqa: E402

ENCODINGS = ("hidden", "threshold")
SHARD = 2**14  # bytes: a shard every few batches


def main() -> None:
    """Kill captures of each encoding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="of each encoding")
    parser.add_argument("--pairs", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    print(f"## kill -9: {flags.kills} times at random moments of a capture of {flags.pairs} pairs\n")
    print(
        "| encoding | unbroken capture | kill -9 | in captures | shards | half-written files | new rows in a life | rows there twice | the end |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    good = True
    with tempfile.TemporaryDirectory() as folder, Nursery(__file__, "lives", str(flags.pairs)) as nursery:
        for encoding in ENCODINGS:
            good &= _one_encoding(Path(folder) / encoding, encoding, nursery, flags.kills, random.Random(flags.seed))
    print(
        "\nIn captures: one that finishes before all kills were made is begun anew for the rest of them. Half-written files: found "
        "after a kill; the next life removes them.\n"
    )
    print("Everything as in the unbroken capture." if good else "SOMETHING DIFFERS: see above.", flush=True)
    raise SystemExit(not good)


def _one_encoding(folder: Path, encoding: str, nursery: Nursery, count: int, chance: random.Random) -> bool:
    from signal_runs import contents  # type: ignore[import-not-found]

    whole, broken = folder / "whole", folder / "broken"
    begun = time.perf_counter()
    nursery.start(encoding, whole)
    assert nursery.ended() == 0, "the unbroken capture failed"
    took, right, total = time.perf_counter() - begun, contents(whole), _shards(whole)
    done, runs, half, twice, good, new, before = 0, 1, 0, 0, True, [], 0
    while True:
        nursery.start(encoding, broken)
        now = _shards(broken)
        share = 2 * (total - now) / (count - done + 1)  # so that the capture lasts for all the kills
        goal, wait = now + chance.uniform(0, share), chance.uniform(0, took / total)
        while done < count and nursery.alive() and _shards(broken) < goal:
            time.sleep(0.001)
        time.sleep(wait if done < count else 0)
        if done < count and nursery.alive():
            nursery.kill()
            done += 1
            half += sum(1 for _ in broken.glob("*.part"))
            found = contents(broken) if (broken / "manifest.json").exists() else {}
            twice += _rows(broken) - len(found)
            good &= found.items() <= right.items() and len(found) >= before
            new.append(len(found) - before)
            before = len(found)
            continue
        assert nursery.ended() == 0, "a life that was not killed failed"
        found = contents(broken)
        good &= found == right
        twice += _rows(broken) - len(found)
        if done >= count:
            break
        for path in sorted(broken.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        runs, before = runs + 1, 0
    good &= not twice
    print(
        f"| {encoding} | {took:.1f} s | {done} | {runs} | {total} | {half} | {min(new)} to {max(new)} | {twice} | "
        f"{'equal, every byte' if good else 'DIFFERS'} |",
        flush=True,
    )
    return good


def _shards(folder: Path) -> int:
    return sum(1 for _ in folder.glob("shard-*.safetensors"))


def _rows(folder: Path) -> int:
    from distill.signals.shards import read_shard, shards_in

    return sum(len(read_shard(path).positions) for path in shards_in(folder))


def _lives(pairs: int) -> None:
    """The process that forks the lives of a capture."""
    from conftest import build_pairs  # type: ignore[import-not-found]
    from signal_runs import captured, small_shards, teacher

    small_shards(SHARD)
    rows, asked = build_pairs(pairs), teacher()

    def life(encoding: str, folder: str) -> None:
        captured(Path(folder), rows, asked, encoding=encoding, batch_tokens=200)

    serve(life)


if __name__ == "__main__":
    if sys.argv[1:2] == ["lives"]:
        _lives(int(sys.argv[2]))
    else:
        main()
