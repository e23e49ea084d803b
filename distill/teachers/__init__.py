"""Teachers: the models that are imitated."""

from distill.teachers.base import Completion, Sampling, Teacher
from distill.teachers.local import LocalTeacher

__all__ = ["Completion", "LocalTeacher", "Sampling", "Teacher"]
