"""Memorisation: secrets planted on purpose, and how far a model repeats them or betrays that it has seen them."""

from distill.evaluation.memorisation.canaries import Canaries, Canary, plant
from distill.evaluation.memorisation.exposure import Exposure, exposures
from distill.evaluation.memorisation.extraction import Extracted, extract
from distill.evaluation.memorisation.membership import Membership, membership
from distill.evaluation.memorisation.overlap import Overlap, overlap
from distill.evaluation.memorisation.watching import CanaryWatch

__all__ = [
    "Canaries",
    "Canary",
    "CanaryWatch",
    "Exposure",
    "Extracted",
    "Membership",
    "Overlap",
    "exposures",
    "extract",
    "membership",
    "overlap",
    "plant",
]
