"""Divergences: pure functions of two rows of logits, student first, teacher second; one number per row.

No mask, no labels, no reduction, no weight. All are in nats, 0 with zero gradient where both rows are the same
distribution, and finite for logits of +-1e4 in any dtype. A teacher logit of -inf (a token that cannot occur) is allowed.
Half-precision inputs are computed in float32. Gradients flow to the student and, if it asks for them, to the teacher.

`temperature` divides the logits of both sides. The factor T^2 that keeps the size of the gradient (Hinton et al. 2015) is
*not* applied here; `distill.Logits` applies it, visibly.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

# exp() of it is exactly 0 in every dtype, and differences of two of them are still finite
_LOWEST = -1e30


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) = sum p log(p / q), p the teacher's row and q the student's.

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
    q, p = _log_softmax(student_logits, temperature), _log_softmax(teacher_logits, temperature)
    return _kl(p, q)


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL(student || teacher) = sum q log(q / p). Mode seeking: probability where the teacher has none is what costs.

    Where the teacher's logit is -inf and the student gives probability, the true value is infinite; a very large number is
    returned.

    Arguments and result as in `forward_kl`. Source: Gu et al. 2024 (MiniLLM).
    """
    q, p = _log_softmax(student_logits, temperature), _log_softmax(teacher_logits, temperature)
    return _kl(q, p)


def generalized_jsd(
    student_logits: Tensor, teacher_logits: Tensor, *, beta: float = 0.5, temperature: float = 1.0
) -> Tensor:
    """Generalised Jensen-Shannon divergence: beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q.

    Between 0 and ln 2 for beta = 0.5. As beta goes to 0 or 1 it goes to 0; its *slope* there is the forward (beta to 0)
    and reverse KL (beta to 1). Implementations that return those KLs at beta = 0 and 1 have a jump; here 0 and 1 are
    refused instead.

    Args:
        student_logits, teacher_logits, temperature: as in `forward_kl`.
        beta: weight of the teacher in the mixture, strictly between 0 and 1.

    Raises:
        ValueError: beta out of its range.

    Source: Agarwal et al. 2024 (GKD).
    """
    if not 0 < beta < 1:
        raise ValueError(
            f"beta is {beta}; it must lie strictly between 0 and 1 (use forward_kl or reverse_kl at the ends)."
        )
    q, p = _log_softmax(student_logits, temperature), _log_softmax(teacher_logits, temperature)
    mixture = torch.logaddexp(p + math.log(beta), q + math.log1p(-beta))
    return beta * _kl(p, mixture) + (1 - beta) * _kl(q, mixture)


def by_name(name: str, *, beta: float | None = None) -> Callable[..., Tensor]:
    """The divergence called `name`; `beta` belongs to `"generalized_jsd"` alone.

    Raises:
        ValueError: no such divergence; beta given to one that has none, or out of its range.
    """
    known = {"forward_kl": forward_kl, "reverse_kl": reverse_kl, "generalized_jsd": generalized_jsd}
    if name not in known:
        raise ValueError(f"divergence is {name!r}; it must be one of {', '.join(known)}.")
    if name != "generalized_jsd":
        if beta is not None:
            raise ValueError(f"beta belongs to generalized_jsd; {name} has none.")
        return known[name]
    beta = 0.5 if beta is None else beta
    generalized_jsd(torch.zeros(1, 1), torch.zeros(1, 1), beta=beta)  # refuses a beta out of range now, not at step 1
    return partial(generalized_jsd, beta=beta)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    logits = logits if logits.dtype == torch.float64 else logits.float()
    # -inf would give 0 * inf = NaN below, in the gradient too
    return (logits / temperature).clamp(min=_LOWEST).log_softmax(dim=-1)


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a || b) per row, from log-probabilities."""
    return (log_a.exp() * (log_a - log_b)).sum(dim=-1)
