"""Teachers: the models that are imitated."""

from distill.teachers.base import AnyTeacher, Ask, Completion, ConcurrentTeacher, Refusal, Sampling, Teacher
from distill.teachers.local import LocalTeacher
from distill.teachers.server import ServerTeacher

__all__ = [
    "AnyTeacher",
    "Ask",
    "Completion",
    "ConcurrentTeacher",
    "LocalTeacher",
    "Refusal",
    "Sampling",
    "ServerTeacher",
    "Teacher",
]
