"""What stored signals cost: capturing them, training from them, the disk, and memory that does not grow with the pairs.

    python scripts/bench_signals.py                                  # all parts; Markdown tables
    python scripts/bench_signals.py epoch --layers 12 --steps 6
    python scripts/bench_signals.py memory --pairs 100000

Parts: `capture` (against the teacher's bare forward pass over the same batches: its logits at the supervised positions, and nothing done
with them), `epoch` (a training from each encoding, and from the live teacher, against plain fine-tuning on the same pairs), `memory` (many
pairs of a tiny teacher). All ways of a table are run in alternation in one process; times are the processor's seconds of this process, medians.
"""

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import datasets
import numpy as np
import torch
from measuring import _status, machine, measure, table
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from distill import BlackBoxTrainer, Logits, WhiteBoxTrainer, make_student
from distill.basics.processes import say
from distill.models.evaluating import evaluating
from distill.pairs.collate import PairCollator, supervised_rows
from distill.pairs.row_limits import RowLimits
from distill.pairs.signal_keys import key_of_pair
from distill.signals import SignalRequest, StoredSignals, SupervisedRows, capture, run_with_taps
from distill.signals.teacher_rows import as_tables, layout, rows_of, teachers_pairs
from distill.teachers import LocalTeacher

ENCODINGS = ("hidden", "hidden:8", "threshold", "draws", "top")


