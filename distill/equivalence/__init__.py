"""The demonstration that black-box distillation is SFT; one file a section, to read and to teach from."""

from distill.equivalence.bed import Bed
from distill.equivalence.breaks import breaks
from distill.equivalence.bridge import bridge
from distill.equivalence.controls import controls, provenance
from distill.equivalence.data_law import law, noise_floor
from distill.equivalence.gradients import gradients
from distill.equivalence.hard_labels import hard_labels
from distill.equivalence.ladder import ladder
from distill.equivalence.obstacles import obstacles
from distill.equivalence.page import TITLES, write_page
from distill.equivalence.programs import Job, Settings
from distill.equivalence.real import real, sources
from distill.equivalence.results import Claim, Section

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
