"""Nearness to the teacher, of student and base, on pairs that no training saw."""

import datasets

from distill.evaluation.agreement import ByPair, HeldOut
from distill.evaluation.risk.figures import Figure, missing, of_ratio
from distill.evaluation.risk.sides import Sides

KL = ("agreement_kl", "Distance from the teacher (KL, nats a token)")
TOP1 = ("agreement_top1", "Tokens on which it agrees with the teacher")


def nearness_figures(sides: Sides, held_out: datasets.Dataset | None, *, batch_size: int = 8) -> list[Figure]:
    """KL to the teacher and agreement with it, in the tokens of the teacher.

    Args:
        sides: whose.
        held_out: pairs that were not trained on.
        batch_size: rows at once.
    """
    why, given = "", True
    if sides.teacher is None:
        why, given = "there is no teacher (--teacher)", False
    elif held_out is None or not len(held_out):
        why, given = "there are no held-out pairs (--held_out)", False
    else:
        why = sides.differ(sides.student, sides.teacher)
    if why:
        return [missing(*name, "gained", why, given=given) for name in (KL, TOP1)]
    assert sides.teacher is not None
    assert held_out is not None
    measured = HeldOut(
        sides.teacher.model, sides.teacher.in_its_tokens(held_out), sides.teacher.speaker.tokenizer, batch_size
    )
    found = {"student": measured.by_pair(sides.student.model)}
    said = ""
    if other := sides.differ(sides.base, sides.teacher):
        said = f"Not of the base: {other}."
    else:
        found["base"] = measured.by_pair(sides.base.model)
    return [_figure(KL, "nats", "less", "kl", found, said), _figure(TOP1, "share", "more", "same", found, said)]


def _figure(title: tuple[str, str], kind: str, better: str, what: str, found: dict[str, ByPair], said: str) -> Figure:
    """Over all positions, with the pairs as units; student and base pair by pair."""
    parts = {key: list(zip(one.sums(what), one.tokens(), strict=True)) for key, one in found.items()}
    of = {key: of_ratio([some]) for key, some in parts.items()}
    change = of_ratio([parts["student"], parts["base"]]) if "base" in parts else None
    return Figure(*title, "gained", kind, better, of, change=change, said=said)
