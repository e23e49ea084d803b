"""One step on one process and on several: what sharing the machine costs, and what exchanging gradients costs.

    python scripts/bench_processes.py --count 2

Every process has rows of its own (a larger batch, not a faster one). In turn, on the wall's clock: one process alone while the
others wait; all of them, each for itself; all of them under DDP, whose gradients meet over gloo. The slowest process counts.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from bench_ways import arguments, make_batch, random_model
from measuring import Measured, peak_memory
from transformers import LlamaConfig, Trainer

from distill import Logits, WhiteBoxTrainer
from distill.pairs.collate import supervised_rows

LENGTHS, QUICK = (128, 512, 2048), (64, 128)
ALONE, APART, TOGETHER = "one alone", "each for itself", "DDP"
WAYS = ("SFT step", "white box, logits")


def bench_processes(counts: list[int], rounds: int, dtype: str, quick: bool) -> dict[str, Any]:
    """The largest of `counts` beside one: seconds by way, length and manner.

    Raises:
        RuntimeError: a process failed; with the end of what it said.
    """
    count = max(counts)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}", __file__, "--count",
        str(count), "--rounds", str(rounds), "--dtype", dtype, *["--quick"] * quick,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise RuntimeError(f"The processes failed:\n{result.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return found


def measure_here(lengths: tuple[int, ...], rounds: int, dtype: torch.dtype) -> dict[str, Any]:
    """In every process; all get the same figures."""
    config = LlamaConfig(
        vocab_size=16_384, hidden_size=256, intermediate_size=768, num_hidden_layers=8, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    teacher = random_model(config, dtype).eval()
    kept: dict[str, Any] = {
        "count": dist.get_world_size() if dist.is_initialized() else 1, "x": list(lengths), "seconds": {}, "MiB": {},
        "gradient bytes": sum(p.numel() * p.element_size() for p in teacher.parameters()),
    }  # fmt: skip
    for way in WAYS:
        steps = {manner: _step(way, config, teacher, dtype, manner == TOGETHER) for manner in (ALONE, APART, TOGETHER)}
        kept["count"] = dist.get_world_size()  # the first trainer has met the others
        runs: dict[str, Callable[[], object]] = {}
        for length in lengths:
            batch = make_batch(1, length, 0.5, config.vocab_size, "cpu")
            runs.update({f"{manner}|{length}": partial(step, batch) for manner, step in steps.items()})
        found = _in_turn(runs, rounds)
        kept["seconds"][way] = {m: [found[f"{m}|{t}"].median for t in lengths] for m in steps}
        kept["MiB"][way] = {m: [found[f"{m}|{t}"].mib for t in lengths] for m in steps}
    return kept


def _step(way: str, config: LlamaConfig, teacher: Any, dtype: torch.dtype, wrapped: bool) -> Callable[[Any], None]:
    student = random_model(config, dtype).train()
    if way == "SFT step":
        trainer: Any = Trainer(model=student, args=arguments("cpu"))
    else:
        trainer = WhiteBoxTrainer(
            model=student, teacher=teacher, objectives=[Logits()], args=arguments("cpu"), data_collator=lambda rows: rows
        )  # fmt: skip
    model: Any = trainer.accelerator.prepare_model(student) if wrapped else student

    def step(batch: Any) -> None:
        items = supervised_rows(batch["labels"]).sum() * (dist.get_world_size() if wrapped else 1)
        trainer.compute_loss(model, dict(batch), num_items_in_batch=items).backward()
        student.zero_grad()

    return step


def _in_turn(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, Measured]:
    found = {name: Measured() for name in runs}
    for number in range(rounds + 1):  # the first looks at memory
        for name, run in runs.items():
            gc.collect()
            waits = name.startswith(ALONE) and dist.get_rank() > 0
            dist.barrier()
            begun = time.perf_counter()
            mib = 0.0
            if not waits:
                if number == 0:
                    mib = peak_memory(run, "cpu")
                else:
                    run()
            seen = torch.tensor([0.0 if waits else time.perf_counter() - begun, mib], dtype=torch.float64)
            dist.all_reduce(seen, dist.ReduceOp.MAX)
            if number == 0:
                found[name].mib = float(seen[1])
            else:
                found[name].seconds.append(float(seen[0]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2, help="of processes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if "RANK" not in os.environ:
        print(json.dumps(bench_processes([args.count], args.rounds, args.dtype, args.quick), indent=1))
        return
    found = measure_here(QUICK if args.quick else LENGTHS, args.rounds, getattr(torch, args.dtype))
    if dist.get_rank() == 0:
        print(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
