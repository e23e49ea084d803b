"""Memorisation: secrets planted on purpose, and how far a model repeats them or betrays that it has seen them."""

from distill.evaluation.memorisation.canaries import Canaries, Canary, plant
from distill.evaluation.memorisation.controls import PlantedLeak, planted_leak
from distill.evaluation.memorisation.examination import Examination, examine_memory
from distill.evaluation.memorisation.exposure import Exposure, exposures
from distill.evaluation.memorisation.extraction import Extracted, extract
from distill.evaluation.memorisation.membership import Membership, membership
from distill.evaluation.memorisation.overlap import Overlap, overlap
from distill.evaluation.memorisation.watching import CanaryWatch

__all__ = [
    "Canaries",
    "Canary",
    "CanaryWatch",
    "Examination",
    "Exposure",
    "Extracted",
    "Membership",
    "Overlap",
    "PlantedLeak",
    "examine_memory",
    "exposures",
    "extract",
    "membership",
    "overlap",
    "plant",
    "planted_leak",
]
