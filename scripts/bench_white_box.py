"""What white-box training costs, against the floor and against others, on this machine.

    python scripts/bench_white_box.py                       (or: make bench; writes docs/benchmarks.md)
    python scripts/bench_white_box.py --parts head,attention --rounds 5

Parts: `head` (the streaming map alone against its matrix products), `attention` (one layer's maps against eager ones),
`step` (a whole training step against teacher forward + plain SFT step, and TRL), `objectives` (logits, + hidden, + attention).
All ways of a table are run in alternation in one process; times are medians, ratios are of medians.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from measuring import Measured, machine, measure, table
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Trainer, TrainingArguments

from distill import AttentionMaps, HiddenStates, Logits, WhiteBoxTrainer
from distill.divergences import by_name
from distill.maps import Comparison, attention_divergence, next_token_divergence
from distill.objectives import Objective
from distill.taps import AttentionTap, Finish, HeadTap
from distill.teachers import LocalTeacher

SHAPES = ((4, 256), (2, 1024), (1, 4096))
SHARES = (0.0, 0.5, 0.8)
VOCABULARIES = (49_152, 151_936)
DIVERGENCES = {"forward KL": ("forward_kl", 0.0), "JSD": ("generalized_jsd", 0.5)}


def bench_head(rounds: int, device: str, dtype: torch.dtype) -> str:
    """[N, V] divergence and its gradients, alone."""
    lines = []
    for vocabulary in VOCABULARIES:
        for count in (128, 1024) if vocabulary < 10**5 else (128, 512):
            torch.manual_seed(0)
            hidden, other = (torch.randn(count, 576, dtype=dtype, device=device) for _ in range(2))
            weight = torch.randn(vocabulary, 576, dtype=dtype, device=device) * 0.05
            teacher = weight + 0.02 * torch.randn_like(weight)
            hidden.requires_grad_()
            weight.requires_grad_()

            def backward(loss: Callable[[], torch.Tensor], leaves: tuple[torch.Tensor, ...] = (hidden, weight)) -> None:
                torch.autograd.grad(loss(), leaves)

            def ours(name: str, hidden=hidden, weight=weight, other=other, teacher=teacher) -> torch.Tensor:  # type: ignore[no-untyped-def]
                taps = (HeadTap(h, w, None, Finish(), dtype) for h, w in ((hidden, weight), (other, teacher)))
                return next_token_divergence(*taps, Comparison(by_name(name)))[0].sum()

            def naive(name: str, hidden=hidden, weight=weight, other=other, teacher=teacher) -> torch.Tensor:  # type: ignore[no-untyped-def]
                return textbook(name, (hidden @ weight.t()).float(), (other @ teacher.t()).float()).sum()

            def products(hidden=hidden, weight=weight, other=other, teacher=teacher) -> None:  # type: ignore[no-untyped-def]
                with torch.no_grad():
                    slope = hidden @ weight.t()
                    other @ teacher.t()
                    slope @ weight
                    slope.t() @ hidden

            ways: dict[str, Callable[[], object]] = {"matrix products alone": products}
            for title, (name, beta) in DIVERGENCES.items():
                ways[f"distill {title}"] = partial(backward, partial(ours, name))
                ways[f"autograd, all logits, {title}"] = partial(backward, partial(naive, name))
                ways[f"TRL chunked {title}"] = partial(
                    backward, partial(trl_chunked, beta, hidden[None], weight, other[None], teacher)
                )
            found = measure(ways, rounds, device)
            floor = found["matrix products alone"].median
            lines += [
                [f"{count} x {vocabulary:,}", name, f"{m.median:.3f}", f"{m.median / floor:.2f}", m.spread, f"{m.mib:,.0f}"]
                for name, m in found.items()
            ]
    columns = ["rows x vocabulary", "way", "seconds", "over the matrix products", "spread", "MiB"]
    return table(columns, lines)


def bench_attention(rounds: int, device: str) -> str:
    """One layer of 9 heads of 64 (3 key heads), float32, causal."""
    lines = []
    for time in (256, 1024, 4096):
        torch.manual_seed(0)
        shapes = [(1, 9, time, 64), (1, 3, time, 64)] * 2
        query, key, q_teacher, k_teacher = (torch.randn(s, device=device) for s in shapes)
        query.requires_grad_()
        key.requires_grad_()
        student, teacher = (AttentionTap(q, k, k, None, 0.125) for q, k in ((query, key), (q_teacher, k_teacher)))
        rows = torch.ones(1, time, dtype=torch.bool, device=device)

        def ours(student=student, teacher=teacher, rows=rows) -> None:  # type: ignore[no-untyped-def]
            value = attention_divergence(student, teacher, rows).sum()
            torch.autograd.grad(value, (student.query, student.key))

        def eager(student=student, teacher=teacher, time=time) -> None:  # type: ignore[no-untyped-def]
            mask = torch.full((time, time), float("-inf"), device=device).triu(1)
            maps = []
            for tap in (student, teacher):
                keys = tap.key.repeat_interleave(3, dim=1)
                maps.append((tap.query @ keys.transpose(2, 3) * tap.scaling + mask).softmax(-1))
            q, p = maps
            terms = p * (p.clamp(min=1e-30).log() - q.clamp(min=1e-30).log())
            torch.autograd.grad(terms.sum(-1).mean(1).sum(), (student.query, student.key))

        found = measure({"distill": ours, "eager maps": eager}, rounds, device)
        for name, m in found.items():
            ratios = [f"{found['eager maps'].median / m.median:.1f}", f"{found['eager maps'].mib / max(m.mib, 0.1):.1f}"]
            lines.append([str(time), name, f"{m.median:.3f}", m.spread, f"{m.mib:,.0f}", *ratios])
    return table(["T", "way", "seconds", "spread", "MiB", "times faster", "times less memory"], lines)


def bench_step(rounds: int, device: str, model: str, shapes: tuple[tuple[int, int], ...], peers: bool) -> str:
    """Forward and backward of one batch; no optimiser, which is the same for all."""
    teacher, student = (load(model, device) for _ in range(2))
    lines = []
    for rows, time in shapes:
        for share in SHARES:
            batch = make_batch(rows, time, share, student.config.vocab_size, device)
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
            lines += [row(f"{rows} x {time}, {share:.0%}", name, m, floor, found["SFT step"]) for name, m in found.items()]
            print(table(STEP_COLUMNS, lines[-len(found) :]), flush=True)
    return table(STEP_COLUMNS, lines)


STEP_COLUMNS = ["batch, prompt share", "way", "seconds", "over (teacher forward + SFT step)", "spread", "MiB", "over SFT's"]


def row(where: str, name: str, m: Measured, floor: float, sft: Measured) -> list[str]:
    return [where, name, f"{m.median:.2f}", f"{m.median / floor:.2f}", m.spread, f"{m.mib:,.0f}", f"{m.mib / sft.mib:.2f}"]


def bench_objectives(rounds: int, device: str, model: str, shapes: tuple[tuple[int, int], ...]) -> str:
    """Logits alone, then with hidden states and attention of 8 layers; and the same with eager maps."""
    teacher, student = (load(model, device) for _ in range(2))
    depth = student.config.num_hidden_layers
    layers = {i: i for i in range(0, depth, max(1, depth // 8))} if depth > 8 else {i: i for i in range(depth)}
    layers = dict(list(layers.items())[:8])
    lines = []
    for rows, time in shapes:
        batch = make_batch(rows, time, 0.5, student.config.vocab_size, device)
        lists: dict[str, list[Objective]] = {
            "logits": [Logits()],
            f"logits + hidden ({len(layers)} layers)": [Logits(), HiddenStates(layers)],
            f"logits + attention ({len(layers)} layers)": [Logits(), AttentionMaps(layers)],
            f"all three ({len(layers)} layers)": [Logits(), HiddenStates(layers), AttentionMaps(layers)],
        }
        ways: dict[str, Callable[[], object]] = {
            name: partial(our_step(student, teacher, objectives, device), batch) for name, objectives in lists.items()
        }
        if time <= 1024:  # 2.4 GB a layer and model at 4096
            ways["logits + attention by output_attentions"] = partial(eager_step, student, teacher, list(layers), batch)
        found = measure(ways, rounds, device)
        for name, m in found.items():
            ratio = m.median / found["logits"].median
            lines.append([f"{rows} x {time}", name, f"{m.median:.2f}", f"{ratio:.2f}", m.spread, f"{m.mib:,.0f}"])
    return table(["batch", "objectives", "seconds", "over logits alone", "spread", "MiB"], lines)


# the ways


def textbook(name: str, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """By autograd, from log-probabilities."""
    q, p = student.log_softmax(-1), teacher.log_softmax(-1)
    if name == "forward_kl":
        return (p.exp() * (p - q)).sum(-1)
    m = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0))
    return ((p.exp() * (p - m)).sum(-1) + (q.exp() * (q - m)).sum(-1)) / 2


def trl_chunked(
    beta: float, hidden: torch.Tensor, weight: torch.Tensor, other: torch.Tensor, teacher: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    mask = torch.ones(hidden.shape[:2], device=hidden.device) if mask is None else mask
    return _chunked_divergence_loss(hidden, other, weight, teacher, mask, beta, num_items_in_batch=int(mask.sum()))[0]


def forward_only(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)


def arguments(device: str) -> TrainingArguments:
    folder = tempfile.mkdtemp()
    return TrainingArguments(folder, report_to="none", use_cpu=device == "cpu", disable_tqdm=True)


def sft_step(student: PreTrainedModel, device: str) -> Callable[[dict[str, torch.Tensor]], None]:
    trainer = Trainer(model=student, args=arguments(device))

    def step(batch: dict[str, torch.Tensor]) -> None:
        items = (batch["labels"][:, 1:] != -100).sum()
        trainer.compute_loss(student, dict(batch), num_items_in_batch=items).backward()
        student.zero_grad()

    return step


def our_step(
    student: PreTrainedModel, teacher: PreTrainedModel, objectives: list[Objective], device: str
) -> Callable[[dict[str, torch.Tensor]], None]:
    trainer = WhiteBoxTrainer(
        model=student, teacher=teacher, objectives=objectives, args=arguments(device), data_collator=lambda rows: rows
    )

    def step(batch: dict[str, torch.Tensor]) -> None:
        items = (batch["labels"][:, 1:] != -100).sum()
        trainer.compute_loss(student, dict(batch), num_items_in_batch=items).backward()
        student.zero_grad()

    return step


def gkd_step(student: PreTrainedModel, teacher: PreTrainedModel, beta: float, batch: dict[str, torch.Tensor]) -> None:
    """As TRL's GKDTrainer.compute_loss does it."""
    from trl.experimental.gkd import GKDTrainer

    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    ours = student(**inputs).logits
    with torch.no_grad():
        theirs = teacher(**inputs).logits
    labels = batch["labels"][:, 1:]
    GKDTrainer.generalized_jsd_loss(
        ours[:, :-1], theirs[:, :-1], labels=labels, beta=beta, num_items_in_batch=(labels != -100).sum()
    ).backward()
    student.zero_grad()


