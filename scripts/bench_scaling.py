"""How time and memory of one step grow with each of its sizes: measured, fitted, drawn.

    python scripts/bench_scaling.py                             # all axes, both numbers of processes
    python scripts/bench_scaling.py --quick                     # three small points an axis
    python scripts/bench_scaling.py --axes length,ratio --rounds 9 --processes ""

Axes: `length` T, `vocabulary` V, `depth` of both models, `ratio` of the teacher's depth to the student's. Random Llamas; one
row, half of it supervised; a step is forward and backward, without the optimiser. One thread, and its processor's seconds, not
the wall's, so that other jobs on the machine add little; all points of an axis are run in turn. Writes `runs/scaling.json`
after every axis, and `docs/explanation/scaling/*.svg` and the tables of `docs/explanation/scaling.md` at the end, from all that the file has.
"""

import argparse
import dataclasses
import gc
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_processes import bench_processes
from bench_ways import forward_only, make_batch, our_step, random_model, sft_step
from measuring import machine, measure
from scaling_page import write_pictures, write_tables
from transformers import LlamaConfig

from distill import AttentionMaps, HiddenStates, Logits
from distill.models.load import fast_dtype
from distill.objectives import Comparison, next_token_divergence
from distill.objectives.divergences import by_name
from distill.planning import Setting, plan, shape_of
from distill.planning.dry_run import TEACHER
from distill.planning.plan import UPDATE
from distill.signals import HeadTap, LogitTransform

