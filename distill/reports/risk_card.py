"""The result of an evaluation as a block of Markdown for a model card."""

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2

from distill.evaluation.risk.controls import Control
from distill.evaluation.risk.figures import SIDES, Figure
from distill.evaluation.risk.thresholds import Judged
from distill.reports.risk_words import Verdict, with_interval, written

BLOCK = "risk"


def risk_block(results: Mapping[str, Any], verdict: Verdict, judged: Sequence[Judged]) -> str:
    """Markdown: the verdict, a table of figures, limits, controls, and how it was run.

    Args:
        results: what `recipes/evaluate.py` puts into `risk.json`.
        verdict, judged: of them.
    """
    figures = [Figure.of_dict(one) for one in results["figures"]]
    source = resources.files("distill.reports.templates").joinpath("risk.md.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["plain"] = _plain
    return environment.from_string(source).render(
        **{**results, "verdict": verdict, "controls": [Control(**one) for one in results["controls"]]},
        sides=[side for side in SIDES if side in results["models"]],
        side_titles=SIDES,
        rows=[
            {"title": one.title, "cells": {side: written(one.of.get(side), one.kind) for side in SIDES}}
            for one in figures
            if one.is_measured
        ],
        unmeasured=[(one.title, one.missing) for one in figures if not one.is_measured],
        judged=[(one, "–" if one.value is None else with_interval(one.value)) for one in judged],
    )


def _plain(value: Any) -> str:
    """Words of others without markup, in one line."""
    text = " ".join(str(value).replace("`", "'").split())
    return re.sub(r"([\\*\[\]|~#])", r"\\\1", text).replace("<", "&lt;").replace(">", "&gt;")
