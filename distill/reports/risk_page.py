"""What tuning changed on one self-contained page, with its pictures."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from distill.evaluation.risk.controls import Control
from distill.evaluation.risk.figures import SECTIONS, SIDES, Figure
from distill.evaluation.risk.thresholds import Judged
from distill.reports.risk_pictures import scores_picture, shares_picture
from distill.reports.risk_words import Verdict, limit_text, with_interval, with_unit, written

INTROS = {
    "gained": "What the student can do that its base could not, and how near it came to its teacher.",
    "lost": "What the base could do and the student does less well: on text that the training was not about.",
    "risk": "What the student may give away of the data that it was trained on.",
}
CAPTIONS = {
    "gained": "Shares with their 95% intervals; right is better.",
    "lost": "Shares with their 95% intervals.",
    "risk": "Shares with their 95% intervals; left is better, and the dashed line is the limit.",
    "scores": "How much likelier each pair's answer is to the student than to the base. Where the two hills lie on each other nobody can tell training pairs from others.",
}


def write_risk_page(results: Mapping[str, Any], verdict: Verdict, path: Path) -> None:
    """Write `risk.html` for the results of `recipes/evaluate.py`; its pictures also lie beside it, as SVG.

    Args:
        results: what the recipe puts into `risk.json`.
        verdict: in words.
        path: the file to write; nothing is loaded from elsewhere.

    Raises:
        ValueError: matplotlib is missing.
    """
    figures = [Figure.of_dict(one) for one in results["figures"]]
    judged = [judged_of(one) for one in results["thresholds"]]
    pictures = _pictures(figures, judged, results["scores"])
    for of_section in pictures.values():
        for name, svg in of_section.items():
            path.with_name(f"{path.stem}_{name}.svg").write_text(svg, encoding="utf-8")
    template = resources.files("distill.reports.templates").joinpath("risk.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(template).render(
        **{**results, "verdict": verdict, "controls": [Control(**one) for one in results["controls"]]},
        sections=SECTIONS,
        intros=INTROS,
        captions=CAPTIONS,
        sides=[side for side in SIDES if side in results["models"]],
        side_titles=SIDES,
        rows={key: [_row(one, judged) for one in figures if one.section == key and one.is_measured] for key in SECTIONS},
        unmeasured={key: [(one.title, one.missing) for one in figures if one.section == key and not one.is_measured] for key in SECTIONS},
        pictures=pictures,
        judged=[_limit_row(one) for one in judged],
    )  # fmt: skip
    path.write_text(page, encoding="utf-8")


def judged_of(found: Mapping[str, Any]) -> Judged:
    """What `Judged.as_dict` gave."""
    from distill.evaluation.risk.figures import Value

    return Judged(**{**found, "value": None if found["value"] is None else Value(**found["value"])})


def _row(one: Figure, judged: Sequence[Judged]) -> dict[str, Any]:
    limits = [limit for limit in judged if limit.figure == one.name]
    notes = " ".join(
        part for part in (one.said, one.origin, f"No headline: {one.doubted}." if one.doubted else "") if part
    )
    return {
        "title": one.title,
        "cells": {side: written(one.of.get(side), one.kind) for side in SIDES},
        "change": written(one.change, one.kind, sign=True),
        "limits": [{"state": limit.state, "text": _limit(limit, one.kind)} for limit in limits],
        "notes": notes,
    }  # fmt: skip


def _limit(one: Judged, kind: str) -> str:
    text = limit_text(one, kind)
    ending = {".rise_max": " more than base", ".loss_max": " less than base"}
    return text + next((more for name, more in ending.items() if one.name.endswith(name)), "")


def _limit_row(one: Judged) -> dict[str, Any]:
    sure = "" if one.state not in ("holds", "broken") else ", surely" if one.sure else ", by its estimate"
    if one.why:
        sure = f": {one.why}"
    return {
        "name": one.name, "limit": one.limit, "state": one.state, "sure": sure,
        "held": "–" if one.value is None else with_interval(one.value),
    }  # fmt: skip


def _pictures(
    figures: Sequence[Figure], judged: Sequence[Judged], scores: Mapping[str, Any]
) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {key: {} for key in SECTIONS}
    limits = {one.figure: one.limit for one in judged if one.name == f"{one.figure}_max"}
    for key in SECTIONS:
        shown = [one for one in figures if one.section == key and one.kind == "share" and one.is_measured]
        if shown:
            found[key][key] = shares_picture(shown, limits if key == "risk" else {}, key)
    if "student" in scores:
        found["risk"]["scores"] = scores_picture(scores["student"])
    return found


__all__ = ["judged_of", "with_unit", "write_risk_page"]
