"""Time and peak memory of functions that are run in alternation, so that a noisy machine is unkind to all alike."""

import ctypes
import gc
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers


@dataclass
class Measured:
    """Of one way: seconds of each run, and the most memory that a run added to what was there before it."""

    seconds: list[float] = field(default_factory=list)
    mib: float = 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> str:
        """Smallest and largest run over the median."""
        return f"{min(self.seconds) / self.median:.2f}-{max(self.seconds) / self.median:.2f}"


def measure(
    ways: dict[str, Callable[[], object]],
    rounds: int,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Measured]:
    """Every way once to warm up, seeing its memory meanwhile, then `rounds` times in turn.

    `clock`: `time.process_time` counts the processor's seconds only, which other jobs on the machine add little to.
    """
    found = {name: Measured() for name in ways}
    for name, way in ways.items():
        found[name].mib = peak_memory(way, device)
    for _ in range(rounds):
        for name, way in ways.items():
            gc.collect()
            synchronize(device)
            begun = clock()
            way()
            synchronize(device)
            found[name].seconds.append(clock() - begun)
    return found


def peak_memory(way: Callable[[], object], device: str) -> float:
    """MiB that the way needs above what is held before it."""
    gc.collect()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)  # or memory freed earlier would hide what is needed now
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to the present
    before = _status("VmRSS")
    way()
    return (_status("VmHWM") - before) / 1024


def host_waits(way: Callable[[], object]) -> int:
    """How often CUDA says that the host waited for it while the way ran."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            way()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(one.message) for one in said)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}; memory can only be measured on Linux.")


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def machine(device: str) -> str:
    """One line about what was measured on."""
    if device != "cpu":
        name = torch.cuda.get_device_name()
    else:
        info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
        names = [line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")]
        extra = "with" if "avx512_bf16" in info else "without"
        name = f"{names[0] if names else platform.processor()} ({torch.get_num_threads()} threads, {extra} AVX512-BF16)"
    return f"{name}, torch {torch.__version__}, transformers {transformers.__version__}"


def earlier_tables(path: Path) -> dict[str, str]:
    """Tables of earlier runs by title, each below the machine that it was measured on.

    Files once had one machine for all, under "Machine"; it is written above each of theirs.
    """
    kept: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    before = kept.pop("Machine", None)
    return kept if before is None else {title: f"{before}\n\n{text}" for title, text in kept.items()}


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
