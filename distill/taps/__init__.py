"""Let logits, the head's input, hidden states and attention queries/keys out of a forward pass, without touching the model."""

from distill.taps.attention import AttentionTap, probe_attention, record_attention
from distill.taps.forward import Signals, Wants, run_with_taps
from distill.taps.head import Finish, HeadTap, probe_head
from distill.taps.hidden import probe_hidden

__all__ = [
    "AttentionTap",
    "Finish",
    "HeadTap",
    "Signals",
    "Wants",
    "probe_attention",
    "probe_head",
    "probe_hidden",
    "record_attention",
    "run_with_taps",
]
