"""What is compared: divergences, the streamed next-token and attention losses, and the terms of the white-box loss.

Divergences are pure functions; streamed losses give the exact number and gradient without ever holding the maps.
"""

from distill.objectives.attention import AttentionMaps
from distill.objectives.base import Objective, Term
from distill.objectives.hidden import HiddenStates
from distill.objectives.logits import Logits
from distill.objectives.sampled_reverse_kl import SampledReverseKL
from distill.objectives.schedules import Schedule
from distill.objectives.sparse_next_token import sparse_divergence_of_logits, sparse_next_token_divergence
from distill.objectives.streamed_attention import attention_divergence, attention_scores
from distill.objectives.streamed_next_token import Comparison, next_token_divergence

__all__ = [
    "AttentionMaps",
    "Comparison",
    "HiddenStates",
    "Logits",
    "Objective",
    "SampledReverseKL",
    "Schedule",
    "Term",
    "attention_divergence",
    "attention_scores",
    "next_token_divergence",
    "sparse_divergence_of_logits",
    "sparse_next_token_divergence",
]
