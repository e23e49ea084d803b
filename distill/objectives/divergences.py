"""Divergences: pure functions of two rows of logits, student first, teacher second; one number per row.

No mask, no labels, no reduction, no weight. All are in nats except `total_variation`; 0 with a gradient of exactly 0 where
both rows are the same logits, and finite for logits of +-1e4 in any dtype. A teacher logit of -inf (a token that cannot
occur) is allowed. Half-precision inputs are computed in float32. Gradients flow to the student and, if it asks for them,
to the teacher.

`temperature` divides the logits of both sides. The factor T^2 that keeps the size of the gradient (Hinton et al. 2015) is
*not* applied here; `distill.Logits` applies it, visibly.

Each divergence is written once, as a *value-and-gradient function*: its value and its slope in the student's logits, in closed form from two
rows of log-probabilities. The functions below differentiate by it, and the streaming of `distill.objectives` runs on it tile by
tile. p is the teacher's row, q the student's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distill.signals.head_logits import LOWEST

ValueAndGrad = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(log q, log p), each `[..., V]` -> value `[...]` and its slope in the student's logits `[..., V]`."""


@dataclass(frozen=True)
class Divergence:
    """A divergence with its settings fixed; what `by_name` returns. Call it like the functions of this module.

    Args:
        name: as in `by_name`.
        value_and_grad: value and slope in the student's logits.
        swapped: that of the same number with the two rows in each other's place; its slope is the teacher's.
    """

    name: str
    value_and_grad: ValueAndGrad
    swapped: ValueAndGrad

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
        """`[...]` from two `[..., V]`."""
        value: Tensor = _Rows.apply(student_logits, teacher_logits, self.value_and_grad, self.swapped, temperature)
        return value


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) = sum p log(p / q).

    Mass covering: the student is asked to give probability wherever the teacher does. Its gradient in the student's logits
    is q - p; in expectation over sampled tokens it is that of cross-entropy on the teacher's text.

    Args:
        student_logits: `[..., V]`.
        teacher_logits: `[..., V]`.
        temperature: divides both.

    Returns:
        `[...]`, in nats.

    Source: Hinton et al. 2015.

    Example:
        >>> forward_kl(torch.zeros(1, 4), torch.zeros(1, 4))
        tensor([0.])
    """
    return _FORWARD(student_logits, teacher_logits, temperature=temperature)


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL(student || teacher) = sum q log(q / p). Mode seeking: probability where the teacher has none is what costs.

    Where the teacher's logit is -inf and the student gives probability, the true value is infinite; a very large number is
    returned.

    Arguments and result as in `forward_kl`. Source: Gu et al. 2024 (MiniLLM).
    """
    return _REVERSE(student_logits, teacher_logits, temperature=temperature)


def generalized_jsd(
    student_logits: Tensor, teacher_logits: Tensor, *, beta: float = 0.5, temperature: float = 1.0
) -> Tensor:
    """Generalised Jensen-Shannon divergence: beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q.

    Between 0 and ln 2 for beta = 0.5. The usual convention of the field is kept, with its jump: beta = 0 and 1 *are* the
    forward and the reverse KL, while the value for beta close to them goes to 0 (its slope there is those KLs). Use
    `scaled_jsd` for a family without the jump.

    Args:
        student_logits, teacher_logits, temperature: as in `forward_kl`.
        beta: weight of the teacher in the mixture, from 0 to 1.

    Raises:
        ValueError: beta out of its range.

    Source: Agarwal et al. 2024 (GKD).
    """
    return by_name("generalized_jsd", beta=beta)(student_logits, teacher_logits, temperature=temperature)


def scaled_jsd(
    student_logits: Tensor, teacher_logits: Tensor, *, beta: float = 0.5, temperature: float = 1.0
) -> Tensor:
    """The generalised JSD divided by beta (1 - beta): continuous from the forward KL (beta = 0) to the reverse (beta = 1).

    At beta = 0.5 it is 4 times the usual JSD. Arguments, result and errors as in `generalized_jsd`.

    Source: Huszar 2015 (the scaling); Agarwal et al. 2024 (the mixture).
    """
    return by_name("scaled_jsd", beta=beta)(student_logits, teacher_logits, temperature=temperature)


