"""Teachers, rows and processes: whether each teacher can take the rows it is shown, and be asked where they are."""

import copy
from collections.abc import Mapping
from typing import Any

from distill.pairs.collate import PairCollator
from distill.pairs.row_limits import RowLimits
from distill.signals import Routed, SelfTeacher
from distill.signals.mixture import Mixture
from distill.trainers.checks import check_rows, limits_of
from distill.trainers.watched_collator import name_of


def needed_of(teacher: Any, collator: Any) -> dict[str, Any]:
    """What a source needs of a batch, as settings of the collator, beside what a caller's own asks for.

    Args:
        teacher: a source, or what one is made of.
        collator: the caller's, or None.
    """
    both = [one for one in (collator, teacher) if isinstance(one, PairCollator) or one is teacher]
    return {
        "columns": tuple(dict.fromkeys(column for one in both for column in getattr(one, "columns", ()))),
        "documents": any(getattr(one, "documents", False) for one in both),
    }


def check_source(trainer: Any) -> None:
    """Refuse what a prepared source cannot do with this trainer's rows and processes.

    Args:
        trainer: a `WhiteBoxTrainer`, its source prepared.

    Raises:
        ValueError: rows without signals, or beyond what their teacher takes; a collator that does not hand on what the source needs.
    """
    source, collator = trainer.source, trainer.data_collator
    max_length = getattr(collator, "max_length", None)
    if (source.documents or source.columns) and not isinstance(collator, PairCollator):
        needed = ["the pairs' tokens"] * source.documents + [f"the column {name!r}" for name in source.columns]
        raise ValueError(
            f"{type(source).__name__} finds the signals of a row by {' and '.join(needed)}, which {name_of(collator)} does not hand "
            "on; leave data_collator out, or give a PairCollator."
        )
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if sharded and isinstance(source, Routed) and any(map(_is_students_own, source.sources.values())):
        raise ValueError(
            "One of several teachers is the student itself, whose weights are divided over processes: it runs in all of them at once, and its "
            "rows may be in one only. Train with DDP, or give that teacher as a model of its own."
        )
    for name, rows in trainer._rows().items():
        if rows is not None:
            source.check(rows, name, max_length)
    if not isinstance(source, Routed):
        for model in source.models():
            trainer.limit_rows(limits_of(model, "the teacher"), of_teacher=True)
        return
    for value, one in source.sources.items():
        limits = RowLimits()
        for model in one.models():
            limits = limits.tightened(limits_of(model, f"the teacher of {source.column}={value!r}"))
        source.limits[value] = limits
    _each(trainer, source, {value: (trainer.row_limits, limits) for value, limits in source.limits.items()})


def check_labels(trainer: Any, vocabulary: Mapping[Any, int | None]) -> None:
    """Refuse labels that a teacher's shared tokens do not have, for cross-entropy over these.

    Args:
        trainer: a `WhiteBoxTrainer`.
        vocabulary: tokens that are compared with each teacher (`distill.trainers.checks.compared_with`).

    Raises:
        ValueError: names the row and the token.
    """
    if isinstance(trainer.source, Routed):
        tighter = {v: trainer.row_limits.tightened(RowLimits(labels=size)) for v, size in vocabulary.items()}
        _each(trainer, trainer.source, {value: (limits, RowLimits()) for value, limits in tighter.items()})
    else:
        trainer.limit_rows(RowLimits(labels=vocabulary[""]))


def _each(trainer: Any, source: Routed, limits: Mapping[Any, tuple[RowLimits, RowLimits]]) -> None:
    """Rows of each of several teachers, against limits of the student's row and of the teacher's."""
    for name, rows in trainer._rows().items():
        for value, mine in {} if rows is None else source.split(rows, name).items():
            collator = copy.copy(trainer.data_collator)
            collator.limits, collator.teacher_limits = limits[value]
            place = f"{name} of {source.column}={value!r}"
            check_rows(mine, place, collator, *limits[value], say_what_is_cut=False)


def _is_students_own(source: Any) -> bool:
    if isinstance(source, Mixture):
        return any(map(_is_students_own, source.sources))
    return isinstance(source, SelfTeacher)
