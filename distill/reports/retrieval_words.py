"""Verdict on tuning and retrieval in words, each sentence from a figure with its interval; and the figures behind them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.basics.intervals import Interval
from distill.retrieval.examining import Examined, chance_of, shares
from distill.retrieval.grading import Difference, paired, share_over_facts

ARMS = {
    "untouched": "Untouched",
    "sft": "SFT, closed-book",
    "context": "Context distillation",
    "sft_mixed": "SFT, mixed",
    "context_mixed": "Context distillation, mixed",
    "shuffled": "Control: SFT, shuffled facts",
}
TUNED, MIXED = ("sft", "context", "sft_mixed", "context_mixed"), ("sft_mixed", "context_mixed")
WAYS = {"closed": "closed-book", "retrieved": "with retrieval"}
COLUMNS = ("stable", "changed", "distractors", "untrained", "reverse")
FEWEST = 6  # facts of a column from which a difference can be told: the signs of five are alike in one case of sixteen by chance
LOUD = 0.1  # chance hits above this make small shares meaningless


@dataclass(frozen=True)
class Examination:
    """What an arm answered in one way: of each training its answers.

    Args:
        arm, way: keys of `ARMS` and `WAYS`.
        trainings: the answers of each seed.
    """

    arm: str
    way: str
    trainings: tuple[tuple[Examined, ...], ...]

    def per_fact(self, column: str, what: str = "right") -> list[dict[str, float]]:
        """Of each training, what each fact got in a column; empty mappings where it was not asked."""
        return [
            shares((one for one in answers if one.question.column == column and one.counts), what)
            for answers in self.trainings
        ]

    def unasked(self, column: str) -> tuple[int, int]:
        """Questions of a column that were not asked (see `Examined.asked`), and all of them."""
        mine = [one for one in self.trainings[0] if one.question.column == column]
        return sum(not one.asked for one in mine), len(mine)

    def facts(self, column: str) -> int:
        """Facts that a column asked about."""
        found = self.per_fact(column)
        return len(found[0]) if found else 0

    def share(self, column: str, what: str = "right") -> Interval | None:
        """The column's share with its interval; None where it was not asked."""
        values = self.per_fact(column, what)
        return share_over_facts(values) if values and values[0] else None

    def chance(self) -> float | None:
        """Share of answers that say another fact's value; None where that cannot be told."""
        try:
            return chance_of([one for answers in self.trainings for one in answers])
        except ValueError:
            return None

    def mean(self, what: str) -> float | None:
        """Mean of `tokens_read` or `seconds` over the questions that were asked; None where none was."""
        values = [float(getattr(one, what)) for answers in self.trainings for one in answers if one.asked]
        return sum(values) / len(values) if values else None


def examinations(runs: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Examination]:
    """By arm and way, from the runs of `retrieval.json`; in the order of `ARMS`."""
    runs = list(runs)
    found = {}
    for arm in ARMS:
        mine = [run for run in runs if run["arm"] == arm]
        for way in WAYS:
            if trainings := tuple(tuple(map(Examined.of, run[way])) for run in mine if run.get(way)):
                found[arm, way] = Examination(arm, way, trainings)
    return found


def difference(one: Examination, other: Examination, column: str, what: str = "right") -> Difference | None:
    """`one` minus `other` in a column, fact by fact; None where one of them was not asked.

    Below `FEWEST` facts its interval is everything.
    """
    a, b = one.per_fact(column, what), other.per_fact(column, what)
    if not (a and b and a[0] and b[0]):
        return None
    found = paired(a, b)
    return found if len(a[0]) >= FEWEST else Difference(found.mean, -1.0, 1.0, found.p)


