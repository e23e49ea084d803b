"""Asking a teacher: prompts in, pairs out, each on disk as soon as it is there.

`generate` asks, `journal` keeps what was answered through any interruption, `prompts` lets the teacher write the questions.
"""

from distill.generation.asking import generate
from distill.generation.prompts import write_prompts
from distill.generation.shown import SystemText
from distill.generation.worked_examples import WorkedExamples, with_examples

__all__ = ["SystemText", "WorkedExamples", "generate", "with_examples", "write_prompts"]
