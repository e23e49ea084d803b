"""What models say about a batch beyond its text: logits or what they are made of, hidden states, queries and keys.

Taps let them out of a forward pass without touching the model; a request says which; a source is whoever gives the teacher's.
"""

from distill.signals.attention import AttentionTap, layers_with_attention, probe_attention, record_attention
from distill.signals.base import SignalSource
from distill.signals.capturing import capture
from distill.signals.facts import ModelFacts, TeacherFacts, facts_of
from distill.signals.head import HeadTap, LogitTransform, MixedHead, probe_head
from distill.signals.hidden import probe_hidden
from distill.signals.mixture import Mixture
from distill.signals.requests import SignalRequest, Signals, run_with_taps
from distill.signals.rows import SupervisedRows
from distill.signals.served import ServedTeacher
from distill.signals.several import Routed
from distill.signals.sources import LiveTeacher, SelfTeacher, ShardedTeacher
from distill.signals.stored import StoredSignals

__all__ = [
    "AttentionTap",
    "HeadTap",
    "LiveTeacher",
    "LogitTransform",
    "MixedHead",
    "Mixture",
    "ModelFacts",
    "Routed",
    "SelfTeacher",
    "ServedTeacher",
    "ShardedTeacher",
    "SignalRequest",
    "SignalSource",
    "Signals",
    "StoredSignals",
    "SupervisedRows",
    "TeacherFacts",
    "capture",
    "facts_of",
    "layers_with_attention",
    "probe_attention",
    "probe_head",
    "probe_hidden",
    "record_attention",
    "run_with_taps",
]