def chunked_step(
    student: PreTrainedModel, teacher: PreTrainedModel, beta: float, batch: dict[str, torch.Tensor]
) -> None:
    """As TRL's DistillationTrainer does it: hidden states of the backbones, then its chunked divergence."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    ours = student.model(**inputs, use_cache=False).last_hidden_state[:, :-1]
    with torch.no_grad():
        theirs = teacher.model(**inputs, use_cache=False).last_hidden_state[:, :-1]
    mask = (batch["labels"][:, 1:] != -100).float()
    trl_chunked(beta, ours, student.lm_head.weight, theirs, teacher.lm_head.weight, mask).backward()
    student.zero_grad()


def eager_step(
    student: PreTrainedModel, teacher: PreTrainedModel, layers: list[int], batch: dict[str, torch.Tensor]
) -> None:
    """Maps by output_attentions, everything else by autograd on all logits."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    for model in (student, teacher):
        model.set_attn_implementation("eager")
    try:
        ours = student(**inputs, output_attentions=True)
        with torch.no_grad():
            theirs = teacher(**inputs, output_attentions=True)
    finally:
        for model in (student, teacher):
            model.set_attn_implementation("sdpa")
    rows = F.pad(batch["labels"][:, 1:] != -100, (0, 1))
    loss = textbook("forward_kl", ours.logits[rows].float(), theirs.logits[rows].float()).sum()
    for layer in layers:
        p, q = (o.attentions[layer].float().clamp(min=1e-30) for o in (theirs, ours))
        loss = loss + (p * (p.log() - q.log())).sum(-1).mean(1)[rows].sum() / len(layers)
    (loss / rows.sum()).backward()
    student.zero_grad()


