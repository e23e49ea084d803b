"""Verdict on a student in words: which limits hold, what was gained and lost, what is at risk, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distill.evaluation.risk.controls import Control, proves_nothing
from distill.evaluation.risk.figures import SIDES, Figure, Value
from distill.evaluation.risk.thresholds import BROKEN, HOLDS, NOT_ASKED, NOT_SHOWN, Judged

_SPOKEN = {".rise_max": ", more than the base", ".loss_max": ", less than the base"}
_UNITS = {"nats": " nats", "words": " words", "tokens": " tokens", "bits": " bits"}


@dataclass(frozen=True)
class Verdict:
    """What a page says first.

    Args:
        state: `holds`, `broken`, or `not shown`.
        headline: one sentence.
        proves: empty, or why the page proves nothing; it stands before everything.
        lines: further sentences by section: `thresholds`, `gained`, `lost`, `risk`, `sure`.
    """

    state: str
    headline: str
    proves: str
    lines: Mapping[str, list[str]]

    def text(self) -> str:
        """For a terminal."""
        titles = {"thresholds": "Thresholds", "gained": "Gained", "lost": "Lost", "risk": "At risk", "sure": "How sure"}
        said = [self.proves, self.headline] if self.proves else [self.headline]
        for name, title in titles.items():
            said += [f"{title}: {line}" for line in self.lines[name]]
        return "\n".join(said)


def verdict(
    figures: Sequence[Figure], judged: Sequence[Judged], controls: Sequence[Control], *, allow_unmeasured: bool = False
) -> Verdict:
    """Everything a page says in words, each sentence from a figure."""
    broken, hold, unshown, unasked = (
        [one for one in judged if one.state == state] for state in (BROKEN, HOLDS, NOT_SHOWN, NOT_ASKED)
    )
    state = BROKEN if broken else NOT_SHOWN if unshown and not allow_unmeasured else HOLDS
    count = len(broken) + len(hold) + len(unshown)
    if broken:
        headline = f"{len(broken)} of {count} thresholds are broken: {_names(broken)}."
    elif unshown:
        more = " That was allowed." if allow_unmeasured else ""
        headline = f"No threshold is broken, but {len(unshown)} of {count} could not be shown to hold: {_names(unshown)}.{more}"
    elif hold:
        headline = f"All {count} thresholds hold."
    else:
        headline = "No threshold was held against anything: nothing that they speak of was measured."
    lines = {
        "thresholds": [_judged_line(one) for one in (*broken, *unshown)],
        "gained": [*_changes(figures, "gained", "better"), *_changes(figures, "lost", "better")],
        "lost": [*_changes(figures, "gained", "worse"), *_changes(figures, "lost", "worse")],
        "risk": _risks(figures),
        "sure": _sure(figures, hold, broken, unasked, controls),
    }
    lines["gained"] = lines["gained"] or ["nothing that could be told from chance."]
    lines["lost"] = lines["lost"] or ["nothing that could be told from chance."]
    return Verdict(state, headline, proves_nothing(controls), lines)


def written(value: Value | None, kind: str, *, interval: bool = True, sign: bool = False) -> str:
    """A value as people read it: `12% [8 to 17]`; a dash where there is none."""
    if value is None:
        return "–"
    text = _number(value.value, kind, sign)
    if not interval or value.low is None or value.high is None:
        return text
    return f"{text} [{_bare(value.low, kind)} to {_bare(value.high, kind)}]"


def _number(number: float, kind: str, sign: bool = False) -> str:
    plus = "+" if sign else ""
    if kind == "share":
        return f"{100 * number:{plus}.{0 if abs(number) >= 0.1 or number == 0 else 1}f}%"
    if kind in ("words", "tokens"):
        return f"{number:{plus}.0f}"
    return f"{number:{plus}.3g}" if abs(number) < 10 else f"{number:{plus}.1f}"


def _bare(number: float, kind: str) -> str:
    return _number(number, kind).removesuffix("%")


def with_unit(value: Value, kind: str, *, interval: bool = True, sign: bool = False) -> str:
    """As `written`, with the unit's word."""
    return f"{written(value, kind, interval=interval, sign=sign)}{_UNITS.get(kind, '')}"


def limit_text(one: Judged, kind: str) -> str:
    """A limit as people read it: `at most 10%`."""
    least = one.name.endswith("_min")
    return f"{'at least' if least else 'at most'} {_number(one.limit, kind)}"


