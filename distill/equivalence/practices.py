"""Where it breaks: usual changes to the teacher's text, each with the error it makes in the expected gradient, exactly."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from distill.equivalence.bed import EOS, Bed, Rows
from distill.equivalence.results import Section
from distill.objectives.divergences import forward_kl
from distill.pairs.collate import PairCollator
from distill.pairs.schema import pairs_from_rows

DAMAGE = 0.01  # an error above this is a change of the target, and not of rounding


def breaks(bed: Bed) -> Section:
    """For each practice: the gradient SFT then follows, against the one towards the teacher.

    Both are what a trainer would use with endless data: expected sum over tokens, divided by the expected tokens. The one
    towards the teacher is computed from its whole distributions, as the white box does, and not from text.
    """
    section, p, n = Section("breaks"), bed.probabilities, bed.lengths
    sft = bed.gradients(bed.sft_losses())
    exact = bed.gradient(p @ bed.white_box_losses()) / (p @ n)

    def following(distribution: Tensor) -> Tensor:
        return (distribution @ sft) / (distribution @ n)

    kept, rate = _half_rejected(bed)
    stopped = p * torch.tensor([reason == "stop" for reason in bed.pairs["finish_reason"]])
    section.data["practices"] = []

    def add(
        name: str,
        means: str,
        gradient: Tensor,
        distribution: Tensor | None = None,
        *,
        kind: str = "other text",
        target: Tensor = exact,
    ) -> None:
        section.data["practices"].append(
            {
                "name": name,
                "means": means,
                "kind": kind,
                "error": float((gradient - target).norm() / target.norm()),
                "cosine": float(torch.nn.functional.cosine_similarity(gradient, target, dim=0)),
                "kl": None if distribution is None else _kl(distribution, p),
            }
        )

    add("the teacher at temperature 1, all it wrote", "the teacher", following(p), p, kind="the teacher")
    short, target = _cut_at(bed, 2)
    add(
        "completions cut at 2 tokens, no EOS invented",
        "the teacher, as far as it was heard",
        short,
        kind="the teacher",
        target=target,
    )
    for temperature in (0.7, 0.5):
        surer = _warped(TemperatureLogitsWarper(temperature))
        add(f"temperature {temperature}", "a surer teacher", *_both(bed, following, surer))
    add("top-p 0.9", "a teacher without its tail", *_both(bed, following, _warped(TopPLogitsWarper(0.9))))
    add("greedy", "a teacher that knows one answer", *_both(bed, following, _top_only))
    beam = _beam(bed)
    add("beam search, 3 beams", "a teacher that knows one answer", following(beam), beam)
    best = _best_of(p, 4)
    add("the likeliest of 4 samples", "a surer teacher", following(best), best)
    add(f"a filter that rejects {1 - rate:.0%}", "the teacher, given that the filter accepts", following(kept), kept)
    complete = stopped / stopped.sum()
    add(
        f"cut completions ({1 - float(stopped.sum()):.0%}) dropped",
        "a teacher of short answers",
        following(complete),
        complete,
    )
    add("EOS put after cut completions", "a teacher that stops at the limit", _invented_eos(bed))
    for size in (1, 8, 64):
        what = "the mean of each sequence's mean" if size == 1 else f"token means of batches of {size}"
        add(what, "the teacher, short answers counted more", batch_means(sft, p, n, size), kind="other weights")

    _claim(section)
    return section


def _claim(section: Section) -> None:
    """What the errors of the practices have to be, by their kind."""
    errors = {
        kind: {row["name"]: row["error"] for row in section.data["practices"] if row["kind"] == kind}
        for kind in ("the teacher", "other text", "other weights")
    }
    section.claim(
        "Text drawn at temperature 1, whole or cut, gives the gradient towards the teacher",
        f"relative error at most {max(errors['the teacher'].values()):.0e}",
        max(errors["the teacher"].values()) < 1e-12,
    )
    others = errors["other text"]
    section.claim(
        "Every other way to draw or to select text has another target",
        f"relative errors {min(others.values()):.2f} ({min(others, key=others.__getitem__)}) to {max(others.values()):.2f} "
        f"({max(others, key=others.__getitem__)})",
        min(others.values()) > DAMAGE,
    )
    one, eight, many = errors["other weights"].values()
    section.claim(
        "The error of token means taken batch by batch falls as one over the batch size",
        f"{one:.3f}, {eight:.3f}, {many:.3f} for 1, 8 and 64 sequences",
        6 < one / eight < 16 and 6 < eight / many < 10,
    )


def _both(bed: Bed, following: Callable[[Tensor], Tensor], warp: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    distribution = bed.probabilities_if(warp)
    return following(distribution), distribution


def _warped(warper: Any) -> Callable[[Tensor], Tensor]:
    """A sampling rule of `transformers` as a function of logits; it reads no tokens."""
    return lambda logits: warper(None, logits)


def _top_only(logits: Tensor) -> Tensor:
    top = logits == logits.max(-1, keepdim=True).values
    return logits.masked_fill(~top, float("-inf"))


def _beam(bed: Bed) -> Tensor:
    """All weight on what beam search of `transformers` finds."""
    prompt = torch.tensor([bed.pairs[0]["prompt_ids"]])
    model: Any = bed.teacher.model
    output = model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), num_beams=3, do_sample=False, max_new_tokens=bed.length,
        length_penalty=0.0, pad_token_id=EOS,
    )  # fmt: skip
    ids = output[0, prompt.shape[1] :].tolist()
    ids = ids[: ids.index(EOS) + 1] if EOS in ids else ids
    return torch.nn.functional.one_hot(torch.tensor(bed.index[tuple(ids)]), len(bed.pairs)).double()


def _best_of(p: Tensor, count: int) -> Tensor:
    """Distribution of the likeliest of `count` samples."""
    order = p.argsort()
    reached = p[order].cumsum(0)
    before = torch.cat([torch.zeros(1, dtype=p.dtype), reached[:-1]])
    best = torch.empty_like(p)
    best[order] = reached**count - before**count
    return best


def _half_rejected(bed: Bed) -> tuple[Tensor, float]:
    """A checker of the content (one letter must, or must not, occur) that rejects as near to half as there is."""
    p, texts = bed.probabilities, bed.pairs["completion_ids"]
    has = [torch.tensor([letter in ids for ids in texts]) for letter in range(1, bed.vocabulary)]
    rules = has + [~rule for rule in has]
    rule = min(rules, key=lambda rule: abs(float(p[rule].sum()) - 0.5))
    rate = float(p[rule].sum())
    return p * rule / rate, rate


def _cut_at(bed: Bed, limit: int) -> tuple[Tensor, Tensor]:
    """SFT on completions cut at `limit` tokens, and the white-box gradient along what is left of them."""
    rows = [bed.row(ids[:limit]) for ids in bed.pairs["completion_ids"]]
    batch = PairCollator(bed.tokenizer)(rows)
    student, teacher = Rows(bed.student, batch), Rows(bed.teacher.model, batch)
    tokens = bed.probabilities @ bed.lengths.clamp(max=limit)
    losses = (
        cross_entropy(student.logits, student.labels, reduction="none"),
        forward_kl(student.logits, teacher.logits.detach()),
    )
    sft, white = (bed.gradient(bed.probabilities @ student.by_pair(one), keep=True) / tokens for one in losses)
    return sft, white


def _invented_eos(bed: Bed) -> Tensor:
    rows = [
        bed.row([*ids, EOS] if reason == "length" else ids, "stop")
        for ids, reason in zip(bed.pairs["completion_ids"], bed.pairs["finish_reason"], strict=True)
    ]
    longer = bed.sft_losses(pairs_from_rows(rows, where="completions with EOS"))
    lengths = torch.tensor([len(row["completion_ids"]) for row in rows], dtype=torch.float64)
    return bed.gradient(bed.probabilities @ longer) / (bed.probabilities @ lengths)


def batch_means(sft: Tensor, p: Tensor, n: Tensor, size: int) -> Tensor:
    """Expected gradient when each batch of `size` sequences is divided by its own tokens.

    E[sum g / sum n] = size * sum_y p(y) g(y) E[1 / (n(y) + tokens of the others)], and the others' tokens have a
    distribution that is a convolution: exact, no sampling.
    """
    one = torch.zeros(int(n.max()) + 1, dtype=p.dtype).index_add(0, n.long(), p)
    others = torch.ones(1, dtype=p.dtype)
    for _ in range(size - 1):
        others = torch.nn.functional.conv1d(others[None, None], one.flip(0)[None, None], padding=len(one) - 1)[0, 0]
    inverse = (others / (n[:, None] + torch.arange(len(others)))).sum(1)
    return size * ((p * inverse) @ sft)


def _kl(distribution: Tensor, p: Tensor) -> float:
    """KL of the text that is really learned from, to the teacher's, in nats a completion."""
    some = distribution > 0
    return float((distribution[some] * (distribution[some] / p[some]).log()).sum())
