"""Teachers: the models that are imitated."""

from typing import TYPE_CHECKING

from distill.basics.lazy import lazy_names
from distill.teachers.base import AnyTeacher, Ask, Completion, ConcurrentTeacher, Refusal, Sampling, Teacher

if TYPE_CHECKING:
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

# How pairs were drawn can be read without torch.
__getattr__ = lazy_names(
    __name__, {"LocalTeacher": "distill.teachers.local", "ServerTeacher": "distill.teachers.server"}
)
