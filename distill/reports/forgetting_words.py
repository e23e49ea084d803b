"""What trainings of one skill changed, arm by arm with intervals, and what that says, in sentences."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.basics.intervals import Interval, over_trainings

START, TAUGHT = "start", "taught"
_TITLES = {
    "start": "the start",
    "taught": "taught plainly",
    "replay": "replay {value:g}",
    "keep_kl": "KL to the start {value:g}",
    "lora": "LoRA of rank {value:g}",
    "average": "average, alpha {value:g}",
    "control": "control: learning rate 0",
}


@dataclass(frozen=True)
class ArmResult:
    """One arm over its trainings.

    Args:
        name, kind, value, title: of the arm.
        runs: of each seed, as the recipe wrote it.
    """

    name: str
    kind: str
    value: float
    runs: Sequence[Mapping[str, Any]]

    @property
    def title(self) -> str:
        """In words."""
        return _TITLES[self.kind].format(value=self.value)

    def right(self, what: str, ability: str | None = None) -> list[list[float]]:
        """Of each training, which probes of `"skill"` or of `"old"` (of one ability, or of all) are right."""
        return [
            [float(one["right"]) for one in run[what] if ability in (None, one["ability"])] for run in self.runs
        ]  # fmt: skip

    def share(self, what: str, ability: str | None = None) -> Interval:
        """The share of these; probes of the skill are other ones in each training, old ones the same."""
        return over_trainings(self.right(what, ability), same_units=what == "old")

    def kl(self, of: str) -> Interval:
        """KL to the start on `"old"` or `"new"` prompts, nats a token."""
        if self.kind == START:
            return Interval(0.0, 0.0, 0.0)
        parts = [run["forgetting"]["by_pair"][of] for run in self.runs]
        return over_trainings([p["kl"] for p in parts], [p["tokens"] for p in parts], same_units=of == "old")

    def mean(self, measure: str, which: str = "difference") -> float:
        """Of a measure of forgetting, over trainings; 0 at the start."""
        if self.kind == START:
            return 0.0
        return statistics.fmean(run["forgetting"]["measures"][measure][which] for run in self.runs)

    def minus(self, other: "ArmResult", what: str) -> Interval:
        """Difference to another arm, probe by probe and training by training."""
        pairs = zip(self.right(what), other.right(what), strict=True)
        return over_trainings([[a - b for a, b in zip(*both, strict=True)] for both in pairs], same_units=what == "old")

    def kl_minus(self, other: "ArmResult") -> Interval:
        """Difference of the KL on old prompts to another arm's, pair by pair."""
        mine, theirs = ([run["forgetting"]["by_pair"]["old"] for run in arm.runs] for arm in (self, other))
        differences = [
            [a - b for a, b in zip(m["kl"], t["kl"], strict=True)] for m, t in zip(mine, theirs, strict=True)
        ]
        return over_trainings(differences, [m["tokens"] for m in mine], same_units=True)


def arms_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, ArmResult]:
    """The arms by name, in the order in which they were trained."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        found.setdefault(run["arm"], []).append(run)
    return {name: ArmResult(name, some[0]["kind"], some[0]["value"], some) for name, some in found.items()}


def verdict(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What came out, and what that was published did not, in sentences."""
    arms = arms_of(runs)
    start, taught = arms[START], arms[TAUGHT]
    skill, old, kl = taught.minus(start, "skill"), taught.minus(start, "old"), taught.kl("old")
    said = [
        _control(arms),
        f"Taught plainly, the new skill goes from {_percent(start.share('skill'))} to {_percent(taught.share('skill'))}; old abilities change by {_points(old)}"
        f"{_clear(old)}, and next tokens on old prompts move by a KL of {_nats(kl)}."
        + ("" if skill.low > 0 else " The skill was not clearly learned, so nothing can be said of what it cost."),
    ]
    for kind in ("replay", "keep_kl", "lora", "average"):
        for arm in (one for one in arms.values() if one.kind == kind):
            of_skill, of_kl, of_old = arm.minus(taught, "skill"), arm.kl_minus(taught), arm.minus(taught, "old")
            said.append(
                f"{arm.title[0].upper()}{arm.title[1:]}, against plain: KL on old prompts {of_kl.mean:+.3f} [{of_kl.low:+.3f} to {of_kl.high:+.3f}] nats{_clear(of_kl)}, "
                f"skill {_points(of_skill)}{_clear(of_skill)}, old abilities {_points(of_old)}{_clear(of_old)}."
            )
    if skill.low <= 0:
        return [*said, "Of what was published nothing is said: it is about students that have learned something."]
    return [*said, *_published(arms)]


