"""Value and slope of each divergence, in closed form from two rows of log-probabilities; written once.

p is the teacher's row, q the student's. The functions may overwrite what they are given. For f(q) with slope u in the probabilities, the slope in
the logits is q (u - sum q u); u is written so that it is exactly 0 at p = q. Rounding can make a sum of nearly 0 negative; it is then 0.
"""

from typing import Protocol

import torch
from torch import Tensor

Found = tuple[Tensor, Tensor | None]


class ValueAndGrad(Protocol):
    """(log q, log p), each `[..., V]` -> value `[...]` and its slope in the student's logits `[..., V]`.

    With `slope=False` the same value, in the same bits, and None: what a slope needs beside it is not computed.
    """

    def __call__(self, log_q: Tensor, log_p: Tensor, *, slope: bool = True) -> tuple[Tensor, Tensor | None]: ...


def forward_kl(log_q: Tensor, log_p: Tensor, *, slope: bool = True) -> Found:
    """sum p log(p / q); slope q - p."""
    p = log_p.exp()
    value = log_p.sub_(log_q).mul_(p).sum(dim=-1).clamp_(min=0)
    return value, log_q.exp_().sub_(p) if slope else None


def reverse_kl(log_q: Tensor, log_p: Tensor, *, slope: bool = True) -> Found:
    """sum q log(q / p)."""
    q = log_q.exp()
    ratio = log_q.sub_(log_p)
    value = (q * ratio if slope else q.mul_(ratio)).sum(dim=-1)
    return value.clamp(min=0), ratio.sub_(value.unsqueeze(-1)).mul_(q) if slope else None


def jsd(log_q: Tensor, log_p: Tensor, *, beta: float, scale: float, slope: bool = True) -> Found:
    """scale (beta KL(p || m) + (1 - beta) KL(q || m)), m = beta p + (1 - beta) q."""
    p, q = log_p.exp(), log_q.exp()
    d, rest = _mixture(log_q, log_p, beta)
    of_q, of_p = d.clamp(min=0).add_(rest), d.neg_().clamp_(min=0).add_(rest)
    from_p = of_p.mul_(p).sum(dim=-1)
    from_q = torch.mul(of_q, q, out=p).sum(dim=-1)  # -KL(q || m)
    value = from_p.mul_(-beta * scale).add_(from_q, alpha=-(1 - beta) * scale).clamp_(min=0)
    return value, of_q.sub_(from_q.unsqueeze(-1)).mul_(q).mul_(-(1 - beta) * scale) if slope else None


def skew_forward(log_q: Tensor, log_p: Tensor, *, skew: float, slope: bool = True) -> Found:
    """KL(p || skew p + (1 - skew) q)."""
    p, q = log_p.exp(), log_q.exp() if slope else None
    d, rest = _mixture(log_q, log_p, skew)
    of_p = d.neg_().clamp_(min=0).add_(rest)
    value = -p.mul_(of_p).sum(dim=-1).clamp_(max=0)
    if q is None:
        return value, None
    excess = of_p.neg_().expm1_()  # p / m - 1
    return value, (q * ((q * excess).sum(dim=-1, keepdim=True) - excess)).mul_(1 - skew)


def skew_reverse(log_q: Tensor, log_p: Tensor, *, skew: float, slope: bool = True) -> Found:
    """KL(q || skew q + (1 - skew) p)."""
    q = log_q.exp()
    d, rest = _mixture(log_q, log_p, 1 - skew)
    of_q = d.clamp_(min=0).add_(rest)
    value = -(q * of_q).sum(dim=-1).clamp_(max=0)
    if not slope:
        return value, None
    ratio = of_q.neg_()  # log(q / m)
    u = ratio - skew * ratio.expm1()
    return value, u.sub_((q * u).sum(dim=-1, keepdim=True)).mul_(q)


def total_variation(log_q: Tensor, log_p: Tensor, *, slope: bool = True) -> Found:
    """1/2 sum |p - q|; where p = q in a coordinate, its subgradient there is taken as 0."""
    q = log_q.exp()
    difference = log_p.exp_().sub_(q)
    value = (difference.abs() if slope else difference.abs_()).sum(dim=-1) / 2
    if not slope:
        return value, None
    u = difference.sign_().mul_(-0.5)
    return value, u.sub_((q * u).sum(dim=-1, keepdim=True)).mul_(q)


def _mixture(log_q: Tensor, log_p: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """d and r of m = beta p + (1 - beta) q: log(m / q) = max(d, 0) + r, log(m / p) = max(-d, 0) + r.

    Both are exactly 0 where p = q, and finite where one of them is 0.
    """
    d = log_p.sub_(log_q)
    weight = torch.where(d > 0, d.new_full((), 1 - beta), d.new_full((), beta))  # new_tensor would copy, and wait
    return d, weight.mul_(d.abs().neg_().expm1_()).log1p_()
