"""From black box to white box in small steps: how many tokens of the teacher are seen at every position."""

import torch
from torch.nn.functional import one_hot

from distill.divergences import forward_kl
from distill.equivalence.bed import Bed, Rows
from distill.equivalence.gradients import variance
from distill.equivalence.results import Section


def bridge(bed: Bed, draws: int = 20_000, counts: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)) -> Section:
    """From black box to white box: n sampled tokens at every position, the first of them the one that was written.

    n = 1 is SFT; the whole distribution is the white box. All go through one function, the forward KL to the empirical
    distribution of the samples (random-sampling distillation, arXiv 2503.16870).
    """
    section, p = Section("bridge"), bed.probabilities
    rows = Rows(bed.student, bed.tokenizer, bed.pairs)
    with torch.no_grad():
        teacher = Rows(bed.teacher.model, bed.tokenizer, bed.pairs).logits.softmax(-1)
    # the gradient is linear in the target, so one gradient for each (row, token) gives that of any sample
    targets = torch.eye(bed.vocabulary, dtype=torch.float64).log()
    unit = torch.stack([bed.gradients(forward_kl(rows.logits, t.expand_as(rows.logits))) for t in targets], 1)
    generator = torch.Generator().manual_seed(0)
    written = torch.multinomial(p, draws, replacement=True, generator=generator)
    pair_of = rows.by_pair(torch.ones(len(rows.labels), dtype=torch.float64)).long().cumsum(0)
    starts = torch.cat([torch.zeros(1, dtype=torch.long), pair_of[:-1]])
    expected = p @ bed.gradients(bed.sft_losses())
    white = bed.gradients(bed.white_box_losses())

    measured = []
    for n in counts:
        gradient = torch.zeros(draws, unit.shape[-1], dtype=torch.float64)
        for position in range(bed.length):
            here = bed.lengths[written] > position
            row = (starts[written] + position)[here]
            share = one_hot(rows.labels[row], bed.vocabulary).double()
            if n > 1:
                more = torch.multinomial(teacher[row], n - 1, replacement=True, generator=generator)
                share = share + one_hot(more, bed.vocabulary).sum(1)
            gradient[here] += torch.einsum("rv,rvp->rp", share / n, unit[row])
        measured.append(float((gradient - expected).square().sum(1).mean()))
    least, most = float(variance(p, white)), float(variance(p, bed.gradients(bed.sft_losses())))
    section.data = {"counts": list(counts), "variance": measured, "white_box": least, "sft": most}
    section.claim(
        "One sampled token a position is SFT",
        f"variance {measured[0]:.4g} in {draws} draws, SFT exactly {most:.4g}",
        abs(measured[0] / most - 1) < 0.1,
    )
    excess = [(v - least) * n for n, v in zip(counts, measured, strict=True)]
    section.claim(
        "More tokens a position go over to the white box: what is left above its variance falls as 1/n",
        f"variance {', '.join(f'{v:.3g}' for v in measured)} for n = {', '.join(map(str, counts))}; whole vocabulary {least:.3g}",
        measured == sorted(measured, reverse=True) and max(excess[:4]) < 2 * min(excess[:4]),
    )
    return section
