"""Evaluation: agreement with the teacher on held-out pairs."""

from distill.evaluation.agreement import Agreement, HeldOut
from distill.evaluation.curve import AgreementCurve
from distill.evaluation.overfitting import OverfittingCurve, best_steps, overfitting_table

__all__ = ["Agreement", "AgreementCurve", "HeldOut", "OverfittingCurve", "best_steps", "overfitting_table"]
