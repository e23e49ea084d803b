"""Objectives: the terms of the white-box loss."""

from distill.objectives.attention import AttentionMaps
from distill.objectives.base import Objective
from distill.objectives.hidden import HiddenStates
from distill.objectives.logits import Logits
from distill.objectives.schedules import Schedule

__all__ = ["AttentionMaps", "HiddenStates", "Logits", "Objective", "Schedule"]
