"""What white-box training costs on a GPU, beside the floor, TRL and Liger.

    python scripts/bench_gpu.py                       (or: make gpu; writes docs/reference/benchmarks_gpu.md)
    python scripts/bench_gpu.py --parts step --pairs "1B from 8B" --rounds 5

Parts as in bench_white_box.py: `head`, `error`, `attention`, `step`, `objectives`. Weights are drawn at random on the device, in the
shapes of known models: times do not depend on values. All ways of a table are run in alternation in one process; times are
medians, ratios are of medians. A step is forward and backward without the optimiser.
"""

import argparse
import gc
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_ways import (
    chunked_step,
    eager_step,
    forward_only,
    gkd_step,
    head_products,
    liger_chunked,
    liger_step,
    make_batch,
    our_step,
    sft_step,
    textbook,
    trl_chunked,
)
from bench_white_box import DIVERGENCES, one_layer, one_layer_eager
from measuring import Measured, earlier_tables, host_waits, machine, measure, table
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from distill import AttentionMaps, HiddenStates, Logits
from distill.objectives import Objective
from distill.objectives.divergences import by_name
from distill.objectives.streamed_next_token import Comparison, next_token_divergence
from distill.signals import AttentionTap, HeadTap, LogitTransform

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "benchmarks_gpu.md"
MARK = "<!-- Written by scripts/bench_gpu.py from here on. -->"
DEVICE, DTYPE = "cuda", torch.bfloat16
# vocabulary, width, of the feed-forward layers, layers, heads, key heads, tied
MODELS = {
    "135M": (49_152, 576, 1536, 30, 9, 3, True),  # SmolLM2-135M
    "0.5B": (151_936, 896, 4864, 24, 14, 2, True),  # Qwen2.5-0.5B
    "1B": (128_256, 2048, 8192, 16, 32, 8, True),  # Llama 3.2 1B
    "8B": (128_256, 4096, 14_336, 32, 32, 8, False),  # Llama 3.1 8B
}
PAIRS = {"135M from 135M": (8, 1024), "0.5B from 0.5B": (4, 1024), "1B from 8B": (4, 1024)}  # rows x tokens
HEADS = ((4096, 128_256, 2048, 4096), (4096, 151_936, 896, 896), (8192, 49_152, 576, 576))  # rows, V, widths
COLUMNS = ["ms", "spread", "MiB"]


def draw(name: str, seed: int) -> Any:
    """A Llama of that shape with random weights, made on the device."""
    vocabulary, width, wide, layers, heads, key_heads, tied = MODELS[name]
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=wide, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=key_heads, max_position_embeddings=8192, tie_word_embeddings=tied, dtype=DTYPE,
    )  # fmt: skip
    torch.manual_seed(seed)
    torch.set_default_dtype(DTYPE)
    try:
        with torch.device(DEVICE):
            return LlamaForCausalLM(config).train()
    finally:
        torch.set_default_dtype(torch.float32)


def figures(m: Measured) -> list[str]:
    return [f"{1000 * m.median:.2f}", m.spread, f"{m.mib:,.0f}"]


def head_ways(count: int, vocabulary: int, width: int, other_width: int) -> dict[str, Callable[[], object]]:
    """Ways to a divergence and its gradients, beside the products that none can do without."""
    torch.manual_seed(0)
    hidden, other = (torch.randn(count, d, dtype=DTYPE, device=DEVICE) for d in (width, other_width))
    weight, teacher = (
        torch.randn(vocabulary, d, dtype=DTYPE, device=DEVICE) * 3 / d**0.5 for d in (width, other_width)
    )
    hidden.requires_grad_()
    weight.requires_grad_()

    def backward(loss: Callable[[], Tensor]) -> None:
        torch.autograd.grad(loss(), (hidden, weight))

    def naive(name: str) -> Tensor:
        return textbook(name, (hidden @ weight.t()).float(), (other @ teacher.t()).float()).sum()

    ways: dict[str, Callable[[], object]] = {
        "matrix products alone": partial(head_products, hidden, weight, other, teacher)
    }
    for title, (name, beta) in DIVERGENCES.items():
        ways[f"distill {title}"] = partial(backward, partial(ours, name, hidden, weight, other, teacher))
        ways[f"autograd, all logits, {title}"] = partial(backward, partial(naive, name))
        ways[f"Liger {title}"] = partial(backward, partial(liger_chunked, beta, hidden, weight, other, teacher))
        chunked = partial(trl_chunked, beta, hidden[None], weight, other[None], teacher)
        ways[f"TRL chunked {title}"] = partial(backward, chunked)
    return ways


def ours(name: str, hidden: Tensor, weight: Tensor, other: Tensor, teacher: Tensor) -> Tensor:
    student = HeadTap(hidden, weight, None, LogitTransform(), DTYPE)
    theirs = HeadTap(other, teacher, None, LogitTransform(), DTYPE)
    return next_token_divergence(student, theirs, Comparison(by_name(name)))[0].sum()


