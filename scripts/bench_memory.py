"""Memory of the taps and of the black box, before and after, as a table: `python scripts/bench_memory.py`.

Bytes of living tensors are counted as `distill plan` counts them (`distill.planning.live_tensors`), so they are the same on every
machine; "before" is done by hand beside it, in the same run. The black box is measured: the most memory that a step adds, and the
processor's seconds, with TRL's `SFTTrainer` beside it if it is installed.
"""

import argparse
import copy
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from bench_ways import load, make_batch, trainer_step
from measuring import machine, measure, table
from same_bits import tokenizer
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from distill import BlackBoxTrainer
from distill.equivalence.programs import has_trl
from distill.pairs.collate import PairCollator, supervised_rows, supervised_tokens
from distill.planning.live_tensors import LiveBytes
from distill.signals import SignalRequest, record_attention, run_with_taps

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "benchmarks_memory.md"
INTRODUCTION = """# Memory, before and after

What the taps of the white box leave in memory, and what a step of the black box takes at a vocabulary of 151,936 tokens; each beside the way
it was done before (or is done elsewhere), in the same run. Written by `python scripts/bench_memory.py`.

"""
MIB = 2**20


def teacher_bytes() -> list[list[str]]:
    """What is alive when a teacher's pass is over, beside the weights."""
    config = LlamaConfig(
        vocab_size=4096, hidden_size=512, intermediate_size=1024, num_hidden_layers=24, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=2048,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    batch = make_batch(4, 512, 0.5, 4096, "cpu")
    rows = supervised_rows(batch.pop("labels"))
    wanted = frozenset(range(1, 24, 2))

    def alive(run: Any) -> float:
        live = LiveBytes(model, int(rows.sum()))
        with live, torch.no_grad():
            kept = run()
            total = live.live.total()
        del kept
        return total / MIB

    def by_tuple() -> Any:
        return model(**batch, use_cache=False, output_hidden_states=True, logits_to_keep=1).hidden_states

    def with_values() -> Any:
        with record_attention(model, wanted, values=wanted) as taps:
            model(**batch, use_cache=False, logits_to_keep=1)
        return taps

    hidden, attention = (SignalRequest(hidden=wanted), SignalRequest(attention=wanted))
    found = [
        (
            "hidden states of 12 of 24 layers, 4 x 512 tokens, half prompt",
            alive(by_tuple),
            alive(lambda: run_with_taps(model, model, batch, rows, hidden)),
        ),
        (
            "queries and keys of these layers (with values before)",
            alive(with_values),
            alive(lambda: run_with_taps(model, model, batch, rows, attention)),
        ),
    ]
    return [[what, f"{before:,.1f}", f"{after:,.1f}", f"{after / before:.2f}"] for what, before, after in found]


class _Zero(nn.Module):
    """How a zero was hung on the head before: by a place of its weight, whose gradient is as large as the weight."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.head = head

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden[..., :1] + 0 * self.head.weight[0, 0]


def zero_bytes() -> list[list[str]]:
    """The most in a backward pass that gives the head one gradient and a zero beside it."""
    from distill.signals.head import _InGraph

    head = nn.Linear(256, 50_000, bias=False)
    ways: dict[str, Any] = {
        "before": _Zero(head),
        "after": lambda hidden: _InGraph.apply(hidden[..., :1], head.weight, None),
    }
    found = []
    for way in ways.values():
        head.weight.grad = None
        live, hidden = LiveBytes(head, 0), torch.randn(4, 256)
        with live, live.moment("backward", "gradients"):
            (head(hidden).sum() + way(hidden).sum()).backward()
        found.append(sum(live.highest["backward"].values()) / MIB)
    size = head.weight.nbytes / MIB
    return [
        [
            f"backward pass of a wrapped student's head, a gradient of {size:,.0f} MiB",
            f"{found[0]:,.1f}",
            f"{found[1]:,.1f}",
            f"{found[1] / found[0]:.2f}",
        ]
    ]


def black_box(rounds: int, device: str, dtype: torch.dtype) -> list[list[str]]:
    """A step of 4 x 256 tokens, half of them prompt."""
    model = load("synthetic", device).to(dtype)
    batch = make_batch(4, 256, 0.5, model.config.vocab_size, device)
    labels = batch["labels"]
    rows = supervised_rows(labels)
    lean = batch | {"logits_to_keep": rows, "shift_labels": supervised_tokens(labels, rows)}
    args = TrainingArguments(tempfile.mkdtemp(), report_to="none", use_cpu=device == "cpu", disable_tqdm=True)
    given: dict[str, Any] = {"args": args, "processing_class": tokenizer(), "data_collator": PairCollator(tokenizer())}
    plain = trainer_step(Trainer(model=model, args=args), model)
    ours = trainer_step(BlackBoxTrainer(model=model, supervised_only=True, **given), model)
    ways: dict[str, Any] = {
        "plain Trainer; BlackBoxTrainer": lambda: plain(batch),
        "BlackBoxTrainer, supervised_only": lambda: ours(lean),
    }
    if has_trl():
        ways["TRL SFTTrainer"] = trl_way(model, batch, device)
    found = measure(ways, rounds, device, clock=time.process_time if device == "cpu" else time.perf_counter)
    peer = found.get("TRL SFTTrainer")
    return [
        [
            name,
            f"{one.mib:,.0f}",
            f"{one.median:.3g}",
            *([f"{one.mib / peer.mib:.2f}", f"{one.median / peer.median:.2f}"] if peer else ["", ""]),
        ]
        for name, one in found.items()
    ]


def trl_way(model: Any, batch: dict[str, Tensor], device: str) -> Any:
    """Its own trainer as it comes, which patches the forward of a model of its own."""
    from trl import SFTConfig, SFTTrainer

    other: Any = copy.deepcopy(model)
    args = SFTConfig(
        tempfile.mkdtemp(), report_to="none", use_cpu=device == "cpu", disable_tqdm=True, bf16=False, completion_only_loss=True,
        gradient_checkpointing=False,
    )  # fmt: skip
    rows = datasets.Dataset.from_list([{"input_ids": [5, 6, 7], "completion_mask": [0, 1, 1]}] * 2)
    trainer: Any = SFTTrainer(model=other, args=args, processing_class=tokenizer(), train_dataset=rows)
    step = trainer_step(trainer, other)
    return lambda: step(batch)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each way of the black box, in turn")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype", default="float32", help="of the black box; bfloat16 where the machine has products in it"
    )
    flags = parser.parse_args()
    kind: torch.dtype = getattr(torch, flags.dtype)
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    datasets.disable_progress_bars()
    counted = table(["what", "MiB before", "MiB after", "after over before"], teacher_bytes() + zero_bytes())
    measured = table(
        [
            "way",
            "MiB at the peak",
            "processor seconds" if flags.device == "cpu" else "seconds",
            "memory over TRL's",
            "time over TRL's",
        ],
        black_box(flags.rounds, flags.device, kind),
    )
    text = (
        INTRODUCTION + "## Counted: bytes of living tensors\n\n" + counted
        + f"\n## Measured: the black box, V = 151,936, 4 x 256 tokens, half prompt, {flags.dtype}\n\n"
        + f"{machine(flags.device)}; a Llama of 6 layers, 576 wide, its head tied; other jobs may have run beside it.\n\n" + measured
    )  # fmt: skip
    PAGE.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
