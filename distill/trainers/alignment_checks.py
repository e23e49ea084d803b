"""Alignment before a training: a teacher with another tokenizer is held against the pairs, and what is compared is said."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from accelerate.utils import send_to_device

from distill.basics.processes import say
from distill.models.evaluating import evaluating
from distill.objectives import Logits
from distill.objectives.aligned_next_token import Columns, head_size
from distill.pairs.aligned_rows import AlignedRows, Coverage
from distill.pairs.collate import PairCollator, supervised_rows
from distill.pairs.labels import EMPTY
from distill.pairs.packing import PackedPairs
from distill.pairs.row_limits import RowLimits
from distill.signals import Routed, SignalRequest, SupervisedRows, run_with_taps
from distill.signals.base import inputs_of
from distill.text.alignment import SharedTokens
from distill.trainers.checks import limits_of
from distill.trainers.watched_collator import name_of

ROWS = 256  # pairs that are looked at
POSITIONS = 256  # of which so many, about, are shown to both models


def is_aligned(objectives: Sequence[Any]) -> bool:
    """Whether any of them compares two tokenizers."""
    return any(getattr(one, "tokens", "same") == "aligned" for one in objectives)


def aligned_with(trainer: Any) -> SharedTokens | None:
    """Make the collator align, if an objective asks for it; what both tokenizers know is returned.

    Args:
        trainer: a `WhiteBoxTrainer`, its source prepared.

    Raises:
        ValueError: other objectives beside; several teachers by row; an own collator; a tokenizer that is not known, or whose tokens do not say
            their bytes; pairs of which fewer positions align than `least_aligned`; pairs that stored signals lack.
    """
    objectives, source, collator = trainer.objectives, trainer.source, trainer.data_collator
    if not is_aligned(objectives):
        return None
    others = [one.name for one in objectives if not (isinstance(one, Logits) and one.tokens == "aligned")]
    if others:
        raise ValueError(
            f"Logits(tokens='aligned') is for a teacher with another tokenizer, whose rows have other positions than the student's, and "
            f"{', '.join(others)} compares them position by position; leave it out."
        )
    if isinstance(source, Routed):
        raise ValueError(
            "Logits(tokens='aligned') aligns the student's tokenizer with one other, and there are several teachers by row (Routed); train on one of them."
        )
    if not isinstance(collator, PairCollator):
        raise ValueError(
            f"Logits(tokens='aligned') needs batches with the teacher's own rows and where they are the student's, which {name_of(collator)} does "
            "not make; leave data_collator out, or give a PairCollator."
        )
    given = [trainer.processing_class or collator.tokenizer, source.tokenizer or source.facts.find_tokenizer()]
    tokenizers = [one if one is None or hasattr(one, "get_vocab") else getattr(one, "tokenizer", one) for one in given]
    if tokenizers[1] is None:
        raise ValueError(
            "tokens='aligned' pairs the tokens of two tokenizers, and the teacher's is not known; give teacher=LocalTeacher(model, tokenizer)."
        )
    limits = RowLimits()
    for model in source.models():
        limits = limits.tightened(limits_of(model, "the teacher"))
    known = collator.aligned
    if known is None or (known.student.tokenizer, known.teacher.tokenizer) != tuple(tokenizers):
        known = AlignedRows(tokenizers[0], tokenizers[1], limits.positions)
    known.positions = limits.positions
    collator.aligned = known
    if not len(known.shared):
        raise ValueError(
            f"The tokenizers of the student ({known.student.name}) and of the teacher ({known.teacher.name}) have no token in common, so no position can "
            "be compared; train on the teacher's text (black box)."
        )
    least = min(one.least_aligned for one in objectives)
    trainer.coverage = {}
    for name, rows in trainer._rows().items():
        some = some_of(rows)
        if not some:
            continue
        found = known.coverage(some, collator.max_length)
        if found.share < least:
            raise ValueError(
                f"{name}: {found}, and least_aligned is {least}: too few to learn from.{_why(known, found)} Choose a teacher whose tokenizer is nearer, "
                "train on its text (black box), or say Logits(tokens='aligned', least_aligned=...)."
            )
        trainer.coverage[name] = found
        if source.documents and not source.models():
            source.check([known.pair(pair) for pair in some], f"{name}, in the teacher's tokens", None)
    return known.shared


def say_coverage(trainer: Any) -> None:
    """Print how much of a training is compared: positions, and the mass of both sides on tokens that both know."""
    known = trainer.data_collator.aligned
    shared = len(known.shared)
    say(
        f"Two tokenizers: {shared} tokens are the same by their bytes, of {len(known.student)} of the student's and {len(known.teacher)} of the teacher's."
    )
    for name, found in trainer.coverage.items():
        say(f"{name}: {found}.{_why(known, found)}")
    masses = _masses(trainer)
    if masses is not None:
        say(
            "Of the probability at these, {:.4f} of the student's and {:.4f} of the teacher's is on tokens that both know.".format(
                *masses
            )
        )


def _why(known: AlignedRows, found: Coverage) -> str:
    """What a tokenizer is known to change, where that lost something."""
    changes = known.teacher.changes() if found.changed else []
    if not changes:
        return ""
    return f" The teacher's tokenizer ({known.teacher.name}) does not keep {', '.join(changes)}: bytes behind such a place are others."


def some_of(rows: Any, most: int = ROWS) -> list[Mapping[str, Any]]:
    """Pairs spread evenly over a dataset, so many at most; none of a stream, whose rows are met when they come."""
    rows = rows.pairs if isinstance(rows, PackedPairs) else rows
    if isinstance(rows, datasets.Dataset):
        pairs: Any = rows
    elif isinstance(rows, list | tuple):
        flat = (pair for row in rows for pair in (row if isinstance(row, list) else [row]))
        pairs = [pair for pair in flat if pair.get("id") != EMPTY["id"]]
    else:
        return []
    places = np.unique(np.linspace(0, max(len(pairs) - 1, 0), min(most, len(pairs))).astype(int))
    return [pairs[int(place)] for place in places]


@torch.no_grad()
def _masses(trainer: Any) -> list[float] | None:
    """Mean probability of student and teacher on shared tokens, at a few aligned positions; None where there is no whole distribution."""
    source, collator, student = trainer.source, trainer.data_collator, trainer.student
    some, taken, count = some_of(trainer.train_dataset), [], 0
    for pair in some[:: max(1, len(some) // 8)]:
        taken.append(pair)
        count += len(pair["completion_ids"])
        if count >= POSITIONS:
            break
    if not taken or source.facts.next_token not in ("head", "logits"):
        return None
    if any(parameter.is_meta or not parameter.numel() for parameter in student.parameters()):
        return None  # weights are divided: whole only inside of a pass
    batch = send_to_device(collator(taken), trainer.args.device)
    rows = SupervisedRows.of(supervised_rows(batch["labels"]))
    with evaluating(trainer.model):
        ours = run_with_taps(student, student, inputs_of(batch), rows, SignalRequest(logits=True)).logits
    theirs = source.signals(batch, rows, SignalRequest(logits=True)).logits
    order, places = batch["aligned_rows"], batch["aligned_places"]
    if ours is None or theirs is None or not len(places):
        return None
    columns = Columns.of(collator.aligned.shared, head_size(ours), head_size(theirs), places.device)
    found = []
    for logits, index, rest in ((ours, order[: len(places)], columns.ours), (theirs, places, columns.theirs)):
        log_p = logits.index_select(0, index.to(logits.device)).float().log_softmax(-1)
        outside = log_p.index_select(1, rest.to(logits.device)).exp().sum(1).mean()
        found.append(1 - float(outside))
    return found