def _control(arms: Mapping[str, ArmResult]) -> str:
    if "control" not in arms:
        return "There is no control."
    control = arms["control"]
    moved = [
        name for run in control.runs for name, one in run["forgetting"]["measures"].items() if one["difference"] != 0
    ]
    same = control.right("skill") == arms[START].right("skill") and control.right("old") == arms[START].right("old")
    if moved or not same:
        return f"THE CONTROL FAILED: a training with learning rate 0 changed {', '.join(dict.fromkeys(moved)) or 'answers'}; believe no figure below."
    return "The control holds: a training with learning rate 0 changed no figure by any digit."


def _published(arms: Mapping[str, ArmResult]) -> list[str]:
    """Three published findings, held against this run."""
    trained = [arm for arm in arms.values() if arm.kind not in (START, "control")]
    said = []
    if len(trained) >= 4:
        lost = [-arm.minus(arms[START], "old").mean for arm in trained]
        found = {name: rank_correlation([arm.kl(name).mean for arm in trained], lost) for name in ("new", "old")}
        if None not in found.values():
            better = "the better predictor" if (found["new"] or 0) > (found["old"] or 0) else "not the better predictor"
            said.append(
                f"KL on new prompts as predictor of forgetting (Shenfeld et al. 2025): over {len(trained)} arms its rank correlation with the loss of old abilities is "
                f"{found['new']:+.2f}, that of KL on old prompts {found['old']:+.2f}; here it is {better}."
            )
        else:
            said.append("KL as predictor of forgetting: old abilities or KLs do not differ between the arms, so nothing can be said.")  # fmt: skip
    taught = arms[TAUGHT]
    for arm in (one for one in trained if one.kind == "lora"):
        kl, skill = arm.kl_minus(taught), arm.minus(taught, "skill")
        less = "less" if kl.high < 0 else "more" if kl.low > 0 else "not clearly more or less"
        learned = "less" if skill.high < 0 else "more" if skill.low > 0 else "not clearly more or less"
        said.append(f"LoRA learns less and forgets less (Biderman et al. 2024): here it learned {learned} and moved {less} on old prompts than plain training.")  # fmt: skip
    averages = [one for one in trained if one.kind == "average"]
    if averages:
        above = [arm for arm in averages if _above_line(arm, arms[START], taught)]
        names = ", ".join(f"{arm.value:g}" for arm in above)
        said.append(
            "Averages lie above the straight line between start and student (WiSE-FT, Wortsman et al. 2022): "
            + (f"so it is here at alpha {names}, by the means." if above else "at none of these alphas it is so here.")
        )
    return said


def _above_line(arm: ArmResult, start: ArmResult, taught: ArmResult) -> bool:
    """Whether it has more of the skill than the line between start and student has at its KL on old prompts."""
    whole = taught.kl("old").mean
    if whole <= 0:
        return False
    part = arm.kl("old").mean / whole
    first, last = start.share("skill").mean, taught.share("skill").mean
    return arm.share("skill").mean > first + part * (last - first)


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties at their middle rank; None where one side does not vary.

    Example:
        >>> rank_correlation([1, 2, 3], [10, 30, 20])
        0.5
    """
    if len(set(one)) < 2 or len(set(other)) < 2:
        return None
    ranks = [[sum(v < value for v in side) + (sum(v == value for v in side) - 1) / 2 for value in side] for side in (one, other)]  # fmt: skip
    return round(statistics.correlation(*ranks), 10)


def _percent(share: Interval) -> str:
    return f"{100 * share.mean:.0f}% [{100 * share.low:.0f} to {100 * share.high:.0f}]"


def _points(difference: Interval) -> str:
    return f"{100 * difference.mean:+.0f} points [{100 * difference.low:+.0f} to {100 * difference.high:+.0f}]"


def _nats(kl: Interval) -> str:
    return f"{kl.mean:.3f} [{kl.low:.3f} to {kl.high:.3f}] nats a token"


def _clear(difference: Interval) -> str:
    return "" if difference.low > 0 or difference.high < 0 or difference == (0, 0, 0) else " (not clear of 0)"
