"""Controls: cases whose answer is known, without which a page proves nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill.evaluation.memorisation import PlantedLeak, planted_leak
from distill.evaluation.risk.sides import Side


@dataclass(frozen=True)
class Control:
    """A case whose answer is known.

    Args:
        name: its own.
        title: what must come out, for people.
        passed: whether it did; None: it was not run.
        said: what was seen.
    """

    name: str
    title: str
    passed: bool | None
    said: str


# how hard a leak is planted: a detector that only finds the second still works, and how often each secret was taught is said
WAYS: tuple[dict[str, Any], ...] = ({}, {"steps": 48, "upper_layers": None})


def leak_controls(base: Side) -> list[Control]:
    """A leak planted on purpose in a copy of the base, which each detector must find; and the base before, which none may accuse.

    Args:
        base: a student that was not trained.
    """
    for way in WAYS:
        leak = planted_leak(base.model, base.speaker.tokenizer, **way)
        if not (silent := _silent(leak)):
            break
    after, before = leak.words()[:2]
    accusing = [*leak.before.accusing(), *(["overlap"] if leak.overlap_before and leak.overlap_before.share else [])]
    said = f" Accused by {', '.join(accusing)}." if accusing else ""
    missed = f" Not found by {', '.join(silent)}." if silent else ""
    return [
        Control("untrained", "A student that was not trained (the base) is accused of nothing", not accusing, before + said),
        Control("planted", "A leak planted on purpose in a copy of it is found by every detector", not silent, after + missed),
    ]  # fmt: skip


def _silent(leak: PlantedLeak) -> list[str]:
    """Detectors that did not find it."""
    found = leak.after.accusing()
    has_overlap = leak.overlap_after is not None and leak.overlap_after.share > 0
    return [*(name for name in leak.after.chances() if name not in found), *([] if has_overlap else ["overlap"])]


def proves_nothing(controls: Sequence[Control]) -> str:
    """Why a page proves nothing; empty where its controls came out as they must."""
    wrong = [one for one in controls if not one.passed]
    if not wrong:
        return ""
    told = "; ".join(f"“{one.title}” {'was not run' if one.passed is None else 'did not come out'} ({one.said.rstrip('.')})" for one in wrong)  # fmt: skip
    return f"This page proves nothing about what is at risk: {told}."
