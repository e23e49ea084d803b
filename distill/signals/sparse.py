"""Sparse signals: a next-token distribution as a few weighted tokens, or as its largest probabilities and the mass of the rest."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Atoms:
    """Weighted tokens whose weights are, in expectation, the teacher's probabilities.

    Args:
        ids: `[N, K]` int64, tokens of the teacher.
        weights: `[N, K]` float32, 0 where a position has fewer than K tokens. They sum to 1.
        negentropy: `[N]` float32, sum p log p of the teacher's whole distribution, in nats: what no student can change in a KL.
        temperature: the probabilities are those of logits / temperature.
    """

    ids: Tensor
    weights: Tensor
    negentropy: Tensor
    temperature: float = 1.0


@dataclass(frozen=True)
class Top:
    """The largest log-probabilities, the emitted token's among them, and the mass of all other tokens as one number.

    Args:
        ids: `[N, K]` int64, different tokens of the teacher.
        log_probs: `[N, K]` float32, in nats; `-inf`: cannot occur.
        tail: `[N]` float32, log of the sum of all other probabilities; `-inf` where there are none.
        temperature: the probabilities are those of logits / temperature.
    """

    ids: Tensor
    log_probs: Tensor
    tail: Tensor
    temperature: float = 1.0


Sparse = Atoms | Top
