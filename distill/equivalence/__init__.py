"""The demonstration that black-box distillation is SFT; one file a section, to read and to teach from."""

from distill.equivalence.bed import Bed
from distill.equivalence.bitwise import obstacles
from distill.equivalence.data_law import law, noise_floor
from distill.equivalence.negative_controls import controls, provenance
from distill.equivalence.one_hot import hard_labels
from distill.equivalence.page import TITLES, write_page
from distill.equivalence.practices import breaks
from distill.equivalence.programs import Job, Settings
from distill.equivalence.real_model import real, sources
from distill.equivalence.results import Claim, Section
from distill.equivalence.same_program import ladder
from distill.equivalence.sampled_tokens import bridge
from distill.equivalence.three_ways import gradients

__all__ = [
    "TITLES",
    "Bed",
    "Claim",
    "Job",
    "Section",
    "Settings",
    "breaks",
    "bridge",
    "controls",
    "gradients",
    "hard_labels",
    "ladder",
    "law",
    "noise_floor",
    "obstacles",
    "provenance",
    "real",
    "sources",
    "write_page",
]