def bench_head(rounds: int) -> str:
    lines = []
    for count, vocabulary, *widths in HEADS:
        found = measure(head_ways(count, vocabulary, *widths), rounds, DEVICE)
        floor = found["matrix products alone"].median
        shape = f"{count:,} x {vocabulary:,}, widths {widths[0]:,} and {widths[1]:,}"
        lines += [[shape, name, f"{m.median / floor:.2f}", *figures(m)] for name, m in found.items()]
        release()
    return table(["rows x vocabulary", "way", "over the matrix products", *COLUMNS], lines)


def bench_error() -> str:
    """||g - exact|| / ||exact|| of the gradient in the head's input and in the head; exact in float32 from the same bfloat16 values."""
    lines = []
    for spread, near in ((1.0, 0.3), (3.0, 0.3), (3.0, 0.1), (3.0, 0.03)):
        torch.manual_seed(0)
        hidden = torch.randn(512, 1024, dtype=DTYPE, device=DEVICE)
        other = (hidden.float() + near * torch.randn(hidden.shape, device=DEVICE)).to(DTYPE)
        weight = (torch.randn(128_256, 1024, device=DEVICE) * spread / 1024**0.5).to(DTYPE)

        def gradients(loss: Callable[..., Tensor], *sides: Tensor) -> list[Tensor]:
            leaves = [side.detach().clone().requires_grad_() for side in sides[:2]]
            return [g.double() for g in torch.autograd.grad(loss(*leaves, *sides[2:]), leaves)]

        for title, (name, beta) in DIVERGENCES.items():

            def naive(h: Tensor, w: Tensor, o: Tensor, t: Tensor, name: str = name) -> Tensor:
                return by_name(name)(h @ w.t(), o @ t.t()).sum()

            h, w, o = (side.float() for side in (hidden, weight, other))
            exact = gradients(naive, h, w, o, w)
            with torch.no_grad():
                value = float(naive(h, w, o, w)) / len(hidden)
            ways: dict[str, Callable[..., Tensor]] = {
                "distill": partial(ours, name),
                "autograd, all logits in bfloat16": naive,
                "Liger": partial(liger_chunked, beta),
                "TRL chunked": lambda h, w, o, t, beta=beta: trl_chunked(beta, h[None], w, o[None], t) * len(h),
            }
            for way, loss in ways.items():
                # means over tokens are compared by direction and size: each is scaled to a sum
                found = gradients(loss, hidden, weight, other, weight)
                scale = len(hidden) if way == "Liger" else 1
                errors = [float((scale * g - e).norm() / e.norm()) for g, e in zip(found, exact, strict=True)]
                lines.append([f"{spread:g}", title, f"{value:.4f}", way, *(f"{error:.4f}" for error in errors)])
        release()
    return table(["spread of logits", "divergence", "nats", "way", "error in the input", "error in the head"], lines)


def bench_attention(rounds: int) -> str:
    """One layer of 32 heads (8 key heads), widths 64 and 128, bfloat16, causal, every position supervised."""
    lines = []
    for batch, time in ((16, 256), (4, 1024), (1, 4096)):
        torch.manual_seed(0)
        shapes = [(batch, heads, time, d) for d in (64, 128) for heads in (32, 8)]
        query, key, q_teacher, k_teacher = (torch.randn(s, device=DEVICE).to(DTYPE) for s in shapes)
        query.requires_grad_()
        key.requires_grad_()
        student = AttentionTap(query, key, None, None, 0.125)
        teacher = AttentionTap(q_teacher, k_teacher, None, None, 128**-0.5)
        rows = torch.ones(batch, time, dtype=torch.bool, device=DEVICE)
        ways: dict[str, Callable[[], object]] = {
            "distill": partial(one_layer, student, teacher, rows),
            "eager maps": partial(one_layer_eager, student, teacher),
        }
        found = measure(ways, rounds, DEVICE)
        for name, m in found.items():
            waits = str(host_waits(ways[name]))
            lines.append(
                [f"{batch} x {time}", name, waits, *figures(m), f"{found['eager maps'].median / m.median:.1f}"]
            )
        release()
    return table(["rows x T", "way", "host waits", *COLUMNS, "times faster"], lines)


