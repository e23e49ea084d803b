"""How many rows a second a journal takes, and how fast one of 100,000 rows opens. Used by `reliability.py`."""

import os
import random
import time
from pathlib import Path
from typing import Any

ROWS = 100_000
APPENDS = 2_000


def measure(folder: Path) -> bool:
    """Print two tables; whether every row was there."""
    from distill.generation.journal import Journal

    rows = _rows(APPENDS)
    print("## The journal: single rows appended, and opened\n")
    print(f"{APPENDS} appends of one row of {_size(rows[0]) / 1000:.1f} kB on this disk:\n")
    print("| flush to the disk | rows/s | median of an append | longest | flushes |\n|---|---|---|---|---|")
    real = os.fsync
    for seconds in (0.0, 0.005, 0.02, 0.1):
        flushes: list[float] = []

        def fsync(descriptor: Any, flushes: list[float] = flushes) -> None:
            begun = time.perf_counter()
            real(descriptor)
            flushes.append(time.perf_counter() - begun)

        os.fsync = fsync  # type: ignore[assignment]
        took = []
        try:
            with Journal(folder / f"{seconds}.jsonl", {}, sync_seconds=seconds) as journal:
                flushes.clear()
                begun = time.perf_counter()
                for row in rows:
                    before = time.perf_counter()
                    journal.append([row])
                    took.append(time.perf_counter() - before)
            whole = time.perf_counter() - begun
        finally:
            os.fsync = real
        label = f"shared, {seconds * 1000:g} ms" if seconds else "every append"
        took.sort()
        print(
            f"| {label} | {APPENDS / whole:.0f} | {took[APPENDS // 2] * 1000:.2f} ms | {took[-1] * 1000:.1f} ms | "
            f"{len(flushes)} |",
            flush=True,
        )
    return _opening(folder, rows)


def _opening(folder: Path, rows: list[dict[str, Any]]) -> bool:
    from distill.basics.jsonl import sealed_line
    from distill.generation.journal import Journal
    from distill.pairs import load_pairs

    path = folder / "many.jsonl"
    with Journal(path, {}):
        pass
    with path.open("wb") as file:
        for i in range(ROWS):
            file.write(sealed_line({**rows[i % APPENDS], "id": f"{i:016x}"}))
    begun, worked = time.perf_counter(), time.process_time()
    with Journal(path, {}) as journal:
        opened, worked = time.perf_counter() - begun, time.process_time() - worked
        count = len(journal.rows)
        begun = time.process_time()
        for i in range(1000):
            assert journal.rows[f"{i * 100:016x}"]["sample"] == rows[i * 100 % APPENDS]["sample"]
        read = (time.process_time() - begun) / 1000
    few = folder / "few.jsonl"
    few.write_bytes(b"".join(map(sealed_line, rows)))
    begun = time.process_time()
    load_pairs(few)
    parsed = (time.process_time() - begun) / APPENDS * ROWS
    print(
        f"\n{count} rows, {path.stat().st_size / 1e6:.0f} MB: opened in {opened:.1f} s ({worked:.1f} s of work of "
        f"the processor), every line checked against its checksum; then {read * 1e6:.0f} µs of work for each row that is "
        f"asked for. Making a dataset of all of them, as `load_pairs` does, takes {parsed:.0f} s of work.\n",
        flush=True,
    )
    path.unlink()
    return count == ROWS


def _rows(count: int) -> list[dict[str, Any]]:
    chance = random.Random(0)
    return [
        {
            "id": f"row{i}", "prompt": [{"role": "user", "content": "word " * 30}], "completion": "some text é " * 100,
            "prompt_ids": [chance.randrange(50_000) for _ in range(60)],
            "completion_ids": [chance.randrange(50_000) for _ in range(400)],
            "finish_reason": "stop", "sample": i, "teacher": "random",
        }
        for i in range(count)
    ]  # fmt: skip


def _size(row: dict[str, Any]) -> int:
    from distill.basics.jsonl import sealed_line

    return len(sealed_line(row))