def _names(some: Sequence[Judged]) -> str:
    return ", ".join(one.name for one in some)


def _judged_line(one: Judged) -> str:
    if one.state == NOT_SHOWN:
        return f"{one.name} is not shown to hold: {one.why}."
    assert one.value is not None
    held = with_interval(one.value)
    sure = (
        "the whole interval lies beyond it"
        if one.sure
        else "its interval reaches over the limit, so chance may have done it"
    )
    if one.value.low is None:
        sure = "of this figure no interval is known"
    least = "least" if one.name.endswith("_min") else "most"
    more = next((words for ending, words in _SPOKEN.items() if one.name.endswith(ending)), "")
    return f"{one.title}{more}: {held}, where {one.name} allows at {least} {one.limit:g}; {sure}."


def with_interval(value: Value) -> str:
    """Plain numbers, as a threshold has them."""
    text = f"{value.value:.3g}"
    return text if value.low is None or value.high is None else f"{text} [{value.low:.3g} to {value.high:.3g}]"


def _changes(figures: Sequence[Figure], section: str, which: str) -> list[str]:
    """Figures of a section that moved, and not by chance alone."""
    said = []
    for one in figures:
        if one.section != section or not one.better or not one.is_measured or "base" not in one.of:
            continue
        change = apart(one)
        if change is None or (change > 0) is not ((one.better == "more") is (which == "better")):
            continue
        teacher = f"; the teacher {written(one.of['teacher'], one.kind)}" if "teacher" in one.of else ""
        before, after = (written(one.of[side], one.kind) for side in ("base", "student"))
        # that the base is at no distance from itself is no news
        was = "" if one.name.startswith(("kl_", "same_")) else f"{before} before, "
        apart_by = ""
        if one.change is not None and one.of["student"].low is None and one.change.low is not None:
            apart_by = f" ({written(one.change, one.kind, sign=True)})"
        said.append(f"{one.title}: {was}{after} now{apart_by}{teacher}." + (f" {one.origin}" if one.origin else ""))
    return said


def apart(one: Figure) -> float | None:
    """By how much student and base differ; None where that is within chance.

    By the interval of the paired difference where there is one; else by intervals that do not touch, which is stricter.
    """
    own, base = one.of["student"], one.of["base"]
    if one.change is not None and one.change.low is not None and one.change.high is not None:
        return one.change.value if one.change.low > 0 or one.change.high < 0 else None
    ends = (own.low, own.high, base.low, base.high)
    if None in ends:
        return own.value - base.value if own.value != base.value else None
    assert own.low is not None and own.high is not None and base.low is not None and base.high is not None  # noqa: PT018
    return own.value - base.value if own.low > base.high or own.high < base.low else None


def _risks(figures: Sequence[Figure]) -> list[str]:
    said = []
    for one in figures:
        if one.section != "risk" or not one.is_measured:
            continue
        doubt = f" No headline: {one.doubted}." if one.doubted else ""
        if one.kind != "share" and not doubt:
            continue
        sides = ", ".join(f"{SIDES[side].lower()} {written(value, one.kind)}" for side, value in one.of.items())
        said.append(f"{one.title}: {sides}." + (f" {one.origin}" if one.origin else "") + doubt)
    unmeasured = [one for one in figures if one.section == "risk" and not one.is_measured]
    reasons: dict[str, list[str]] = {}
    for one in unmeasured:
        reasons.setdefault(one.missing, []).append(one.title)
    return [*said, *(f"Not measured, since {why}: {'; '.join(titles)}." for why, titles in reasons.items())]


def _sure(
    figures: Sequence[Figure], hold: Sequence[Judged], broken: Sequence[Judged], unasked: Sequence[Judged], controls: Sequence[Control],
) -> list[str]:  # fmt: skip
    said = []
    narrow = [one for one in hold if not one.sure]
    if hold:
        surely = len(hold) - len(narrow)
        said.append(
            f"{surely} of {len(hold)} limits that hold do so with their whole interval"
            + (f"; by their estimate alone: {_names(narrow)}." if narrow else ".")
        )
    if unasked:
        said.append(f"Not asked for, so not counted: {_names(unasked)}.")
    passed = [one for one in controls if one.passed]
    if passed:
        said.append(f"Controls that came out as they must: {'; '.join(one.title for one in passed)}.")
    said.append(
        "Intervals (95%) are over prompts, pairs or secrets; another training of the same data is another draw, of which this page knows nothing."
    )
    return said
