"""Evaluation: agreement with the teacher on held-out pairs."""

from distill.evaluation.agreement import Agreement, HeldOut
from distill.evaluation.curve import AgreementCurve

__all__ = ["Agreement", "AgreementCurve", "HeldOut"]
