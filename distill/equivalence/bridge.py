"""From black box to white box in small steps: how many tokens of the teacher are seen at every position."""

import torch
from torch.nn.functional import one_hot

from distill.divergences import forward_kl
from distill.equivalence.bed import Bed
from distill.equivalence.gradients import variance
from distill.equivalence.results import Section


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
            gradient[here] += torch.einsum("rv,rvp->rp", share / n, unit[place[row]])
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