def pairs_of(count: int, prompt: int, completion: int, vocabulary: int, seed: int = 0) -> datasets.Dataset:
    """Pairs of random tokens of about these lengths."""
    draw = np.random.default_rng(seed)

    def lists(mean: int) -> list[np.ndarray]:
        return [draw.integers(3, vocabulary, draw.integers(mean // 2, mean * 3 // 2 + 1)) for _ in range(count)]

    ids = {"prompt_ids": lists(prompt), "completion_ids": lists(completion)}
    return datasets.Dataset.from_dict({"id": [f"row{i}" for i in range(count)], **ids})


def bench_capture(
    teacher: LocalTeacher, pairs: datasets.Dataset, rounds: int, tokens: int, folder: Path, encodings: list[str]
) -> str:
    """Captures against the bare forward pass, in the same batches; and what each costs before and after its batches."""
    rows = rows_of(pairs, None, RowLimits())
    tables, collator = as_tables(pairs), PairCollator(teacher.tokenizer)
    positions = int(rows.positions.sum())

    @torch.no_grad()
    def bare() -> None:
        with evaluating(teacher.model):
            for batch in layout(rows.lengths, tokens):
                made = collator(teachers_pairs(tables, batch, None))
                where = SupervisedRows.of(supervised_rows(made.pop("labels")))
                run_with_taps(teacher.model, teacher.model, made, where, SignalRequest(logits=True))

    runs = iter(range(10**6))

    def one(encoding: str) -> None:
        capture(
            teacher,
            pairs,
            output=folder / f"{encoding}-{next(runs)}",
            encoding=encoding,
            batch_tokens=tokens,
            progress=False,
        )

    def start(encoding: str) -> None:
        few = datasets.Dataset.from_dict({"id": ["few"], "prompt_ids": [[3, 4]], "completion_ids": [[5, 6]]})
        capture(teacher, few, output=folder / f"start-{next(runs)}", encoding=encoding, progress=False)

    ways: dict[str, Callable[[], object]] = {"bare forward": bare}
    ways |= {f"{encoding}: two tokens alone": partial(start, encoding) for encoding in ("hidden", "top")}
    ways |= {encoding: partial(one, encoding) for encoding in encodings}
    found, lines = measure(ways, rounds, clock=time.process_time), []
    for name, way in found.items():
        stored = [StoredSignals(path) for path in sorted(folder.glob(f"{name}-*"))[:1]]
        size = f"{stored[0].index.bytes / positions:,.1f}" if stored else "-"
        begins = found[f"{'hidden' if name.startswith('hidden') else 'top'}: two tokens alone"].median
        beyond = f"{found['bare forward'].median / (way.median - begins):.2f}" if name in encodings else "-"
        lines.append(
            [
                name,
                f"{way.median:.2f}",
                f"{found['bare forward'].median / way.median:.2f}",
                beyond,
                way.spread,
                size,
                f"{way.mib:,.0f}",
            ]
        )
    return table(
        [
            "way",
            "seconds",
            "of the bare forward's speed",
            "beyond start and end",
            "spread",
            "bytes a position",
            "MiB more than before",
        ],
        lines,
    )


def bench_epoch(
    teacher: LocalTeacher,
    pairs: datasets.Dataset,
    layers: int,
    batch: int,
    steps: int,
    rounds: int,
    folder: Path,
    encodings: list[str],
) -> str:
    """Trainings of so many steps from every source, against plain fine-tuning."""
    student = make_student(teacher.model, layers=layers, strategy="first_last").float()

    def settings(name: str) -> dict[str, Any]:
        args = TrainingArguments(
            str(folder / "out" / name), per_device_train_batch_size=batch, max_steps=steps, learning_rate=1e-5, save_strategy="no",
            report_to="none", logging_steps=10**6, disable_tqdm=True, use_cpu=not torch.cuda.is_available(),
        )  # fmt: skip
        return {"model": student, "args": args, "train_dataset": pairs, "processing_class": teacher.tokenizer}

    trainers: dict[str, Any] = {"fine-tuning (SFT)": BlackBoxTrainer(**settings("sft"))}
    for encoding in encodings:
        stored: Any = capture(teacher, pairs, output=folder / "epoch" / encoding, encoding=encoding, progress=False)
        trainers[encoding] = WhiteBoxTrainer(teacher=stored, objectives=[Logits()], **settings(encoding))
    trainers["live teacher"] = WhiteBoxTrainer(teacher=teacher.model, objectives=[Logits()], **settings("live"))
    ways: dict[str, Callable[[], object]] = {name: trainer.train for name, trainer in trainers.items()}
    found = measure(ways, rounds, clock=time.process_time)
    floor = found["fine-tuning (SFT)"].median
    lines = [
        [name, f"{way.median:.2f}", f"{way.median / floor:.3f}", way.spread, f"{way.mib:,.0f}"]
        for name, way in found.items()
    ]
    return table(["way", "seconds", "over SFT", "spread", "MiB more than before"], lines)


def bench_memory(count: int, folder: Path, encodings: tuple[str, ...] = ("hidden", "threshold")) -> str:
    """Many pairs of a tiny teacher: captured, opened, read in a random order; the most memory of each, and what it grew with the pairs."""
    lines = []
    for encoding in encodings:
        for some in (count // 10, count):
            place = folder / f"{encoding}-{some}"
            pairs = pairs_of(some, 12, 16, 320)
            pairs.save_to_disk(str(place / "pairs"))
            pairs = datasets.load_from_disk(str(place / "pairs"))
            begun, before = time.perf_counter(), _fresh()
            capture(tiny_teacher(), pairs, output=place / "signals", encoding=encoding, progress=False)
            captured, most = time.perf_counter() - begun, _status("VmHWM") - before
            before, begun = _fresh(), time.perf_counter()
            stored = StoredSignals(place / "signals")
            stored.check(pairs)
            opened, index = time.perf_counter() - begun, _status("VmHWM") - before
            before, begun, read = _fresh(), time.perf_counter(), 0
            order, collator = np.random.default_rng(0).permutation(some), PairCollator(tiny_tokenizer())
            for start in range(0, some, 32):
                items = pairs[order[start : start + 32].tolist()]
                made = [dict(zip(items, values, strict=True)) for values in zip(*items.values(), strict=True)]
                labels = collator(made)["labels"]
                where = SupervisedRows.of(supervised_rows(labels))
                documents = [[(key_of_pair(p), n)] for p, n in zip(made, where.counts(), strict=True)]
                said = stored.signals({"documents": documents}, where, SignalRequest())
                shown: Any = said.sparse
                read += len(said.head.hidden if said.head is not None else shown.ids)
            took, reading = time.perf_counter() - begun, _status("VmHWM") - before
            assert read == int(stored.index.positions.sum())
            lines.append(
                [encoding, f"{some:,}", f"{read:,}", f"{stored.index.bytes / 2**20:,.0f}", f"{len(stored.index.paths)}", f"{captured:.0f}",
                 f"{most / 1024:,.0f}", f"{opened:.1f}", f"{index / 1024:,.0f}", f"{took:.0f}", f"{reading / 1024:,.0f}"]
            )  # fmt: skip
            say(f"{lines[-1]}")
    return table(
        ["encoding", "pairs", "positions", "MiB on the disk", "shards", "captured in s", "MiB more", "opened and checked in s", "MiB more",
         "all read in random order in s", "MiB more"], lines,
    )  # fmt: skip


def _fresh() -> int:
    """KiB that are held now; from here on the peak is counted anew."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def tiny_tokenizer() -> Any:
    import sys

    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from conftest import build_tokenizer  # type: ignore[import-not-found]

    return build_tokenizer()


def tiny_teacher() -> LocalTeacher:
    """One layer, so that the time of a hundred thousand pairs is not the teacher's."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=128,
    )
    return LocalTeacher(LlamaForCausalLM(config).eval(), tiny_tokenizer(), name="tiny")


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["capture", "epoch", "memory"])
    parser.add_argument("--teacher", default="smollm2-135m")
    parser.add_argument("--teacher_layers", type=int, help="keep so many of the teacher's layers, for a quick look")
    parser.add_argument("--encodings", nargs="+", default=list(ENCODINGS))
    parser.add_argument("--layers", type=int, default=12, help="of the student")
    parser.add_argument("--count", type=int, default=32, help="pairs of capture and epoch")
    parser.add_argument("--prompt", type=int, default=64, help="mean tokens of a prompt")
    parser.add_argument("--completion", type=int, default=64, help="and of a completion")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--batch_tokens", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=100_000, help="of memory")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if {"capture", "epoch"} & {*flags.parts}:
            teacher = LocalTeacher(flags.teacher, dtype="float32")
            if flags.teacher_layers:
                cut = make_student(teacher.model, layers=flags.teacher_layers, strategy="first_last")
                teacher = LocalTeacher(cut, teacher.tokenizer)
            pairs = pairs_of(flags.count, flags.prompt, flags.completion, teacher.model.config.vocab_size)
            say(f"{machine('cpu')}; {len(pairs)} pairs of {flags.prompt} + {flags.completion} tokens\n")
        if "capture" in flags.parts:
            say(bench_capture(teacher, pairs, flags.rounds, flags.batch_tokens, folder, flags.encodings))
        if "epoch" in flags.parts:
            say(
                bench_epoch(
                    teacher, pairs, flags.layers, flags.batch, flags.steps, flags.rounds, folder, flags.encodings
                )
            )
        if "memory" in flags.parts:
            say(bench_memory(flags.pairs, folder))


if __name__ == "__main__":
    main()
