"""Verified answers: a verifier looks at a prompt's row and a completion, and gives a score; 1 means correct."""

from distill.curation.verifiers.base import Verifier, load_verifier, read_rows, score_of, verify
from distill.curation.verifiers.match import exact_match, final_answer, number_match, parse_number, regex_match
from distill.curation.verifiers.tasks import task_rows, task_score

__all__ = [
    "Verifier",
    "exact_match",
    "final_answer",
    "load_verifier",
    "number_match",
    "parse_number",
    "read_rows",
    "regex_match",
    "score_of",
    "task_rows",
    "task_score",
    "verify",
]