def verdict(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the figures say: when retrieval alone wins, when tuning adds, when both; or that tuning did not pay.

    A difference is spoken of as one only where its 95% interval leaves out 0 and the exact test of its signs has p below 0.05.
    """
    found = examinations(runs)
    base = found["untouched", "retrieved"]
    tuned = [arm for arm in TUNED if (arm, "retrieved") in found]
    said = [
        f"Retrieval alone (nothing trained): {_share(base, 'stable')} of the stable facts and {_share(base, 'changed')} of those that "
        "changed after training."
    ]
    if tuned:
        said += [_closed_book(found, tuned, base), *_both(found, tuned, base)]
        said += [*_trap(found, base), _kept(runs, tuned)]
        said.append(_advice(found, tuned, base))
    return [*said, *_unasked(base), _control(found)]


def _closed_book(found: dict[tuple[str, str], Examination], tuned: list[str], base: Examination) -> str:
    best = max(tuned, key=lambda arm: _mean(found[arm, "closed"], "stable"))
    alone = found[best, "closed"]
    apart = difference(alone, base, "stable")
    text = (
        f"Tuning alone (no passage): at best {ARMS[best]} with {_share(alone, 'stable')} of the stable facts, "
        f"{_against(apart, 'retrieval alone')}"
    )
    return (
        f"{text}; of the changed facts {_share(alone, 'changed')}: what changed after a training is not in its weights."
    )


def _both(found: dict[tuple[str, str], Examination], tuned: list[str], base: Examination) -> list[str]:
    said = []
    for arm in tuned:
        one = found[arm, "retrieved"]
        parts = [
            f"{column} {_share(one, column)} ({_against(difference(one, base, column), 'retrieval alone')})"
            for column in ("stable", "changed")
        ]
        said.append(f"{ARMS[arm]} with retrieval: {', '.join(parts)}.")
    return said


def _trap(found: dict[tuple[str, str], Examination], base: Examination) -> list[str]:
    said = []
    for arm, cure in (("sft", "sft_mixed"), ("context", "context_mixed")):
        if (arm, "retrieved") not in found:
            continue
        one = found[arm, "retrieved"]
        more = difference(one, base, "changed", "took_old")
        old = _share(one, "changed", "took_old")
        if more and more.clear and more.mean > 0:
            text = f"The trap: {ARMS[arm]}, shown the fresh passage, answered {old} of the changed facts with the old value"
            if (cure, "retrieved") in found:
                mended = difference(found[cure, "retrieved"], one, "changed")
                after = _share(found[cure, "retrieved"], "changed", "took_old")
                text += f"; trained with passages among its rows ({ARMS[cure]}) {after}, and of new values {_points(mended)}"
            said.append(text + ".")
        else:
            said.append(f"The trap was not clearly seen in {ARMS[arm]}: old values in {old} of the changed facts.")
    return said


def _kept(runs: Sequence[Mapping[str, Any]], tuned: list[str]) -> str:
    parts = []
    for arm in tuned:
        kls = [run["kept"]["kl"] for run in runs if run["arm"] == arm and run.get("kept")]
        if kls:
            parts.append(f"{ARMS[arm]} {sum(kls) / len(kls):.2f}")
    return f"What it cost elsewhere, as KL to the untouched model on other prompts (nats a token): {', '.join(parts)}."


def _advice(found: dict[tuple[str, str], Examination], tuned: list[str], base: Examination) -> str:
    """The one sentence to take along."""
    gains = {arm: _gains(found[arm, "retrieved"], base) for arm in tuned}
    paid = [arm for arm, (better, worse) in gains.items() if better and not worse]
    if paid:
        best = max(paid, key=lambda arm: sum(_mean(found[arm, "retrieved"], c) for c in ("stable", "changed")))
        return (
            f"On these figures: both. {ARMS[best]} and retrieval on top is better than retrieval alone ({', '.join(gains[best][0])}) and in no "
            f"column clearly worse{_lower(found[best, 'retrieved'], base)}.{_many(found, tuned, base)}"
        )
    if mixed := [arm for arm, (better, worse) in gains.items() if better and worse]:
        parts = [
            f"{ARMS[arm]} gained in {_listed(gains[arm][0])} and lost in {_listed(gains[arm][1])}" for arm in mixed
        ]
        return f"On these figures it depends: beside retrieval, {'; '.join(parts)}.{_many(found, tuned, base)}"
    lost = [ARMS[arm] for arm, (_, worse) in gains.items() if worse]
    text = "On these figures tuning did not pay: with retrieval, no tuned arm was better than the untouched model in any column"
    if all(base.facts(column) < FEWEST for column in COLUMNS):
        return f"These are too few facts to tell anything: fewer than {FEWEST} in each column."
    return f"{text}{f', and {_listed(lost)} worse' if lost else ''}. Retrieve, and leave the weights alone.{_many(found, tuned, base)}"


def _lower(one: Examination, base: Examination) -> str:
    """Columns in which an arm got less, though not clearly: with few facts much can be lost before that is clear."""
    apart = [(column, difference(one, base, column)) for column in COLUMNS]
    lower = [f"{column} {_points(found)}" for column, found in apart if found and found.mean < 0]
    return f" (lower, not clearly: {'; '.join(lower)})" if lower else ""


def _many(found: dict[tuple[str, str], Examination], tuned: list[str], base: Examination) -> str:
    """How many differences were looked at, since some of many look clear by chance."""
    count = sum(
        found[arm, "retrieved"].facts(column) > 0 and base.facts(column) >= FEWEST
        for arm in tuned
        for column in COLUMNS
    )
    return f" {count} differences were looked at, each clear if its interval leaves out 0 and p is below 0.05: up to one in twenty is so by chance alone."


def _gains(one: Examination, base: Examination) -> tuple[list[str], list[str]]:
    """Columns in which an arm with retrieval is better, and in which it is worse, than the untouched model with retrieval."""
    better: list[str] = []
    worse: list[str] = []
    for column in COLUMNS:
        apart = difference(one, base, column)
        if apart and apart.clear:
            (better if apart.mean > 0 else worse).append(column)
    return better, worse


def _unasked(base: Examination) -> list[str]:
    """Questions that nobody was asked, which are the same in each arm: the passages decide."""
    said = []
    for column in COLUMNS:
        missing, count = base.unasked(column)
        if missing and column == "distractors":
            said.append(
                f"Left out: {missing} of {count} questions with distractors only, since every passage that was found says the answer."
            )
        elif missing:
            said.append(f"Not answered: {missing} of {count} questions ({column}), since no passage was found.")
    return said


def _control(found: dict[tuple[str, str], Examination]) -> str:
    chances = {key: chance for key, one in found.items() if (chance := one.chance()) is not None}
    if not chances:
        return "Chance could not be counted: every kind has one value."
    (arm, way), worst = max(chances.items(), key=lambda item: item[1])
    text = f"Control: held against other facts' values, at most {worst:.1%} of answers count as right ({ARMS[arm]}, {WAYS[way]})"
    if worst > LOUD:
        text += "; that is much, and shares near it say nothing"
    if (shuffled := found.get(("shuffled", "closed"))) is not None:
        text += f"; a model trained on shuffled facts has {_share(shuffled, 'stable')} of the stable ones right"
    return text + "."


def _mean(one: Examination, column: str) -> float:
    share = one.share(column)
    return share.mean if share else 0.0


def _share(one: Examination, column: str, what: str = "right") -> str:
    share = one.share(column, what)
    return f"{share.mean:.0%} [{100 * share.low:.0f} to {100 * share.high:.0f}]" if share else "none asked"


def _against(apart: Difference | None, name: str) -> str:
    if apart is None:
        return f"not held against {name}"
    if not apart.clear:
        return f"no clear difference to {name}: {_points(apart)}"
    return f"{'better' if apart.mean > 0 else 'worse'} than {name}: {_points(apart)}"


def _points(apart: Difference | None) -> str:
    if apart is None:
        return "not asked"
    mean, low, high = (round(100 * value) + 0 for value in apart[:3])
    return f"{mean:+d} points [{low:+d} to {high:+d}], p {apart.p:.2g}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
