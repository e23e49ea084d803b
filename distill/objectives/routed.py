"""Routed: one objective bound to each of several teachers, and given to each row by the one that it belongs to."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distill.objectives.base import Objective, Term, bound_to, values_of
from distill.objectives.streaming import made_of
from distill.signals import SignalRequest, Signals
from distill.signals.facts import Side, TeacherFacts
from distill.signals.several import RoutedFacts


class RoutedTerm(Term):
    """Terms of one objective, by the name of the teacher they are bound to.

    Args:
        objective: its settings.
        terms: bound to each teacher.
    """

    def __init__(self, objective: Objective, terms: Mapping[Any, Term]) -> None:
        super().__init__(objective)
        # a checkpoint knows terms by their number, so it must not depend on the order in which teachers are named
        self.names = sorted(terms, key=repr)
        self.terms = nn.ModuleList(terms[name] for name in self.names)
        self.student_request = SignalRequest.union(term.student_request for term in terms.values())
        self.teacher_request = SignalRequest(parts={name: term.teacher_request for name, term in terms.items()})
        self.decided = {"teachers": {repr(name): term.decided for name, term in terms.items()}}
        for term in terms.values():
            term.routed = True

    def forward(self, student: Signals, teacher: Signals) -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {}
        every: Any = self.terms
        for term in every:
            term.check_batch(student.rows)
        for part in teacher.parts:
            term = every[self.names.index(part.name)]
            mine = student.of_part(part, term.student_request)
            for name, value in values_of(term, mine, part.signals, len(part.index)).items():
                found.setdefault(name, []).append(value)
        assert teacher.order is not None
        assert found, "a source of several teachers gives one part at least"
        values = {name: torch.cat(parts).index_select(0, teacher.order) for name, parts in found.items()}
        own = self.objective.name
        values[own] = values[own] + self._untouched([part.name for part in teacher.parts])
        made_of(values[own], found[own])
        return values

    def _untouched(self, names: list[Any]) -> Tensor | float:
        """A zero on the projections of teachers without rows here: in several processes all of them are averaged."""
        absent = [term for name, term in zip(self.names, self.terms, strict=True) if name not in names]
        sums = [0 * parameter.sum() for term in absent for parameter in term.parameters()]
        return torch.stack(sums).sum() if sums else 0.0


def bound_to_all(
    objective: Objective, student: Side, teacher: TeacherFacts, *, vocabulary: Mapping[Any, int | None], **known: Any
) -> Term:
    """`bound_to`, for each of several teachers where there are several.

    Args:
        objective, student, known: as of `bound_to`.
        teacher: facts of one, or of several.
        vocabulary: tokens to compare with each, by name; of one teacher, under the name `""`.
    """
    if not isinstance(teacher, RoutedFacts):
        return bound_to(objective, student, teacher, vocabulary=vocabulary[""], **known)
    terms = {
        name: bound_to(objective, student, facts, vocabulary=vocabulary[name], **known)
        for name, facts in teacher.parts.items()
    }
    return RoutedTerm(objective, terms)
