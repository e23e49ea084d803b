"""Divergences: pure functions of two rows of logits, student first, teacher second; one number per row.

No mask, no labels, no reduction, no weight. All are in nats except `total_variation`; 0 with a gradient of exactly 0 where
both rows are the same logits, and finite for logits of +-1e4 in any dtype. A teacher logit of -inf (a token that cannot
occur) is allowed. Half-precision inputs are computed in float32. Gradients flow to the student and, if it asks for them,
to the teacher.

`temperature` divides the logits of both sides. The factor T^2 that keeps the size of the gradient (Hinton et al. 2015) is
*not* applied here; `distill.Logits` applies it, visibly.

Each divergence is written once, as a *value-and-gradient function*: its value and its slope in the student's logits, in closed form from two
rows of log-probabilities (`distill.objectives.formulas`). The functions below differentiate by it, and the streaming of
`distill.objectives` runs on it tile by tile. Where nobody will differentiate (an evaluation) the same function stops at the value.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distill.objectives import formulas
from distill.objectives.formulas import ValueAndGrad
from distill.signals.head_logits import LOWEST, wide


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
        if not torch.is_grad_enabled():
            return self.value(
                log_probabilities(student_logits, temperature), log_probabilities(teacher_logits, temperature)
            )
        value: Tensor = _Rows.apply(student_logits, teacher_logits, self.value_and_grad, self.swapped, temperature)
        return value

    def value(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        """`[...]` from two rows of log-probabilities, which are written over; without the work that a slope would take."""
        return self.value_and_grad(log_q, log_p, slope=False)[0]


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
        ends = (formulas.forward_kl, formulas.reverse_kl) if beta == 0 else (formulas.reverse_kl, formulas.forward_kl)
        return Divergence(name, *ends)
    if takes == "beta":
        scale = 1.0 if name == "generalized_jsd" else 1 / (beta * (1 - beta))
        return Divergence(
            name, partial(formulas.jsd, beta=beta, scale=scale), partial(formulas.jsd, beta=1 - beta, scale=scale)
        )
    if name == "skew_forward_kl":
        return Divergence(name, partial(formulas.skew_forward, skew=skew), partial(formulas.skew_reverse, skew=skew))
    if name == "skew_reverse_kl":
        return Divergence(name, partial(formulas.skew_reverse, skew=skew), partial(formulas.skew_forward, skew=skew))
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
        value, ctx.slopes[0] = value_and_grad(log_q, log_p, slope=ctx.needs_input_grad[0])
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        scale = upstream.unsqueeze(-1) / ctx.temperature
        needed = zip(ctx.needs_input_grad, ctx.slopes, ctx.dtypes, strict=False)
        return *((scale * slope).to(dtype) if needs else None for needs, slope, dtype in needed), None, None, None


_FORWARD = Divergence("forward_kl", formulas.forward_kl, formulas.reverse_kl)
_REVERSE = Divergence("reverse_kl", formulas.reverse_kl, formulas.forward_kl)
_VARIATION = Divergence("total_variation", formulas.total_variation, formulas.total_variation)
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
