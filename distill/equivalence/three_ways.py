"""Why black-box distillation works: three ways to one gradient, and how fast samples approach it."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from distill.equivalence.bed import PROMPT, Bed, Rows
from distill.equivalence.results import Section
from distill.equivalence.table import TableForCausalLM
from distill.generation.asking import generate
from distill.objectives.divergences import forward_kl
from distill.pairs.collate import PairCollator
from distill.pairs.schema import pairs_from_rows


def gradients(bed: Bed, samples: int = 2**15, beds: int = 20) -> Section:
    """SFT on the teacher's text, white box along it, and finite differences of the sequence KL.

    Args:
        bed: test bed.
        samples: completions drawn from the teacher for the Monte Carlo part.
        beds: further random test beds for the spread of the variance ratio.
    """
    section, p = Section("gradients"), bed.probabilities
    sft, white = bed.gradients(bed.sft_losses()), bed.gradients(bed.white_box_losses())
    three = {
        "SFT, expected over the teacher's text": p @ sft,
        "white box along the teacher's text": p @ white,
        "finite differences of the sequence KL": finite_differences(bed),
    }
    exact = three["white box along the teacher's text"]
    apart = {name: float((g - exact).norm() / exact.norm()) for name, g in three.items()}
    section.claim(
        "All completions of the teacher together have probability 1",
        f"{len(p)} completions; the sum differs from 1 by {abs(float(p.sum()) - 1):.0e}",
        abs(float(p.sum()) - 1) < 1e-12,
    )
    section.claim(
        "Expected SFT gradient, white-box gradient and gradient of the sequence KL are one vector",
        f"relative differences {', '.join(f'{x:.0e}' for x in apart.values() if x)}; {len(exact)} parameters",
        max(apart.values()) < 1e-10,
    )

    drawn = generate(bed.teacher, [PROMPT], samples=samples, max_new_tokens=bed.length, batch_size=4096, progress=False)
    picked = torch.tensor([bed.index[tuple(ids)] for ids in drawn["completion_ids"]])
    sizes = [2**i for i in range(3, 12) if 2**i * 32 <= samples]
    errors = [_error(sft, picked, size, exact) for size in sizes]
    slope = _slope(sizes, errors)
    section.claim(
        "The error of SFT on N completions falls as N^(-1/2)",
        f"fitted exponent {slope:.3f} over N = {sizes[0]} to {sizes[-1]}, completions written by distill.generate",
        abs(slope + 0.5) < 0.05,
    )

    variances = variance(p, sft), variance(p, white)
    others = [Bed(100 + seed) for seed in range(beds)]
    ratios = [
        float(variance(b.probabilities, b.gradients(b.sft_losses())))
        / float(variance(b.probabilities, b.gradients(b.white_box_losses())))
        for b in others
    ]
    elsewhere = f", {min(ratios):.1f} to {max(ratios):.1f} on {len(ratios)} other beds" if ratios else ""
    counter = alternating_teacher()
    section.claim(
        "White box has less variance a completion here, but that is no theorem",
        f"SFT / white box: {float(variances[0] / variances[1]):.1f} here{elsewhere}; a teacher that alternates two letters, and a "
        f"student without memory: SFT {counter['sft']:.0e}, white box {counter['white_box']:.2f}",
        bool(variances[0] > variances[1]) and counter["sft"] < 1e-12 < counter["white_box"],
    )
    section.data = {
        "apart": apart,
        "sizes": sizes,
        "errors": errors,
        "slope": slope,
        "predicted": [float((variances[0] / n).sqrt() / exact.norm()) for n in sizes],
        "variance_ratio": float(variances[0] / variances[1]),
        "variance_ratios_elsewhere": ratios,
        "alternating": counter,
    }
    return section


@torch.no_grad()
def finite_differences(bed: Bed, step: float = 1e-3) -> Tensor:
    """`[P]`: gradient of the sequence KL by central differences of fourth order; no derivative is used."""
    parts = []
    for parameter in bed.student.parameters():
        flat = parameter.view(-1)
        for i in range(flat.numel()):
            value = float(flat[i])
            near, far = (_two_sided(bed, flat, i, value, step * factor) for factor in (1, 2))
            flat[i] = value
            parts.append((8 * near - far) / (12 * step))
    return torch.tensor(parts, dtype=torch.float64)


def _two_sided(bed: Bed, flat: Tensor, i: int, value: float, step: float) -> float:
    flat[i] = value + step
    above = float(bed.sequence_kl())
    flat[i] = value - step
    return above - float(bed.sequence_kl())


def variance(p: Tensor, gradient_of: Tensor) -> Tensor:
    """Expected squared distance of one completion's gradient `[S, P]` from the mean."""
    return p @ (gradient_of - p @ gradient_of).square().sum(1)


def _error(gradient_of: Tensor, picked: Tensor, size: int, exact: Tensor) -> float:
    """Root mean square, over blocks of `size` completions, of the relative error of their mean gradient."""
    blocks = picked[: len(picked) // size * size].view(-1, size)
    counts = one_hot(blocks, len(gradient_of)).sum(1).double()
    return float(((counts @ gradient_of / size - exact).square().sum(1).mean()).sqrt() / exact.norm())


def _slope(sizes: list[int], errors: list[float]) -> float:
    x, y = torch.tensor(sizes, dtype=torch.float64).log(), torch.tensor(errors, dtype=torch.float64).log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def alternating_teacher() -> dict[str, float]:
    """The counterexample: variance of both gradients for a teacher that says "a b" or "b a", half the time each.

    The student has no memory: one distribution for every position. Each completion has one a and one b, so the SFT
    gradient never varies; the white box varies with the letter that happens to come first.
    """
    bed = Bed(vocabulary=3, length=2)
    a, b = 1, 2
    pairs = pairs_from_rows([bed.row([a, b]), bed.row([b, a])], where="the counterexample")
    student = TableForCausalLM.with_order(bed.vocabulary, 0).double()
    torch.nn.init.constant_(student.lm_head.weight[a : a + 1], 0.7)
    rows = Rows(student, PairCollator(bed.tokenizer)(pairs.to_list()))
    # first an even chance of both letters, then surely the other one
    teacher = torch.tensor([[0, 0.5, 0.5], [0, 0, 1], [0, 0.5, 0.5], [0, 1, 0]], dtype=torch.float64).log()
    losses = {
        "sft": rows.by_pair(cross_entropy(rows.logits, rows.labels, reduction="none")),
        "white_box": rows.by_pair(forward_kl(rows.logits, teacher)),
    }
    even = torch.tensor([0.5, 0.5], dtype=torch.float64)
    gradient_of = {
        name: [torch.autograd.grad(one, student.lm_head.weight, retain_graph=True)[0].flatten() for one in values]
        for name, values in losses.items()
    }
    return {name: float(variance(even, torch.stack(parts))) for name, parts in gradient_of.items()}
