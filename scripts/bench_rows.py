"""What rows cost before a training: CPU seconds and peak memory of each stage, beside the library alone.

    python scripts/bench_rows.py                       (100,000 pairs of 150 tokens; each stage in a process of its own)
    python scripts/bench_rows.py --rows 1000000 load pack

Memory is what a process has of its own (RssAnon), at most, above what it had before the stage: pages of a mapped file are the system's, which takes them
back when it needs them. One function a stage: what it is given is made before the clock starts.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_pairs(path: Path, rows: int) -> None:
    """Pairs of about 120 words and 150 tokens, with ids."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(5000)]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            row = {
                "id": f"{draw.getrandbits(64):016x}",
                "prompt": [{"role": "user", "content": " ".join(draw.choices(words, k=35))}],
                "completion": " ".join(draw.choices(words, k=85)),
                "prompt_ids": draw.choices(range(3, 49000), k=45),
                "completion_ids": [*draw.choices(range(3, 49000), k=104), 2],
                "finish_reason": "stop",
                "sample": 0,
                "teacher": "smollm2-135m",
                "token_source": "teacher",
            }
            file.write(json.dumps(row) + "\n")


def load_alone(path: Path) -> Callable[[], Any]:
    """`datasets.load_dataset`, which checks nothing."""
    import datasets

    return lambda: datasets.load_dataset("json", data_files=str(path), split="train")


def load(path: Path) -> Callable[[], Any]:
    """`load_pairs`."""
    from distill.pairs.reading import load_pairs

    return lambda: load_pairs(path)


def load_again(path: Path) -> Callable[[], Any]:
    """The same file a second time."""
    run = load(path)
    run()
    return run


def save(path: Path) -> Callable[[], Any]:
    """JSON Lines out again."""
    from distill.pairs.writing import save_pairs

    pairs = load(path)()
    return lambda: save_pairs(pairs, Path(os.environ["HF_DATASETS_CACHE"]) / "out.jsonl")


def save_alone(path: Path) -> Callable[[], Any]:
    """`Dataset.to_json`."""
    pairs = load_alone(path)()
    return lambda: pairs.to_json(str(Path(os.environ["HF_DATASETS_CACHE"]) / "out.jsonl"), force_ascii=False)


def pack(path: Path) -> Callable[[], Any]:
    """Bins of 2048 tokens, and a look at the first."""
    from distill.pairs.packing import pack_pairs

    pairs = load(path)()
    return lambda: pack_pairs(pairs, 2048)[0]


STAGES: dict[str, Callable[[Path], Callable[[], Any]]] = {
    "load_alone": load_alone, "load": load, "load_again": load_again, "save_alone": save_alone, "save": save, "pack": pack,
}  # fmt: skip


def anonymous() -> float:
    """GiB of this process's own memory."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("RssAnon:")[2].split()[0]) / 2**20


def measure(name: str, path: Path) -> None:
    """Run one stage in this process and print a line of figures."""
    import datasets

    datasets.disable_progress_bars()
    run = STAGES[name](path)
    before, most, ended = anonymous(), [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.005):
            most[0] = max(most[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    cpu = time.process_time()
    run()
    cpu = time.process_time() - cpu
    ended.set()
    watcher.join()
    print(f"{name:12} {cpu:8.2f} s {max(0.0, most[0] - before):8.2f} GiB", flush=True)


def main() -> None:
    """Each stage in a process of its own, on one thread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", default=list(STAGES), help=f"of {', '.join(STAGES)}")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--file", type=Path, help="pairs that are there already")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.here:
        measure(flags.stages[0], flags.file)
        return
    folder = Path(tempfile.mkdtemp())
    try:
        file = flags.file or folder / "pairs.jsonl"
        if flags.file is None:
            write_pairs(file, flags.rows)
        print(f"{file.stat().st_size / 1e6:.0f} MB; stage, CPU seconds, memory above the start", flush=True)
        for stage in flags.stages:
            cache = folder / "cache"
            setting = {**os.environ, "HF_DATASETS_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
            cache.mkdir()
            subprocess.run([sys.executable, __file__, stage, "--here", "--file", str(file)], env=setting, check=True)
            shutil.rmtree(cache)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
