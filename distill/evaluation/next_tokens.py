"""Next-token distributions of two models compared position by position: figures without gradients, a few rows at a time."""

from typing import NamedTuple

import torch
from torch import Tensor

from distill.objectives.divergences import by_name
from distill.objectives.streamed_next_token import pieces, tiles
from distill.signals import HeadTap
from distill.signals.head_logits import logits_of_both, side_of


class Compared(NamedTuple):
    """Of every position, `[N]` each.

    Args:
        kl: KL(teacher || student), in nats.
        same: whether both find the same token most likely.
        loss, teacher_loss: the cross-entropy of either on the label, in nats.
        confidence: the student's probability of its most likely token.
        right: whether that token is the label.
    """

    kl: Tensor
    same: Tensor
    loss: Tensor
    teacher_loss: Tensor
    confidence: Tensor
    right: Tensor


@torch.no_grad()
def compared(student: HeadTap | Tensor, teacher: HeadTap | Tensor, labels: Tensor, vocabulary: int | None) -> Compared:
    """Both models' figures on the same positions; no more than a chunk of logits is there at once.

    Args:
        student, teacher: taps of the heads, or the models' own logits `[N, V]`; on one device.
        labels: `[N]`, the tokens that follow.
        vocabulary: compare this many first tokens only; None: all.
    """
    one = student if isinstance(student, Tensor) else student.weight.t()
    vocabulary = vocabulary or one.shape[1]
    heads, count, device = [side_of(signal, vocabulary) for signal in (student, teacher)], len(labels), labels.device
    exact = torch.float64 if heads[0].dtype == torch.float64 else torch.float32
    kl, loss, teacher_loss, confidence = (torch.empty(count, dtype=exact, device=device) for _ in range(4))
    same, right = (torch.empty(count, dtype=torch.bool, device=device) for _ in range(2))
    forward_kl = by_name("forward_kl")
    _, chunk = pieces(device.type, count, vocabulary, heads[0].dtype)
    for start in range(0, count, chunk):
        rows = slice(start, min(start + chunk, count))
        both = logits_of_both(heads[0], heads[1], rows, None)
        for tile in tiles(rows, vocabulary, device.type):
            at = slice(rows.start + tile.start, rows.start + tile.stop)
            q, p = (head.transformed(head.exact(logits, tile, exact)) for head, logits in zip(heads, both, strict=True))
            likeliest = q.argmax(-1)
            same[at], right[at] = likeliest == p.argmax(-1), likeliest == labels[at]
            log_q, log_p = q.log_softmax(-1), p.log_softmax(-1)
            confidence[at] = log_q.gather(1, likeliest[:, None]).squeeze(1).exp()
            for entropy, logs in ((loss, log_q), (teacher_loss, log_p)):
                entropy[at] = -logs.gather(1, labels[at, None]).squeeze(1)
            kl[at] = forward_kl.value(log_q, log_p)
    return Compared(kl, same, loss, teacher_loss, confidence, right)
