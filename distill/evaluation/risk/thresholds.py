"""Thresholds: what a student may have at most or must have at least, read from a small YAML file and held against figures."""

import difflib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any

from distill.evaluation.risk.figures import Figure, Value
from distill.pairs.yaml_rows import read_yaml

ENDINGS = {
    "_max": "at most",
    "_min": "at least",
    ".rise_max": "at most so much more than the base",
    ".loss_max": "at most so much less than the base",
}
ABILITY = "ability"  # `ability.loss_max` is of each
HOLDS, BROKEN, NOT_SHOWN, NOT_ASKED = "holds", "broken", "not shown", "not asked"


@dataclass(frozen=True)
class Threshold:
    """A limit.

    Args:
        name: of a figure and an ending.
        limit: the number.
        own: whether it stands in the user's file, and not only among the shipped ones.
    """

    name: str
    limit: float
    own: bool = False


@dataclass(frozen=True)
class Judged:
    """A limit held against its figure.

    Args:
        name, limit: of the threshold.
        figure: the figure's name.
        title: the figure's.
        state: `holds`, `broken`, `not shown` (it could not be measured, or is doubted), `not asked` (a shipped one on what nobody gave data for).
        value: what was held against it, with its interval.
        sure: whether the whole interval lies on the same side.
        why: where it is not shown.
    """

    name: str
    limit: float
    figure: str
    title: str
    state: str
    value: Value | None = None
    sure: bool = False
    why: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def read_thresholds(path: str | os.PathLike[str] | None, known: Iterable[str]) -> list[Threshold]:
    """The shipped thresholds, and in their place or beside them those of a file.

    Args:
        path: a YAML file of names and numbers; a name with nothing behind it takes the shipped one away. None: the shipped ones.
        known: names of all figures there are.

    Raises:
        ValueError: no such file, no YAML, a name of no figure (the nearest are named), a value that is no number.

    Example:
        >>> [one.name for one in read_thresholds(None, ["kl_old"])][:1]
        ['kl_old_max']
    """
    shipped = resources.files("distill.evaluation.risk").joinpath("thresholds.yaml").read_bytes()
    names = tuple(known)
    found = {name: Threshold(name, float(limit)) for name, limit in _values(shipped, "thresholds.yaml").items()}
    found = {name: one for name, one in found.items() if _figures_of(name, names)}
    if path is not None:
        if not Path(path).is_file():
            raise ValueError(f"--thresholds: no file {path}.")
        for name, limit in _values(Path(path).read_bytes(), str(path)).items():
            _check(name, limit, names, str(path))
            if limit is None:
                found.pop(name, None)
            else:
                found[name] = Threshold(name, float(limit), own=True)
    return list(found.values())


def judge(figures: Sequence[Figure], thresholds: Iterable[Threshold]) -> list[Judged]:
    """Each limit held against its figure; one of all abilities against each of them.

    The estimate decides, and whether the interval is on its side is said; what was not measured, or is doubted, is not shown to hold.

    Args:
        figures: all there are, those that could not be measured among them.
        thresholds: see `read_thresholds`.
    """
    by_name = {one.name: one for one in figures}
    limits = list(thresholds)
    special = {one.name for one in limits}
    judged = []
    for one in limits:
        own, ending = _split(one.name)
        named = _figures_of(one.name, tuple(by_name))
        if own == ABILITY:  # one that has a limit of its own is not held against that of all
            named = [name for name in named if f"{name}{ending}" not in special]
        judged += [_held(one, by_name[name], ending) for name in named]
        if not named:
            state = NOT_SHOWN if one.own else NOT_ASKED
            judged.append(Judged(one.name, one.limit, own, own, state, why="nothing of this was measured"))
    return judged


def is_broken(judged: Iterable[Judged], *, allow_unmeasured: bool = False) -> bool:
    """Whether a run ends as failed: a limit is broken, or one is not shown to hold and that was not allowed."""
    return any(one.state == BROKEN or (one.state == NOT_SHOWN and not allow_unmeasured) for one in judged)


def _held(one: Threshold, figure: Figure, ending: str) -> Judged:
    name = one.name if _split(one.name)[0] == figure.name else f"{figure.name}{ending}"
    common: dict[str, Any] = {"name": name, "limit": one.limit, "figure": figure.name, "title": figure.title}
    value = _value(figure, ending)
    if value is None:
        why = figure.missing or "it was not measured of the base"
        return Judged(**common, state=NOT_SHOWN if one.own or figure.given else NOT_ASKED, why=why)
    worse = (lambda x: x < one.limit) if ending == "_min" else (lambda x: x > one.limit + 1e-12)
    broken = worse(value.value)
    sure = value.low is not None and value.high is not None and worse(value.low) == worse(value.high) == broken
    if figure.doubted and not (broken and sure):
        return Judged(**common, state=NOT_SHOWN, value=value, why=figure.doubted)
    return Judged(**common, state=BROKEN if broken else HOLDS, value=value, sure=sure)


def _value(figure: Figure, ending: str) -> Value | None:
    """What an ending speaks of; None where it was not measured."""
    own, base = figure.of.get("student"), figure.of.get("base")
    if own is None or ending in ("_max", "_min"):
        return own
    if figure.change is None:
        if base is None:
            return None
        change = Value(own.value - base.value, n=own.n)
    else:
        change = figure.change
    return change if ending == ".rise_max" else _negative(change)


def _negative(one: Value) -> Value:
    low, high = (None if end is None else 0.0 - end for end in (one.high, one.low))  # and not -0
    return Value(0.0 - one.value, low, high, one.n)


def _split(name: str) -> tuple[str, str]:
    """A threshold's figure and ending; an empty ending where it has none."""
    ending = next((ending for ending in sorted(ENDINGS, key=len, reverse=True) if name.endswith(ending)), "")
    return name.removesuffix(ending), ending


def _figures_of(name: str, known: Sequence[str]) -> list[str]:
    own, ending = _split(name)
    if not ending:
        return []
    return [one for one in known if one.startswith(f"{ABILITY}.")] if own == ABILITY else [own] * (own in known)


def _check(name: str, limit: Any, known: Sequence[str], path: str) -> None:
    if not _figures_of(name, known):
        every = [f"{one}{ending}" for one in (ABILITY, *known) for ending in ENDINGS]
        near = difflib.get_close_matches(name, every, n=3, cutoff=0.3)
        raise ValueError(
            f"{path} names {name!r}, which is no threshold. Nearest: {', '.join(near)}. A name is that of a figure ({', '.join(known)}; {ABILITY}: each) "
            f"with one of {', '.join(ENDINGS)} behind it."
        )
    if limit is not None and _number(limit) is None:
        raise ValueError(
            f"{path}: {name} is {limit!r}; a threshold is a number, or nothing to take the shipped one away."
        )


def _number(value: Any) -> float | None:
    """A number as a file writes it, `1e-3` among them, which YAML takes for a text."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def _values(data: bytes, path: str) -> Mapping[str, Any]:
    root, rows = read_yaml(BytesIO(data), path)
    if rows or not (root is None or isinstance(root, Mapping)):
        raise ValueError(f"{path} must hold names and numbers, one a line, as kl_old_max: 0.5.")
    return root or {}