def skew_forward_kl(
    student_logits: Tensor, teacher_logits: Tensor, *, skew: float = 0.1, temperature: float = 1.0
) -> Tensor:
    """KL(p || skew p + (1 - skew) q): forward KL against a mixture, at most -log(skew), with bounded gradients.

    Args:
        student_logits, teacher_logits, temperature: as in `forward_kl`.
        skew: weight of the teacher in the mixture, above 0 and below 1; towards 0 it becomes the forward KL.

    Raises:
        ValueError: skew out of its range.

    Source: Ko et al. 2024 (DistiLLM).
    """
    return by_name("skew_forward_kl", skew=skew)(student_logits, teacher_logits, temperature=temperature)


def skew_reverse_kl(
    student_logits: Tensor, teacher_logits: Tensor, *, skew: float = 0.1, temperature: float = 1.0
) -> Tensor:
    """KL(q || skew q + (1 - skew) p): reverse KL against a mixture, at most -log(skew) even where the teacher has none.

    `skew` is the weight of the *student* in the mixture; the rest as in `skew_forward_kl`.
    Source: Ko et al. 2024 (DistiLLM).
    """
    return by_name("skew_reverse_kl", skew=skew)(student_logits, teacher_logits, temperature=temperature)


def total_variation(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Total variation 1/2 sum |p - q|, between 0 and 1: the largest difference in the probability of any event.

    A probability, not nats. Where p = q in a coordinate its subgradient there is taken as 0. Its gradient vanishes where the
    student is certain and wrong, so it is a poor start and a robust finish.

    Arguments as in `forward_kl`. Source: Wen et al. 2023 (f-DISTILL).
    """
    return _VARIATION(student_logits, teacher_logits, temperature=temperature)


def by_name(name: str, *, beta: float | None = None, skew: float | None = None) -> Divergence:
    """The divergence called `name`, with its settings; `beta` and `skew` belong to those that have them.

    Raises:
        ValueError: no such divergence; a setting given to one that has none, or out of its range.
    """
    if name not in NAMES:
        raise ValueError(f"divergence is {name!r}; it must be one of {', '.join(NAMES)}.")
    takes = _SETTINGS.get(name, "")
    for setting, value in (("beta", beta), ("skew", skew)):
        if value is not None and setting != takes:
            raise ValueError(f"{setting} is {value}, but {name} has none; leave it out.")
    beta = 0.5 if beta is None else beta
    skew = 0.1 if skew is None else skew
    if takes == "beta" and not 0 <= beta <= 1:
        raise ValueError(f"beta is {beta}; it must lie between 0 (forward KL) and 1 (reverse KL).")
    if takes == "skew" and not 0 < skew < 1:
        raise ValueError(f"skew is {skew}; it must lie between 0 and 1 (use forward_kl or reverse_kl in place of 0).")
    if takes == "beta" and beta in (0, 1):
        ends = (_forward_kl, _reverse_kl) if beta == 0 else (_reverse_kl, _forward_kl)
        return Divergence(name, *ends)
    if takes == "beta":
        scale = 1.0 if name == "generalized_jsd" else 1 / (beta * (1 - beta))
        return Divergence(name, partial(_jsd, beta=beta, scale=scale), partial(_jsd, beta=1 - beta, scale=scale))
    if name == "skew_forward_kl":
        return Divergence(name, partial(_skew_forward, skew=skew), partial(_skew_reverse, skew=skew))
    if name == "skew_reverse_kl":
        return Divergence(name, partial(_skew_reverse, skew=skew), partial(_skew_forward, skew=skew))
    return {"forward_kl": _FORWARD, "reverse_kl": _REVERSE, "total_variation": _VARIATION}[name]


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-softmax of logits / temperature over the last axis, in float32 or wider; logits of -inf are allowed."""
    # -inf would give 0 * inf = NaN later, in the gradient too
    return (wide(logits) / temperature).clamp(min=LOWEST).log_softmax(dim=-1)


class _Rows(torch.autograd.Function):
    """A value-and-gradient function as a differentiable function of logits."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        value_and_grad: ValueAndGrad,
        swapped: ValueAndGrad,
        temperature: float,
    ) -> Tensor:
        log_q, log_p = log_probabilities(student, temperature), log_probabilities(teacher, temperature)
        ctx.slopes, ctx.temperature, ctx.dtypes = [None, None], temperature, (student.dtype, teacher.dtype)
        if ctx.needs_input_grad[1]:
            ctx.slopes[1] = swapped(log_p.clone(), log_q.clone())[1]
        value, ctx.slopes[0] = value_and_grad(log_q, log_p)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        scale = upstream.unsqueeze(-1) / ctx.temperature
        needed = zip(ctx.needs_input_grad, ctx.slopes, ctx.dtypes, strict=False)
        return *((scale * slope).to(dtype) if needs else None for needs, slope, dtype in needed), None, None, None


# The value-and-gradient functions. They may overwrite what they are given. For f(q) with slope u in the probabilities, the slope in the logits is
# q (u - sum q u); u is written so that it is exactly 0 at p = q. Rounding can make a sum of nearly 0 negative; it is then 0.


def _forward_kl(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    p, q = log_p.exp(), log_q.exp()
    value = log_p.sub_(log_q).mul_(p).sum(dim=-1)
    return value.clamp_(min=0), q.sub_(p)


def _reverse_kl(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    q = log_q.exp()
    ratio = log_q.sub_(log_p)
    value = (q * ratio).sum(dim=-1)
    return value.clamp(min=0), ratio.sub_(value.unsqueeze(-1)).mul_(q)


def _jsd(log_q: Tensor, log_p: Tensor, *, beta: float, scale: float) -> tuple[Tensor, Tensor]:
    p, q = log_p.exp(), log_q.exp()
    of_q, of_p = _log_mixture(log_q, log_p, beta)
    from_p = of_p.mul_(p).sum(dim=-1)
    from_q = torch.mul(of_q, q, out=p).sum(dim=-1)  # -KL(q || m)
    value = from_p.mul_(-beta * scale).add_(from_q, alpha=-(1 - beta) * scale).clamp_(min=0)
    slope = of_q.sub_(from_q.unsqueeze(-1)).mul_(q).mul_(-(1 - beta) * scale)
    return value, slope


def _skew_forward(log_q: Tensor, log_p: Tensor, *, skew: float) -> tuple[Tensor, Tensor]:
    p, q = log_p.exp(), log_q.exp()
    _, of_p = _log_mixture(log_q, log_p, skew)
    value = -p.mul_(of_p).sum(dim=-1).clamp_(max=0)
    excess = of_p.neg_().expm1_()  # p / m - 1
    slope = q * ((q * excess).sum(dim=-1, keepdim=True) - excess)
    return value, slope.mul_(1 - skew)


def _skew_reverse(log_q: Tensor, log_p: Tensor, *, skew: float) -> tuple[Tensor, Tensor]:
    q = log_q.exp()
    of_q, _ = _log_mixture(log_q, log_p, 1 - skew)
    value = -(q * of_q).sum(dim=-1).clamp_(max=0)
    ratio = of_q.neg_()  # log(q / m)
    u = ratio - skew * ratio.expm1()
    return value, u.sub_((q * u).sum(dim=-1, keepdim=True)).mul_(q)


def _total_variation(log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    q = log_q.exp()
    difference = log_p.exp_().sub_(q)
    value = difference.abs().sum(dim=-1) / 2
    u = difference.sign_().mul_(-0.5)
    return value, u.sub_((q * u).sum(dim=-1, keepdim=True)).mul_(q)


def _log_mixture(log_q: Tensor, log_p: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """log(m / q) and log(m / p) of m = beta p + (1 - beta) q: exactly 0 where p = q, finite where one of them is 0."""
    d = log_p.sub_(log_q)
    weight = torch.where(d > 0, d.new_full((), 1 - beta), d.new_full((), beta))  # new_tensor would copy, and wait
    rest = weight.mul_(d.abs().neg_().expm1_()).log1p_()
    return d.clamp(min=0).add_(rest), d.neg_().clamp_(min=0).add_(rest)


def wide(tensor: Tensor) -> Tensor:
    """At least float32; no copy if it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


_FORWARD = Divergence("forward_kl", _forward_kl, _reverse_kl)
_REVERSE = Divergence("reverse_kl", _reverse_kl, _forward_kl)
_VARIATION = Divergence("total_variation", _total_variation, _total_variation)
_SETTINGS = {"generalized_jsd": "beta", "scaled_jsd": "beta", "skew_forward_kl": "skew", "skew_reverse_kl": "skew"}
NAMES = (
    "forward_kl",
    "reverse_kl",
    "generalized_jsd",
    "scaled_jsd",
    "skew_forward_kl",
    "skew_reverse_kl",
    "total_variation",
)
