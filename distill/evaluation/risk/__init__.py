"""Risk: what a student gained, lost and may give away, beside its start and its teacher; figures, thresholds, a verdict."""

from distill.evaluation.risk.figures import Figure, Value
from distill.evaluation.risk.sides import Side, Sides
from distill.evaluation.risk.thresholds import Judged, judge, read_thresholds

__all__ = ["Figure", "Judged", "Side", "Sides", "Value", "judge", "read_thresholds"]
