"""From black box to white box in small steps: how many tokens of the teacher are seen at every position."""

import torch
from torch.nn.functional import one_hot

from distill.equivalence.bed import Bed
from distill.equivalence.results import Section
from distill.equivalence.three_ways import variance
from distill.objectives.divergences import forward_kl


def bridge(bed: Bed, draws: int = 20_000, counts: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)) -> Section:
    """From black box to white box: n sampled tokens at every position, the first of them the one that was written.

    n = 1 is SFT; the whole distribution is the white box. All go through one function, the forward KL to the empirical
    distribution of the samples (random-sampling distillation, arXiv 2503.16870).
    """
    section, p = Section("bridge"), bed.probabilities
    rows, teacher = bed.student_rows(), bed.teacher_logits.softmax(-1)
    starts = torch.searchsorted(rows.pair, torch.arange(len(p)))  # first row of each completion
    beginnings = [tuple(ids[:t]) for ids in bed.pairs["completion_ids"] for t in range(len(ids))]
    first = [beginnings.index(one) for one in dict.fromkeys(beginnings)]  # rows after the same words are the same
    same_as = {beginnings[row]: i for i, row in enumerate(first)}
    place = torch.tensor([same_as[one] for one in beginnings])
    # the gradient is linear in the target, so one gradient for each (row, token) gives that of any sample
    one_token = torch.eye(bed.vocabulary, dtype=torch.float64).log()
    unit = torch.stack([bed.gradients(forward_kl(rows.logits[first], t.expand(len(first), -1))) for t in one_token], 1)
    generator = torch.Generator().manual_seed(0)
    written = torch.multinomial(p, draws, replacement=True, generator=generator)
    sft = bed.gradients(bed.sft_losses())
    expected = p @ sft
    white = bed.gradients(bed.white_box_losses())

    measured, off = [], []
    for n in counts:
        gradient = torch.zeros(draws, unit.shape[-1], dtype=torch.float64)
        for position in range(bed.length):
            here = bed.lengths[written] > position
            row = (starts[written] + position)[here]
            share = one_hot(rows.labels[row], bed.vocabulary).double()
            if n > 1:
                more = torch.multinomial(teacher[row], n - 1, replacement=True, generator=generator)
                share = share + one_hot(more, bed.vocabulary).sum(1)
            gradient[here] += torch.einsum("rv,rvp->rp", share / n, unit[place[row]])
        measured.append(float((gradient - expected).square().sum(1).mean()))
        off.append(float((gradient.mean(0) - expected).square().sum()) / (measured[-1] / draws))
    least, most = float(variance(p, white)), float(variance(p, sft))
    predicted = [least + (most - least) / n for n in counts]
    section.data = {
        "counts": list(counts), "variance": measured, "predicted": predicted, "white_box": least, "sft": most,
        "mean_error": off,
    }  # fmt: skip
    label_of = one_hot(rows.labels, bed.vocabulary).double()
    written_out = torch.zeros_like(sft).index_add(0, rows.pair, torch.einsum("rv,rvp->rp", label_of, unit[place]))
    apart = float((written_out - sft).abs().max() / sft.abs().max())
    section.claim(
        "One sampled token a position is SFT: the forward KL to it has the gradient of cross-entropy",
        f"relative difference at most {apart:.0e}, over all {len(p)} completions",
        apart < 1e-12,
    )
    section.claim(
        "The mean of the gradient is the same for every n",
        f"squared distance from it over what chance gives: {', '.join(f'{x:.1f}' for x in off)} (1 expected), {draws} draws",
        max(off) < 6,
    )
    ratios = [v / w for v, w in zip(measured, predicted, strict=True)]
    section.claim(
        "Its variance is a + b / n: from that of SFT (n = 1) to that of the white box (the whole vocabulary)",
        f"measured / predicted {', '.join(f'{r:.3f}' for r in ratios)} for n = {', '.join(map(str, counts))}; from {most:.4g} "
        f"to {least:.4g}",
        max(abs(r - 1) for r in ratios) < 8 / draws**0.5,
    )
    return section
