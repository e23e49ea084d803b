"""distill: turn a strong teacher language model into a small student, black box or white box."""

import gc
import importlib
import logging
from typing import TYPE_CHECKING, Any

from distill.basics.lazy import lazy_names

if TYPE_CHECKING:
    from distill.generation import generate
    from distill.models import make_student
    from distill.objectives import AttentionMaps, HiddenStates, Logits, Schedule, divergences
    from distill.pairs import load_pairs
    from distill.trainers import BlackBoxTrainer, WhiteBoxTrainer

__version__ = "0.1.0"
__all__ = [
    "AttentionMaps",
    "BlackBoxTrainer",
    "HiddenStates",
    "Logits",
    "Schedule",
    "WhiteBoxTrainer",
    "divergences",
    "generate",
    "load_pairs",
    "make_student",
]

# With bitsandbytes there, peft imports it, and it tells whoever does without 4 bits on a CPU how that would be faster.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

# A name is imported when it is first asked for, so that `distill --help` does not wait for torch.
_HOMES = {
    "AttentionMaps": "distill.objectives",
    "BlackBoxTrainer": "distill.trainers",
    "HiddenStates": "distill.objectives",
    "Logits": "distill.objectives",
    "Schedule": "distill.objectives",
    "WhiteBoxTrainer": "distill.trainers",
    "generate": "distill.generation",
    "load_pairs": "distill.pairs",
    "make_student": "distill.models",
}


_find = lazy_names(__name__, _HOMES)


def __getattr__(name: str) -> Any:
    if name == "divergences":
        return importlib.import_module("distill.objectives.divergences")
    was_enabled = gc.isenabled()
    gc.disable()  # importing transformers makes millions of objects that stay; collecting meanwhile costs 1 s of 6
    try:
        return _find(name)
    finally:
        if was_enabled:
            gc.enable()
