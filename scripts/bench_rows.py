"""What rows cost before a training: CPU seconds and peak memory of each stage, beside the library alone.

    python scripts/bench_rows.py                       (100,000 pairs of 150 tokens; each stage in a process of its own)
    python scripts/bench_rows.py --rows 1000000 load pack train

Memory is what a process has of its own (RssAnon), at most, above what it had before the stage: pages of a mapped file are the system's, which takes them
back when it needs them; of a whole command it is all it has. One function a stage: what it is given is made before the clock starts.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Cost(NamedTuple):
    """CPU seconds, GiB."""

    cpu: float
    gib: float


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


def started(path: Path, change: Callable[[Any], Any] = lambda pairs: pairs, **settings: Any) -> Callable[[], Any]:
    """A black box of the smallest student is made, and takes one step: all that a start does with every row, and nearly no model."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainingArguments

    from distill.trainers.black_box import BlackBoxTrainer

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "</s>": 2}, unk_token="<unk>")),
        pad_token="<pad>", unk_token="<unk>", eos_token="</s>",
    )  # fmt: skip
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    student = LlamaForCausalLM(LlamaConfig(vocab_size=49152, **sizes))
    args = TrainingArguments(
        str(Path(os.environ["HF_DATASETS_CACHE"]) / "run"), max_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True,
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    pairs = change(load(path)())
    run = {"args": args, "train_dataset": pairs, "processing_class": tokenizer, **settings}
    return lambda: BlackBoxTrainer(student, **run).train()


def train(path: Path) -> Callable[[], Any]:
    """The start of a training on pairs as they were loaded."""
    return started(path)


def train_chosen(path: Path) -> Callable[[], Any]:
    """The same on the larger part of a split: rows in an order of their own, which stand nowhere in that order."""
    return started(path, lambda pairs: pairs.train_test_split(0.01, seed=0)["train"])


def train_masked(path: Path) -> Callable[[], Any]:
    """The same on pairs with a loss mask."""
    import numpy as np
    import pyarrow as pa

    def masked(table: pa.Table) -> pa.Table:
        sizes = np.asarray(table["completion_ids"].combine_chunks().value_lengths())
        ends = np.concatenate([[0], sizes.cumsum()]).astype(np.int32)
        mask = pa.ListArray.from_arrays(ends, (np.arange(ends[-1]) % 3 > 0).astype(np.int8))
        return table.append_column("loss_mask", mask)

    return started(path, lambda pairs: pairs.with_format("arrow").map(masked, batched=True).with_format(None))


def train_packed(path: Path) -> Callable[[], Any]:
    """The same in bins of 512 tokens."""
    return started(path, packing=True, max_length=512)


def scored(path: Path) -> Any:
    """The pairs as four samples of each prompt, half of them right."""
    import numpy as np

    pairs = load(path)()
    prompts = pairs.select(np.repeat(np.arange(0, len(pairs), 4), 4)[: len(pairs)]).select_columns(["prompt_ids"])
    rows = np.arange(len(pairs))
    others = pairs.remove_columns(["prompt_ids", "sample"])
    return (
        others.add_column("prompt_ids", prompts.with_format("arrow")[:]["prompt_ids"].to_pylist())
        .add_column("sample", (rows % 4).astype(np.int32))
        .add_column("score", (rows * 7 % 11 < 6).astype(float))
    )


def select(path: Path) -> Callable[[], Any]:
    """The first two right answers of each prompt, and what that does to the distribution."""
    from distill.curation.selection import select as choose

    pairs = scored(path)
    return lambda: choose(pairs, "up_to", k=2)


def repetition(path: Path) -> Callable[[], Any]:
    """Gopher's thirteen shares of each completion."""
    from distill.curation.filters import filter_repetition

    pairs = load(path)()
    return lambda: filter_repetition(pairs)


def near(path: Path) -> Callable[[], Any]:
    """Near duplicates among all prompts."""
    from distill.curation.duplicates import drop_near_duplicates

    pairs = load(path)()
    return lambda: drop_near_duplicates(pairs)


def command(*flags: str) -> Callable[[Path], Callable[[], Any]]:
    """A whole command in a process of its own, start and reading included."""

    def stage(path: Path) -> Callable[[], Any]:
        folder = Path(os.environ["HF_DATASETS_CACHE"])
        few = folder / "few.jsonl"
        with path.open("rb") as file:
            few.write_bytes(b"".join(line for _, line in zip(range(3), file, strict=False)))
        places = {"FILE": str(path), "FEW": str(few), "OUT": str(folder / "out.jsonl")}
        run = [sys.executable, "-m", "distill.cli", *(places.get(flag, flag) for flag in flags)]

        def whole() -> Cost:
            process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            most = 0.0
            while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
                most = max(most, anonymous(process.pid))
                time.sleep(0.005)
            assert process.stderr is not None
            said = process.stderr.read().decode()
            # ids that are drawn are no text: inspect says so and ends with 1
            assert not re.search("Error|Traceback", said), said
            return Cost(ended[2].ru_utime + ended[2].ru_stime, most)

        return whole

    return stage


STAGES: dict[str, Callable[[Path], Callable[[], Any]]] = {
    "load_alone": load_alone, "load": load, "load_again": load_again, "save_alone": save_alone, "save": save, "pack": pack,
    "train": train, "train_chosen": train_chosen, "train_masked": train_masked, "train_packed": train_packed,
    "select": select, "repetition": repetition, "near": near, "inspect": command("inspect", "FILE"),
    "clean": command("clean", "FILE", "--output", "OUT"), "inspect_three": command("inspect", "FEW"),
}  # fmt: skip


def anonymous(process: int | str = "self") -> float:
    """GiB of a process's own memory; 0 of one that has just ended."""
    words = Path(f"/proc/{process}/status").read_text(encoding="utf-8").partition("RssAnon:")[2].split()
    return int(words[0]) / 2**20 if words else 0.0


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
    found = run()
    cpu = time.process_time() - cpu
    ended.set()
    watcher.join()
    cost = found if isinstance(found, Cost) else Cost(cpu, max(0.0, most[0] - before))
    print(f"{name:13} {cost.cpu:8.2f} s {cost.gib:8.2f} GiB", flush=True)


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
