"""Streaming divergence between two maps: the exact number and gradient, without ever holding the maps."""

from distill.maps.attention import attention_divergence, attention_scores
from distill.maps.next_token import Comparison, next_token_divergence

__all__ = ["Comparison", "attention_divergence", "attention_scores", "next_token_divergence"]
