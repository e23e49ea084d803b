"""What white-box training costs, against the floor and against others, on this machine.

    python scripts/bench_white_box.py                       (or: make bench; writes docs/reference/benchmarks.md)
    python scripts/bench_white_box.py --parts head,attention --rounds 5

Parts: `head` (the streaming map alone against its matrix products), `attention` (one layer's maps against eager ones),
`step` (a whole training step against teacher forward + plain SFT step, and TRL), `objectives` (logits, + hidden, + attention).
All ways of a table are run in alternation in one process; times are medians, ratios are of medians.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from bench_ways import (
    chunked_step,
    eager_step,
    forward_only,
    gkd_step,
    head_products,
    load,
    make_batch,
    our_step,
    sft_step,
    textbook,
    trl_chunked,
)
from measuring import Measured, earlier_tables, machine, measure, table
from torch import Tensor

from distill import AttentionMaps, HiddenStates, Logits
from distill.objectives import Comparison, Objective, attention_divergence, next_token_divergence
from distill.objectives.divergences import by_name
from distill.signals import AttentionTap, HeadTap, LogitTransform

SHAPES = ((4, 256), (2, 1024), (1, 4096))
SHARES = "0,0.5,0.8"
PAGE = Path(__file__).parent.parent / "docs" / "reference" / "benchmarks.md"
MARK = "<!-- Written by scripts/bench_white_box.py from here on. -->"
VOCABULARIES = {49_152: (1024,), 151_936: (512,)}  # and how many rows
DIVERGENCES = {"forward KL": ("forward_kl", 0.0), "JSD": ("generalized_jsd", 0.5)}


def bench_head(rounds: int, device: str, dtype: torch.dtype) -> str:
    """[N, V] divergence and its gradients, alone."""
    lines = []
    for vocabulary, counts in VOCABULARIES.items():
        for count in counts:
            found = measure(head_ways(count, vocabulary, device, dtype), rounds, device)
            floor = found["matrix products alone"].median
            for name, m in found.items():
                ratio = f"{m.median / floor:.2f}"
                lines.append([f"{count} x {vocabulary:,}", name, f"{m.median:.3f}", ratio, m.spread, f"{m.mib:,.0f}"])
    return table(["rows x vocabulary", "way", "seconds", "over the matrix products", "spread", "MiB"], lines)


def head_ways(count: int, vocabulary: int, device: str, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """Ways to a divergence and its gradients, beside the products that none can do without."""
    torch.manual_seed(0)
    hidden, other = (torch.randn(count, 576, dtype=dtype, device=device) for _ in range(2))
    weight = torch.randn(vocabulary, 576, dtype=dtype, device=device) * 0.05
    teacher = weight + 0.02 * torch.randn_like(weight)
    hidden.requires_grad_()
    weight.requires_grad_()

    def backward(loss: Callable[[], Tensor]) -> None:
        torch.autograd.grad(loss(), (hidden, weight))

    def ours(name: str) -> Tensor:
        student = HeadTap(hidden, weight, None, LogitTransform(), dtype)
        comparison = Comparison(by_name(name))
        return next_token_divergence(student, HeadTap(other, teacher, None, LogitTransform(), dtype), comparison)[
            0
        ].sum()

    def naive(name: str) -> Tensor:
        return textbook(name, (hidden @ weight.t()).float(), (other @ teacher.t()).float()).sum()

    ways: dict[str, Callable[[], object]] = {
        "matrix products alone": partial(head_products, hidden, weight, other, teacher)
    }
    for title, (name, beta) in DIVERGENCES.items():
        ways[f"distill {title}"] = partial(backward, partial(ours, name))
        ways[f"autograd, all logits, {title}"] = partial(backward, partial(naive, name))
        chunked = partial(trl_chunked, beta, hidden[None], weight, other[None], teacher)
        ways[f"TRL chunked {title}"] = partial(backward, chunked)
    return ways


def bench_attention(rounds: int, device: str) -> str:
    """One layer of 9 heads of 64 (3 key heads), float32, causal."""
    lines = []
    for time in (256, 1024, 4096):
        torch.manual_seed(0)
        shapes = [(1, 9, time, 64), (1, 3, time, 64)] * 2
        query, key, q_teacher, k_teacher = (torch.randn(s, device=device) for s in shapes)
        query.requires_grad_()
        key.requires_grad_()
        student, teacher = (AttentionTap(q, k, None, None, 0.125) for q, k in ((query, key), (q_teacher, k_teacher)))
        rows = torch.ones(1, time, dtype=torch.bool, device=device)

        ours = partial(one_layer, student, teacher, rows)
        eager = partial(one_layer_eager, student, teacher)
        found = measure({"distill": ours, "eager maps": eager}, rounds, device)
        for name, m in found.items():
            ratios = [
                f"{found['eager maps'].median / m.median:.1f}",
                f"{found['eager maps'].mib / max(m.mib, 0.1):.1f}",
            ]
            lines.append([str(time), name, f"{m.median:.3f}", m.spread, f"{m.mib:,.0f}", *ratios])
    return table(["T", "way", "seconds", "spread", "MiB", "times faster", "times less memory"], lines)


def one_layer(student: AttentionTap, teacher: AttentionTap, rows: Tensor) -> None:
    torch.autograd.grad(attention_divergence(student, teacher, rows).sum(), (student.query, student.key))


def one_layer_eager(student: AttentionTap, teacher: AttentionTap) -> None:
    """Whole maps, by autograd, as output_attentions gives them."""
    time = student.query.shape[2]
    mask = torch.full((time, time), float("-inf"), device=student.query.device).triu(1)
    maps = []
    for tap in (student, teacher):
        keys = tap.key.repeat_interleave(tap.query.shape[1] // tap.key.shape[1], dim=1)
        maps.append((tap.query @ keys.transpose(2, 3) * tap.scaling + mask).softmax(-1))
    q, p = maps
    terms = p * (p.clamp(min=1e-30).log() - q.clamp(min=1e-30).log())
    torch.autograd.grad(terms.sum(-1).mean(1).sum(), (student.query, student.key))


def bench_step(rounds: int, device: str, model: str, shape: tuple[int, int], shares: list[float], peers: bool) -> str:
    """Forward and backward of one batch; no optimiser, which is the same for all."""
    teacher, student = load(model, device), load(model, device, noise=0.1)
    lines = []
    for share in shares:
        batch = make_batch(*shape, share, student.config.vocab_size, device)
        ways: dict[str, Callable[[], object]] = {
            "teacher forward": partial(forward_only, teacher, batch),
            "SFT step": partial(sft_step(student, device), batch),
        }
        for title, (name, beta) in DIVERGENCES.items():
            ways[f"distill {title}"] = partial(our_step(student, teacher, [Logits(name)], device), batch)
            if peers:
                ways[f"TRL GKD {title}"] = partial(gkd_step, student, teacher, beta, batch)
                ways[f"TRL chunked {title}"] = partial(chunked_step, student, teacher, beta, batch)
        found = measure(ways, rounds, device)
        floor = found["teacher forward"].median + found["SFT step"].median
        lines += [row(f"{share:.0%}", name, m, floor, found["SFT step"]) for name, m in found.items()]
        print(table(STEP_COLUMNS, lines[-len(found) :]), flush=True)
    return table(STEP_COLUMNS, lines)


STEP_COLUMNS = [
    "prompt share",
    "way",
    "seconds",
    "over (teacher forward + SFT step)",
    "spread",
    "MiB",
    "over SFT's",
]


def row(where: str, name: str, m: Measured, floor: float, sft: Measured) -> list[str]:
    return [
        where,
        name,
        f"{m.median:.2f}",
        f"{m.median / floor:.2f}",
        m.spread,
        f"{m.mib:,.0f}",
        f"{m.mib / sft.mib:.2f}",
    ]


def bench_objectives(rounds: int, device: str, model: str, shape: tuple[int, int]) -> str:
    """Logits alone, then with hidden states and attention of 8 layers; and the same with eager maps."""
    teacher, student = load(model, device), load(model, device, noise=0.1)
    depth = student.config.num_hidden_layers
    layers = {i: i for i in range(0, depth, max(1, depth // 8))} if depth > 8 else {i: i for i in range(depth)}
    layers = dict(list(layers.items())[:8])
    batch = make_batch(*shape, 0.5, student.config.vocab_size, device)
    lists: dict[str, list[Objective]] = {
        "logits": [Logits()],
        f"logits + hidden ({len(layers)} layers)": [Logits(), HiddenStates(layers)],
        f"logits + attention ({len(layers)} layers)": [Logits(), AttentionMaps(layers)],
        f"all three ({len(layers)} layers)": [Logits(), HiddenStates(layers), AttentionMaps(layers)],
    }
    ways: dict[str, Callable[[], object]] = {
        name: partial(our_step(student, teacher, objectives, device), batch) for name, objectives in lists.items()
    }
    if shape[1] <= 1024:  # 0.6 GB a layer and model at 4096, in bfloat16
        ways["logits + attention by output_attentions"] = partial(eager_step, student, teacher, list(layers), batch)
    found = measure(ways, rounds, device)
    lines = [
        [name, f"{m.median:.2f}", f"{m.median / found['logits'].median:.2f}", m.spread, f"{m.mib:,.0f}"]
        for name, m in found.items()
    ]
    return table(["objectives", "seconds", "over logits alone", "spread", "MiB"], lines)


def write_page(tables: dict[str, str], page: Path) -> None:
    """The tables below the mark; what people wrote above it stays."""
    above = page.read_text(encoding="utf-8").partition(MARK)[0] if page.is_file() else "# Benchmarks\n\n"
    below = [f"## {title}\n\n{text.strip()}\n" for title, text in tables.items()]
    page.write_text(f"{above}{MARK}\n\n" + "\n".join(below), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="head,attention,step,objectives")
    parser.add_argument("--models", default="smollm2-135m,synthetic")
    parser.add_argument("--shapes", default=",".join(f"{b}x{t}" for b, t in SHAPES))
    parser.add_argument("--shares", default=SHARES, help="of the batch that is prompt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/benchmarks.json"), help="tables of earlier runs are kept"
    )
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--no_peers", action="store_true", help="leave TRL out of the steps")
    args = parser.parse_args()
    shapes = [(int(b), int(t)) for b, t in (shape.split("x") for shape in args.shapes.split(","))]
    shares = [float(share) for share in args.shares.split(",")]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    kept = earlier_tables(args.output)
    todo: dict[str, Callable[[], str]] = {}
    for part in args.parts.split(","):
        if part == "head":
            todo["Head alone, float32"] = partial(bench_head, args.rounds, args.device, torch.float32)
            todo["Head alone, bfloat16"] = partial(bench_head, args.rounds, args.device, torch.bfloat16)
        elif part == "attention":
            todo["Attention maps of one layer, 9 heads, float32"] = partial(bench_attention, args.rounds, args.device)
        for model in args.models.split(",") if part in ("step", "objectives") else ():
            for shape in shapes:
                title = f"{model}, bfloat16, {shape[0]} x {shape[1]} tokens"
                if part == "step":
                    todo[f"Whole step, {title}"] = partial(
                        bench_step, args.rounds, args.device, model, shape, shares, not args.no_peers
                    )
                else:
                    todo[f"Objectives together, {title}"] = partial(
                        bench_objectives, args.rounds, args.device, model, shape
                    )
    for title, one in todo.items():
        print(f"\n## {title}\n", flush=True)
        kept[title] = f"{machine(args.device)}\n\n{one()}"
        print(kept[title], flush=True)
        args.output.write_text(json.dumps(kept, indent=1))
    write_page(kept, args.page)


if __name__ == "__main__":
    main()
