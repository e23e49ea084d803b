"""Sides: the models of one page, the student, what it was before, and who taught it."""

import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from distill.basics.redact import public_name
from distill.models.load import weights_fingerprint
from distill.models.students import KEPT_LAYERS, make_student
from distill.pairs import are_tokens_of, retokenize
from distill.teachers.local import LocalTeacher
from distill.text.vocabulary import shared_vocabulary

_ANYBODYS = ("student", "model", "final")
CUT = "cut"  # in place of a base's name: the teacher's own layers, as the student was before it was trained


@dataclass
class Side:
    """One model.

    Args:
        key: `student`, `base` or `teacher`.
        name: as a reader may see it.
        speaker: it, with its tokenizer.
    """

    key: str
    name: str
    speaker: LocalTeacher

    @property
    def model(self) -> Any:
        """The model itself."""
        return self.speaker.model

    @functools.cached_property
    def weights(self) -> str:
        """A fingerprint."""
        return weights_fingerprint(self.model.state_dict().items())

    def in_its_tokens(self, pairs: datasets.Dataset) -> datasets.Dataset:
        """The pairs in this model's tokens: as they are, or made anew from their text."""
        return pairs if are_tokens_of(pairs, self.speaker.tokenizer) else retokenize(pairs, self.speaker.tokenizer)

    def as_dict(self) -> dict[str, Any]:
        """What a page says of it."""
        count = sum(p.numel() for p in self.model.parameters())
        return {"name": self.name, "parameters": count, "weights": self.weights}


class Sides:
    """Student, base and, if there is one, teacher; all are loaded.

    Args:
        student, base, teacher: embedded names, folders (also of an adapter alone), Hub ids. As base, `"cut"` is what a student of this package
            was before its training: the teacher with the layers that the student's config names.

    Raises:
        ValueError: no such model; `"cut"` without a teacher, or of a student that was not cut from one.

    Example:
        >>> sides = Sides("runs/mine/student", "smollm2-135m")
        >>> [side.key for side in sides]
        ['student', 'base']
    """

    def __init__(
        self,
        student: str | os.PathLike[str],
        base: str | os.PathLike[str],
        teacher: str | os.PathLike[str] | None = None,
    ) -> None:
        self.student = _side("student", student)
        self.teacher = None if teacher is None else _side("teacher", teacher)
        self.is_cut = os.fspath(base) == CUT
        if self.is_cut:
            self.base = self._cut(os.fspath(student))
        else:
            self.base = _side("base", base)

    def __iter__(self) -> Iterator[Side]:
        return iter([self.student, self.base, *([self.teacher] if self.teacher else [])])

    def differ(self, one: Side, other: Side) -> str:
        """Why two of them cannot be compared token by token; empty: they can."""
        try:
            shared_vocabulary(one.model, other.model, one.speaker.tokenizer, other.speaker.tokenizer)
        except ValueError as error:
            return f"{one.key} and {other.key} have other tokens ({str(error).split(';')[0].rstrip('.')})"
        return ""

    def as_dict(self) -> dict[str, Mapping[str, Any]]:
        """By side, what a page says of it."""
        return {side.key: side.as_dict() for side in self}

    def _cut(self, student: str) -> Side:
        kept = getattr(self.student.model.config, KEPT_LAYERS, None)
        if self.teacher is None or not kept:
            why = (
                "no --teacher is named"
                if self.teacher is None
                else f"{student!r} does not say that it was cut from one"
            )
            raise ValueError(
                f"--against {CUT} is the teacher with the layers that the student keeps, and {why}; name a model, or the folder ./{CUT}."
            )
        theirs = self.teacher.speaker
        model = make_student(theirs.model, kept, dtype=self.student.model.dtype)
        name = f"{self.teacher.name}, {len(kept)} of its layers, untrained"
        return Side("base", name, LocalTeacher(model, theirs.tokenizer, name=name))


def _side(key: str, name: str | os.PathLike[str]) -> Side:
    said, folder = public_name(name), Path(name)
    if said in _ANYBODYS and folder.is_dir():  # every run of a recipe has a folder of that name
        said = f"{folder.resolve().parent.name}/{said}"
    return Side(key, said, LocalTeacher(name, name=said))