def load(name: str, device: str) -> PreTrainedModel:
    """A model in the precision in which this machine is fast; `synthetic` has a large head on a small body."""
    dtype = torch.bfloat16
    if name != "synthetic":
        return LocalTeacher(name).model.to(device=device, dtype=dtype).train()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=151_936, hidden_size=576, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(device=device, dtype=dtype).train()


def make_batch(rows: int, time: int, share: float, vocabulary: int, device: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (rows, time), generator=generator)
    labels = ids.clone()
    labels[:, : int(share * time)] = -100
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="head,attention,step,objectives")
    parser.add_argument("--models", default="smollm2-135m,synthetic")
    parser.add_argument("--shapes", default=",".join(f"{b}x{t}" for b, t in SHAPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks.json"))
    parser.add_argument("--no_peers", action="store_true", help="leave TRL out of the steps")
    args = parser.parse_args()
    shapes = tuple((int(b), int(t)) for b, t in (shape.split("x") for shape in args.shapes.split(",")))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(args.output.read_text()) if args.output.is_file() else {}
    kept["machine"] = machine(args.device)
    todo: dict[str, Callable[[], str]] = {}
    for part in args.parts.split(","):
        if part == "head":
            todo["head float32"] = partial(bench_head, args.rounds, args.device, torch.float32)
            todo["head bfloat16"] = partial(bench_head, args.rounds, args.device, torch.bfloat16)
        elif part == "attention":
            todo["attention"] = partial(bench_attention, args.rounds, args.device)
        else:
            for model in args.models.split(","):
                todo[f"{part} {model}"] = (
                    partial(bench_step, args.rounds, args.device, model, shapes, not args.no_peers)
                    if part == "step"
                    else partial(bench_objectives, args.rounds, args.device, model, shapes)
                )
    for title, part in todo.items():
        print(f"\n## {title}\n", flush=True)
        kept[title] = part()
        print(kept[title], flush=True)
        args.output.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
