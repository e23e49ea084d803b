"""What was kept of the base: distance from it on text that the training was not about, loss, calibration, endings."""

import os
from collections.abc import Mapping

import datasets

from distill.evaluation.forgetting import Before, Change, own_pairs
from distill.evaluation.risk.figures import Figure, Value, missing, of_share
from distill.evaluation.risk.sides import Sides

# those that a page shows; bytes where tokens differ
SHOWN = ("kl_old", "kl_new", "loss_old", "loss_new", "bytes_old", "ece_old", "same_old", "tokens", "ended", "empty")
_BETTER = {"kl_new": "", "same_old": "more", "tokens": "", "ended": "more"}
_KINDS = {
    "same_old": "share",
    "ended": "share",
    "empty": "share",
    "tokens": "tokens",
    "ece_old": "share",
    "ece_new": "share",
}
_TITLES = {
    "kl_old": "Distance from the base on old prompts (KL, nats a token)",
    "kl_new": "Distance from the base on prompts like the trained ones (KL, nats a token)",
    "loss_old": "Loss on old prompts (nats a token)",
    "loss_new": "Loss on prompts like the trained ones (nats a token)",
    "bytes_old": "Loss on old prompts (nats a byte)",
    "ece_old": "Calibration error on old prompts (ECE)",
    "same_old": "Tokens of old prompts on which it still agrees with the base",
    "tokens": "Length of an answer to an old prompt (tokens)",
    "ended": "Answers to old prompts that end by themselves",
    "empty": "Answers to old prompts without a word",
}


def old_pairs(
    sides: Sides, count: int, folder: str | os.PathLike[str], *, max_new_tokens: int = 64, seed: int = 0
) -> datasets.Dataset:
    """General text that needs no data set: what the base says itself, on prompts that it writes; of one that was cut, what the teacher says.

    Raises:
        ValueError: it cannot be made to write prompts; give pairs of general text.
    """
    writer = sides.teacher if sides.is_cut and sides.teacher is not None else sides.base
    return own_pairs(writer.speaker, count, folder, max_new_tokens=max_new_tokens, seed=seed)


def kept_figures(
    sides: Sides,
    old: datasets.Dataset,
    held_out: datasets.Dataset | None,
    *,
    own_text: bool,
    answered: int,
    max_new_tokens: int,
) -> list[Figure]:
    """Student (and teacher) against the base, pair by pair.

    Args:
        sides: whose.
        old: what the training was not about.
        held_out: of what was trained, but not trained on.
        own_text: whether one of the sides wrote `old`, so that nobody else can be as good on it, and no word of what was inherited is fair.
        answered: old prompts that are answered.
        max_new_tokens: of an answer.
    """
    base = sides.base
    before = Before(
        base.model, base.in_its_tokens(old), None if held_out is None else base.in_its_tokens(held_out),
        base.speaker.tokenizer, answered=answered, max_new_tokens=max_new_tokens,
    )  # fmt: skip
    others = [side for side in sides if side is not base]
    found = {side.key: before.measure(side.model, side.speaker.tokenizer) for side in others}
    student = found["student"]
    figures = [
        _figure(
            name,
            {key: one.measures[name] for key, one in found.items() if name in one.measures},
            student.pairs,
            own_text,
        )
        for name in SHOWN
        if name in student.measures and (name != "bytes_old" or "loss_old" not in student.measures)
    ]
    why = "student and base have other tokens"
    return figures + [_missing(name, why) for name in SHOWN if name in student.not_comparable]


def not_kept(why: str, *, given: bool = True) -> list[Figure]:
    """All of them, where none could be measured."""
    return [_missing(name, why, given) for name in SHOWN if name != "bytes_old"]


def _missing(name: str, why: str, given: bool = True) -> Figure:
    return missing(name, _TITLES[name], "lost", why, given=given)


def _figure(name: str, found: Mapping[str, Change], pairs: Mapping[str, int], own_text: bool) -> Figure:
    n = pairs.get("new" if name.endswith("_new") else "old", 0)
    own, after = (
        found["student"],
        _counted if name in ("ended", "empty") else _distance if name.startswith("kl_") else _after,
    )
    of = {"student": after(own, n), "base": Value(own.before, n=n)}
    if after is _counted:
        of["base"] = of_share(round(own.before * n), n)
    if "teacher" in found:
        of["teacher"] = after(found["teacher"], n)
    return Figure(
        name, _TITLES[name], "lost", _KINDS.get(name, "nats"), _BETTER.get(name, "less"), of,
        change=Value(own.difference, own.low, own.high, n), origin="" if own_text else _origin(name, found),
    )  # fmt: skip


def _counted(one: Change, n: int) -> Value:
    """A share of answers, whose exact interval knows that of few answers none may be so by chance."""
    return of_share(round(one.after * n), n)


def _after(one: Change, n: int) -> Value:
    """Without an interval: most of it is the text's, and in both; that of the difference says what is known."""
    return Value(one.after, n=n)


def _distance(one: Change, n: int) -> Value:
    """From the base itself, which is at none, so that the difference's interval is its own."""
    return Value(one.after, max(0.0, one.low), one.high, n)


def _origin(name: str, found: Mapping[str, Change]) -> str:
    """Whether a loss is the teacher's, too."""
    student, teacher = found["student"], found.get("teacher")
    better = _BETTER.get(name, "less")
    if teacher is None or not better or name.startswith(("kl", "same")):
        return ""
    worse = student.high < 0 if better == "more" else student.low > 0
    if not worse:
        return ""
    theirs = teacher.high < 0 if better == "more" else teacher.low > 0
    return (
        "The teacher is worse there than the base, too: it may be inherited."
        if theirs
        else "The teacher is not worse there: it was lost in the training."
    )
