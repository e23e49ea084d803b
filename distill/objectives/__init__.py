"""Objectives: the terms of the white-box loss."""

from distill.objectives.attention import AttentionMaps
from distill.objectives.base import Objective
from distill.objectives.hidden import HiddenStates
from distill.objectives.logits import Logits

__all__ = ["AttentionMaps", "HiddenStates", "Logits", "Objective"]