def bench_step(rounds: int, pair: str, shares: list[float]) -> str:
    shape = PAIRS[pair]
    student, teacher = (draw(name, seed) for seed, name in enumerate(pair.split(" from ")))
    lines = []
    for share in shares:
        batch = make_batch(*shape, share, student.config.vocab_size, DEVICE)
        ways: dict[str, Callable[[], object]] = {
            "teacher forward": partial(forward_only, teacher, batch),
            "SFT step": partial(sft_step(student, DEVICE), batch),
        }
        for title, (name, beta) in DIVERGENCES.items():
            ways[f"distill {title}"] = partial(our_step(student, teacher, [Logits(name)], DEVICE), batch)
            ways[f"Liger {title}"] = partial(liger_step, student, teacher, beta, batch)
            ways[f"TRL GKD {title}"] = partial(gkd_step, student, teacher, beta, batch)
            ways[f"TRL chunked {title}"] = partial(chunked_step, student, teacher, beta, batch)
        found = measure(ways, rounds, DEVICE)
        floor, sft = found["teacher forward"].median + found["SFT step"].median, found["SFT step"]
        for name, m in found.items():
            lines.append([f"{share:.0%}", name, f"{m.median / floor:.2f}", *figures(m), f"{m.mib / sft.mib:.2f}"])
    return table(["prompt share", "way", "over (teacher forward + SFT step)", *COLUMNS, "over SFT's"], lines)


def bench_objectives(rounds: int, pair: str, shape: tuple[int, int]) -> str:
    """Logits alone, then with hidden states and attention of 8 layers; and the same with eager maps."""
    student, teacher = (draw(name, seed) for seed, name in enumerate(pair.split(" from ")))
    counts = [model.config.num_hidden_layers for model in (student, teacher)]
    layers = {i * counts[0] // 8: i * counts[1] // 8 for i in range(8)}
    batch = make_batch(*shape, 0.5, student.config.vocab_size, DEVICE)
    batch["labels"][0, :-9] = -100  # rows of unequal length
    batch["attention_mask"][0, -8:] = 0
    batch["labels"][0, -8:] = -100
    lists: dict[str, list[Objective]] = {
        "logits": [Logits()],
        "logits + hidden (8 layers)": [Logits(), HiddenStates(layers)],
        "logits + attention (8 layers)": [Logits(), AttentionMaps(layers)],
        "all three (8 layers)": [Logits(), HiddenStates(layers), AttentionMaps(layers)],
    }
    ways: dict[str, Callable[[], object]] = {"SFT step": partial(sft_step(student, DEVICE), batch)}
    for name, objectives in lists.items():
        ways[name] = partial(our_step(student, teacher, objectives, DEVICE), batch)
    if counts[0] == counts[1]:  # the eager step pairs layers of one number
        ways["logits + attention by output_attentions"] = partial(eager_step, student, teacher, list(layers), batch)
    found = measure(ways, rounds, DEVICE)
    base = found["logits"].median
    lines = [[n, str(host_waits(ways[n])), f"{m.median / base:.2f}", *figures(m)] for n, m in found.items()]
    return table(["objectives", "host waits", "over logits alone", *COLUMNS], lines)


def release() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="head,error,attention,step,objectives")
    parser.add_argument("--pairs", default=",".join(PAIRS))
    parser.add_argument("--shares", default="0.5", help="of the batch that is prompt")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks_gpu.json"), help="earlier tables are kept")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args()
    shares = [float(share) for share in args.shares.split(",")]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    kept = earlier_tables(args.output)
    todo: dict[str, Callable[[], str]] = {}
    for part in args.parts.split(","):
        if part == "head":
            todo["Head alone, bfloat16"] = partial(bench_head, args.rounds)
        elif part == "error":
            todo["Error of the gradient, bfloat16, 512 rows x 128,256"] = bench_error
        elif part == "attention":
            todo["Attention maps of one layer, 32 heads, bfloat16"] = partial(bench_attention, args.rounds)
        for pair in args.pairs.split(",") if part == "step" else ():
            title = f"{pair}, bfloat16, {PAIRS[pair][0]} x {PAIRS[pair][1]} tokens"
            todo[f"Whole step, {title}"] = partial(bench_step, args.rounds, pair, shares)
        if part == "objectives":
            for pair, shape in (("135M from 135M", (16, 256)), ("1B from 8B", (4, 1024))):
                title = f"Objectives together, {pair}, bfloat16, {shape[0]} x {shape[1]} tokens"
                todo[title] = partial(bench_objectives, args.rounds, pair, shape)
    for title, one in todo.items():
        print(f"\n## {title}\n", flush=True)
        kept[title] = f"{machine(DEVICE)}\n\n{one()}"
        release()
        print(kept[title], flush=True)
        args.output.write_text(json.dumps(kept, indent=1))
    above = args.page.read_text(encoding="utf-8").partition(MARK)[0] if args.page.is_file() else "# Benchmarks, GPU\n\n"
    below = "\n".join(f"## {title}\n\n{text.strip()}\n" for title, text in kept.items())
    args.page.write_text(f"{above}{MARK}\n\n{below}", encoding="utf-8")


if __name__ == "__main__":
    main()
