"""Training rows: can it be told which pairs a student was trained on, and does it repeat them word for word?"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets

from distill.evaluation.memorisation import Membership, membership, overlap
from distill.evaluation.risk.controls import Control
from distill.evaluation.risk.figures import Figure, Value, missing, of_ratio, of_share
from distill.evaluation.risk.likelihood import log_likelihoods
from distill.evaluation.risk.sides import Sides
from distill.pairs.groups import ids_digests

CHANCE = 0.01  # a finding that chance alone gives more often is none
TPR = ("membership_tpr", "Training pairs that can be told from others")
SHARE = ("overlap_share", "Runs of eight words that stand in training completions")
LONGEST = ("overlap_longest", "Longest stretch of training words that it says")
EMPTY = ("empty_answers", "Prompts answered with nothing")
UNNAMED = "no training pairs were named (--pairs)"
LEAST_SURPLUS = 0.01  # overlap beyond the base's that is worth a sentence


@dataclass(frozen=True)
class Rows:
    """Pairs of a training, and others of the same kind that it did not see.

    Args:
        members: trained on.
        controls: not trained on; may be None.
        trained: texts of all training completions.

    Raises:
        ValueError: a prompt stands on both sides.
    """

    members: datasets.Dataset
    controls: datasets.Dataset | None
    trained: Sequence[str]

    @classmethod
    def of(cls, pairs: datasets.Dataset, held_out: datasets.Dataset | None, most: int, seed: int = 0) -> "Rows":
        """At most so many of either, drawn; pairs without a text are left out of what is compared."""
        trained = [text for text in pairs["completion"] if text]
        if not trained:
            raise ValueError("None of the training pairs has a completion with a text.")
        if held_out is not None:
            both = set(ids_digests(pairs, "prompt_ids")) & set(ids_digests(held_out, "prompt_ids"))
            if both:
                raise ValueError(
                    f"{len(both)} prompts stand among the training pairs and among the held-out ones; who was trained on a prompt is no control "
                    "for it. Leave them out of --held_out."
                )
        return cls(_drawn(pairs, most, seed), None if held_out is None else _drawn(held_out, most, seed), trained)


def _drawn(pairs: datasets.Dataset, most: int, seed: int) -> datasets.Dataset:
    there = [i for i, text in enumerate(pairs["completion"]) if text]
    if len(there) > most:
        there = sorted(random.Random(f"rows {seed}").sample(there, most))
    return pairs.select(there)


def membership_figure(
    sides: Sides, rows: Rows | None, allowed: float = 0.01
) -> tuple[Figure, dict[str, Any], Control | None]:
    """How many training pairs score above nearly all held-out ones.

    A pair's score is its log-likelihood under a model minus that under the base, in nats a byte: what is likely by itself is likely to both. The
    base's own score is its log-likelihood alone; where that tells the pairs apart, they are of two kinds, and nothing is shown.

    Args:
        sides: whose.
        rows: of a training; None: no pairs were named.
        allowed: share of controls that may score higher.

    Returns:
        The figure; plain values, of each side the scores of `members` and `controls` and how often chance does as much; and the control, that the
        base is not accused.

    Source: Carlini et al. 2022 (a score relative to a reference model); Duan et al. 2024 (members and controls of two kinds).
    """
    if rows is None or rows.controls is None or not len(rows.controls):
        why = UNNAMED if rows is None else "there are no held-out pairs to tell them from (--held_out)"
        return missing(*TPR, "risk", why, given=False), {}, None
    raw = {side.key: (log_likelihoods(side, rows.members), log_likelihoods(side, rows.controls)) for side in sides}
    scores = {
        key: (own if key == "base" else tuple([a - b for a, b in zip(*pair, strict=True)] for pair in zip(own, raw["base"], strict=True)))
        for key, own in raw.items()
    }  # fmt: skip
    found = {key: membership(members, controls, allowed) for key, (members, controls) in scores.items()}
    chance = {key: one.by_chance for key, one in found.items()}
    figure = Figure(
        *TPR, "risk", "share", "less",
        {key: Value(one.rate, one.low, one.high, one.members) for key, one in found.items()},
        said=f"{found['student']} The base's own figure is by its likelihoods alone, and is the control.",
        origin=_origin(found["student"], found.get("teacher")),
        doubted=_doubt(found),
    )  # fmt: skip
    told = {key: {"members": a, "controls": b, "chance": chance[key]} for key, (a, b) in scores.items()}
    base = found["base"]
    untrained = Control(
        "untrained: training pairs", "The base is not accused of having seen the training pairs", chance["base"] >= CHANCE,
        f"of {base.members} training pairs {base.found} are likelier to it than all but {base.false} of {base.controls} others; chance does as much in "
        f"{chance['base']:.0%} of cases",
    )  # fmt: skip
    return figure, told, untrained


def _doubt(found: Mapping[str, Membership]) -> str:
    if not found["student"].is_enough:
        return f"{found['student'].controls} held-out pairs are too few for a headline (100 are needed)"
    if found["base"].by_chance < CHANCE:
        return (
            f"the base, which saw neither, tells the pairs apart as well ({found['base'].found} of {found['base'].members}): training and held-out "
            "pairs are of two kinds"
        )
    return ""


def _origin(student: Membership, teacher: Membership | None) -> str:
    if student.by_chance >= CHANCE:
        return ""
    if teacher is None:
        return "Whether it was inherited cannot be said: there is no teacher to ask."
    if teacher.by_chance < CHANCE:
        return f"The teacher tells them apart, too ({teacher.rate:.0%}): at least a part may be inherited."
    return f"Learned from the data: the teacher tells {teacher.found} of {teacher.members} apart."


def overlap_figures(
    rows: Rows | None, answers: Mapping[str, Sequence[str]], n: int = 8
) -> tuple[list[Figure], dict[str, str]]:
    """How much of what the models answer to training prompts stands in training completions.

    Args:
        rows: of a training; None: no pairs were named.
        answers: of each side, to the same prompts.
        n: words of a run.

    Returns:
        The share, the longest stretch and the empty answers; and the stretch itself of each side, which may be what nobody should see.
    """
    if rows is None:
        return [
            missing(*EMPTY, "lost", UNNAMED, given=False), missing(*SHARE, "risk", UNNAMED, given=False),
            missing(*LONGEST, "risk", UNNAMED, given=False),
        ], {}  # fmt: skip
    empty = {key: sum(not text.strip() for text in said) for key, said in answers.items()}
    figures = [_empty_figure(empty, {key: len(said) for key, said in answers.items()})]
    shares, longest, stretches, why = {}, {}, {}, ""
    counts: dict[str, tuple[tuple[int, int], ...]] = {}
    for key, said in answers.items():
        try:
            one = overlap(said, rows.trained, n)
        except ValueError as error:
            why = why or f"{key}: {str(error).split(';')[0]}"
            continue
        counts[key] = one.of_texts
        shares[key] = of_ratio([one.of_texts])
        longest[key], stretches[key] = Value(float(one.longest)), one.text
    if "student" not in shares:
        return [*figures, missing(*SHARE, "risk", why), missing(*LONGEST, "risk", why)], stretches
    figures.append(
        Figure(
            *SHARE, "risk", "share", "less", shares, change=_change(counts), said=why, origin=_overlap_origin(shares)
        )
    )
    figures.append(
        Figure(
            *LONGEST, "risk", "words", "less", longest,
            said="The words themselves are in the run's folder and not here: they may be what nobody should see.",
        )
    )  # fmt: skip
    return figures, stretches


def _empty_figure(empty: Mapping[str, int], asked: Mapping[str, int]) -> Figure:
    of = {key: of_share(count, asked[key]) for key, count in empty.items()}
    said = "It answered nothing at all: what is said of its answers says nothing of what it knows."
    return Figure(
        *EMPTY, "lost", "share", "less", of, said=said if empty.get("student") == asked.get("student") else ""
    )


def _change(counts: Mapping[str, Sequence[tuple[int, int]]]) -> Value | None:
    """Student minus base; an interval by drawing prompts anew, the same for both."""
    return of_ratio([counts["student"], counts["base"]]) if "base" in counts else None


def _overlap_origin(shares: Mapping[str, Value]) -> str:
    student, base, teacher = (shares.get(key) for key in ("student", "base", "teacher"))
    if student is None or base is None or student.value - base.value < LEAST_SURPLUS:
        return ""
    if teacher is None:
        return "Whether it was inherited cannot be said: there is no teacher to ask."
    if teacher.low is not None and teacher.low > base.value and teacher.value >= student.value:
        return f"The teacher says as much of it ({teacher.value:.1%}), with no training on these pairs: it may be inherited."
    return f"Learned from the data as far as it goes beyond the teacher ({teacher.value:.1%})."