DOCS = Path(__file__).parent.parent / "docs" / "explanation"
SFT, TEACHER_FORWARD, WHITE, ALL, MAP = (
    "SFT step", "teacher forward", "white box, logits", "white box, all three", "logits map alone"
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """Of one point; the defaults are where the axes cross."""

    length: int = 512
    vocabulary: int = 16_384
    layers: int = 4
    teacher_layers: int = 8
    width: int = 256

    def config(self, layers: int) -> LlamaConfig:
        heads = self.width // 64
        return LlamaConfig(
            vocab_size=self.vocabulary, hidden_size=self.width, intermediate_size=3 * self.width, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=65_536, tie_word_embeddings=True,
        )  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """One size that grows: its values, those of the quick form, and the ways that are measured."""

    values: tuple[int, ...]
    quick: tuple[int, ...]
    ways: tuple[str, ...]

    def size(self, name: str, value: int) -> Size:
        if name == "depth":
            return Size(layers=value, teacher_layers=2 * value)
        if name == "ratio":
            return Size(teacher_layers=value * Size.layers)
        return dataclasses.replace(Size(), **{name: value})


AXES = {
    "length": Axis((128, 256, 512, 1024, 2048, 4096), (128, 256, 512), (TEACHER_FORWARD, SFT, WHITE, ALL, MAP)),
    "vocabulary": Axis(
        (4096, 8192, 16_384, 32_768, 65_536, 131_072), (4096, 8192, 16_384), (TEACHER_FORWARD, SFT, WHITE, MAP)
    ),
    "depth": Axis((2, 4, 8, 16), (1, 2, 4), (TEACHER_FORWARD, SFT, WHITE, ALL)),
    "ratio": Axis((1, 2, 4, 8), (1, 2, 4), (TEACHER_FORWARD, SFT, WHITE)),
}


def bench_axis(name: str, values: tuple[int, ...], rounds: int, dtype: torch.dtype) -> dict[str, Any]:
    """Seconds and MiB of every way at every value, and what `distill plan` foresees of memory and operations."""
    axis = AXES[name]
    sizes = [axis.size(name, value) for value in values]
    ways = {f"{way}|{size}": run for size in sizes for way, run in build(size, axis.ways, dtype).items()}
    for way in axis.ways:  # thread pools and kernels are made here, not where memory is looked at
        ways[f"{way}|{sizes[0]}"]()
    found = measure(ways, rounds, clock=time.process_time)
    kept: dict[str, Any] = {"x": list(values), "rounds": rounds, "seconds": {}, "spread": {}, "MiB": {}, "foreseen": {}}
    for way in axis.ways:
        measured = [found[f"{way}|{size}"] for size in sizes]
        kept["seconds"][way] = [m.median for m in measured]
        kept["spread"][way] = [m.spread for m in measured]
        kept["MiB"][way] = [m.mib for m in measured]
        if way in (SFT, WHITE, ALL):
            kept["foreseen"][way] = [foreseen(size, way, dtype) for size in sizes]
    return kept


def build(size: Size, names: tuple[str, ...], dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """The ways to run at this size."""
    torch.manual_seed(0)
    teacher, student = (random_model(size.config(layers), dtype) for layers in (size.teacher_layers, size.layers))
    batch = make_batch(1, size.length, 0.5, size.vocabulary, "cpu")
    student.train()
    ways: dict[str, Callable[[], object]] = {
        TEACHER_FORWARD: partial(forward_only, teacher.eval(), batch),
        SFT: partial(sft_step(student, "cpu"), batch),
        WHITE: partial(our_step(student, teacher, objectives(WHITE), "cpu"), batch),
    }
    if ALL in names:
        ways[ALL] = partial(our_step(student, teacher, objectives(ALL), "cpu"), batch)
    if MAP in names:
        ways[MAP] = map_alone(size, dtype)
    return {name: ways[name] for name in names}


def objectives(way: str) -> list[Any]:
    return [Logits()] if way == WHITE else [Logits(), HiddenStates(weight=0.1), AttentionMaps(weight=0.1)]


def map_alone(size: Size, dtype: torch.dtype) -> Callable[[], object]:
    """The divergence of all supervised rows and its gradients, without the models."""
    rows = size.length // 2

    def tap() -> HeadTap:
        hidden = torch.randn(rows, size.width, dtype=dtype)
        weight = torch.randn(size.vocabulary, size.width, dtype=dtype) * 0.05
        return HeadTap(hidden.requires_grad_(), weight.requires_grad_(), None, LogitTransform(), dtype)

    student, teacher = tap(), tap()

    def run() -> None:
        values, _ = next_token_divergence(student, teacher, Comparison(by_name("forward_kl")))
        torch.autograd.grad(values.sum(), (student.hidden, student.weight))

    return run


def foreseen(size: Size, way: str, dtype: torch.dtype) -> dict[str, float]:
    """By `distill plan`: MiB that a step adds to the weights, and operations."""
    setting = Setting(1, size.length, bf16=False, objectives=() if way == SFT else objectives(way))
    student, teacher = (shape_of(size.config(layers), dtype) for layers in (size.layers, size.teacher_layers))
    planned = plan(setting, student, None if way == SFT else teacher)
    moments = {name: sum(found.values()) for name, found in planned.moments.items() if name != UPDATE}
    return {
        "MiB": max(moments.values()) / 2**20,
        "teacher MiB": moments.get(TEACHER, 0) / 2**20,
        "TFLOP": planned.student_flops / 1e12,
        "teacher TFLOP": planned.teacher_flops / 1e12,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", default=",".join(AXES), help="some of them, by comma; empty: none")
    parser.add_argument("--processes", default="1,2", help="numbers of processes to compare; empty: leave out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="three small points an axis, 3 rounds")
    parser.add_argument("--dtype", default=str(fast_dtype()).removeprefix("torch."), help="of the weights")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/scaling.json"), help="what it has of other axes stays"
    )
    parser.add_argument("--docs", type=Path, help=f"where pictures and tables go; docs/{DOCS.name} unless --quick")
    args = parser.parse_args()
    if unknown := [name for name in args.axes.split(",") if name and name not in AXES]:
        parser.error(f"--axes has {', '.join(unknown)}; it must list some of {', '.join(AXES)}")
    dtype = getattr(torch, args.dtype)
    torch.set_num_threads(1)
    rounds = 3 if args.quick else args.rounds
    args.output.parent.mkdir(parents=True, exist_ok=True)
    kept: dict[str, Any] = json.loads(args.output.read_text()) if args.output.is_file() else {}
    kept["machine"] = f"{machine('cpu')}, {args.dtype}"
    for name in filter(None, args.axes.split(",")):
        begun = time.perf_counter()
        kept[name] = bench_axis(name, AXES[name].quick if args.quick else AXES[name].values, rounds, dtype)
        gc.collect()
        args.output.write_text(json.dumps(kept, indent=1))
        print(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)
    if args.processes:
        counts = [int(count) for count in args.processes.split(",")]
        kept["processes"] = bench_processes(counts, rounds, args.dtype, args.quick)
        args.output.write_text(json.dumps(kept, indent=1))
    docs = args.docs or (args.output.parent / "scaling" if args.quick else DOCS)
    docs.mkdir(parents=True, exist_ok=True)
    write_pictures(kept, docs / "scaling")
    print(write_tables(kept, docs / "scaling.md"))


if __name__ == "__main__":
    main()
