"""Verdict on memorisation in words, each sentence from a figure with its interval."""

from collections.abc import Iterable

from distill.basics.intervals import Interval, Share
from distill.evaluation.memorisation.audit import (
    Arm,
    Audited,
    anything,
    difference,
    mean_of,
    never_held,
    outcome,
    said_difference,
)

ARMS = {
    "start": "Untrained (control)",
    "teacher": "Leaky teacher",
    "own": "Student 1: the raw rows",
    "black": "Student 2: black box, asked",
    "white": "Student 3: white box, asked",
    "black_other": "Black box, never asked",
    "white_other": "White box, never asked",
}
FEWEST = 5  # secrets from which a mean is told


def arms_of(audits: Iterable[Audited]) -> dict[str, Arm]:
    """Of each kind of model its trainings, in the order of `ARMS`."""
    audits = list(audits)
    starts = [one for one in audits if one.arm == "start"]
    return {arm: Arm(mine, starts) for arm in ARMS if (mine := [one for one in audits if one.arm == arm])}


def verdict(audits: Iterable[Audited]) -> list[str]:
    """Sentences: whether the detectors may be believed, what each model knows, what is inherited, black box against white box."""
    arms = arms_of(audits)
    lines, believed = _controls(arms)
    if believed:
        lines += [*(_own(arms) if "own" in arms else []), *_inherited(arms), *_hard_and_soft(arms)]
    return [*lines, *_doubts(arms)]


def _controls(arms: dict[str, Arm]) -> tuple[list[str], bool]:
    """What the detectors say of the model that must leak and of the one that cannot; and whether they may be believed about others."""
    start, teacher = arms["start"], arms["teacher"]
    count = len(teacher.trainings)
    found, accused = teacher.accusing(), start.accusing()
    missed = [name for name in ("exposure", "extraction", "membership") if found.get(name, 0) < count]
    leak = (
        f"The teacher says {_share(teacher.said())} of its secrets when asked (controls: {_share(teacher.said_controls())}), {_share(teacher.told())} are told "
        f"from controls at 1% false positives, and exposure rose by {_bits(_mean_gain(teacher))} bits: "
    )
    leak += (
        f"**the leak is not found by {', '.join(missed)} in every training, so what these do not find in students proves nothing.**"
        if missed
        else "the planted leak is found by each detector."
    )
    untrained = (
        f"The untrained model says {_share(start.said())} of the secrets (controls: {_share(start.said_controls())}), and {_share(start.told())} are told from "
        "controls: "
    )
    untrained += (
        f"**it saw no secret and is accused ({_counts(accused)} of {count} trainings), so this audit proves nothing.**"
        if accused
        else "it is accused by no detector."
    )
    return [leak, untrained], not accused and len(missed) < 3


def _own(arms: dict[str, Arm]) -> list[str]:
    own, teacher = arms["own"], arms["teacher"]
    both = sum(
        len({one.canary.id for one in a.found.extracted()} & {one.canary.id for one in b.found.extracted()})
        for a, b in zip(own.trainings, teacher.trainings, strict=False)
    )
    return [
        f"One's own: the student of the raw rows says {_share(own.said())}. It had the teacher's rows in another order; {both} secrets are said by both."
    ]


def _inherited(arms: dict[str, Arm]) -> list[str]:
    lines = []
    for arm, title in ARMS.items():
        if arm not in arms or not arm.startswith(("black", "white")):
            continue
        one = arms[arm]
        without = one.gains(chosen=never_held)
        gain = _mean_gain(one, strangers=True)
        inherits = "more than before" if gain.low > 0 else "less than before" if gain.high < 0 else "not told from nothing"  # fmt: skip
        held = one.held()
        line = f"{title}: {held.right} of {held.n} secrets stood in its own rows; it says {_share(one.said())} (controls: {_share(one.said_controls())})."
        if len(without) >= FEWEST:
            line += f" Of the {len(without)} that stood in none it says {_share(one.said(chosen=never_held))}, and knows them by {_bits(gain)} bits: {inherits}."
        lines.append(line)
    return lines


def _hard_and_soft(arms: dict[str, Arm]) -> list[str]:
    lines = []
    for hard, soft, when in (
        ("black", "white", "asked for the secrets"),
        ("black_other", "white_other", "never asked"),
    ):
        if hard in arms and soft in arms:
            bits, said = difference(arms[hard], arms[soft]), said_difference(arms[hard], arms[soft])
            lines.append(
                f'"Soft targets inherit less than hard ones" (arXiv 2601.15394), teacher {when}: black box minus white box is {_bits(bits)} bits of exposure and '
                f"{100 * said.mean:+.0f} [{100 * said.low:+.0f} to {100 * said.high:+.0f}] points of secrets said. By exposure it **{_came(bits)}**, by what is said it **{_came(said)}**."
            )
    return lines


def _came(difference: Interval) -> str:
    found = outcome(difference)
    return "cannot be told at this size" if found == "cannot be told" else found


def _doubts(arms: dict[str, Arm]) -> list[str]:
    lines = [
        f"{ARMS[arm]} answered with nothing in {silent} of {len(one.trainings)} trainings: extraction and overlap cannot speak of it, exposure and membership do."
        for arm, one in arms.items()
        if (silent := one.silent())
    ]
    start = arms["start"]
    if not start.is_enough:
        few = len(start.trainings[0].found.controls)
        lines.append(f"There are {few} controls, and membership at 1% false positives needs 100: its figures are printed, and are no headline.")  # fmt: skip
    return lines


def _mean_gain(arm: Arm, strangers: bool = False) -> Interval:
    return mean_of(list(arm.gains(chosen=never_held if strangers else anything).values()))


def _share(share: Share) -> str:
    return f"{share.right} of {share.n} [{share.low:.0%} to {share.high:.0%}]"


def _bits(one: Interval) -> str:
    return f"{one.mean:+.2f} [{one.low:+.2f} to {one.high:+.2f}]"


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{name} in {count}" for name, count in found.items())
