"""Forgetting: a student against the model it started from, before and after, pair by pair.

Made by `Before(start, old_pairs, new_pairs, tokenizer).measure(student)`; over a run, as a curve, by `ForgettingCurve`.
"""

from distill.evaluation.forgetting.answers import Answers, answers_of, quick_copy
from distill.evaluation.forgetting.before import Before
from distill.evaluation.forgetting.calibration import BINS, ece
from distill.evaluation.forgetting.curve import ForgettingCurve
from distill.evaluation.forgetting.figures import MEASURES, Change, Forgetting, Measure
from distill.evaluation.forgetting.own_text import own_pairs

__all__ = [
    "BINS",
    "MEASURES",
    "Answers",
    "Before",
    "Change",
    "Forgetting",
    "ForgettingCurve",
    "Measure",
    "answers_of",
    "ece",
    "own_pairs",
    "quick_copy",
]
