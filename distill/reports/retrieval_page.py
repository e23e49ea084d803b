"""Tuning and retrieval in one table: as Markdown, and as one self-contained page with its pictures."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from distill.basics.intervals import Interval
from distill.reports.pictures import draw
from distill.reports.retrieval_update import answered_anew
from distill.reports.retrieval_words import ARMS, WAYS, Examination, examinations, verdict

TITLES = {
    "stable": "stable facts",
    "changed": "changed after training: new / old",
    "distractors": "distractors only: right / took one",
    "untrained": "never trained",
    "reverse": "asked in reverse",
    "kept": "KL to untouched",
    "tokens": "tokens a question",
    "seconds": "seconds a question",
}
_TOOK = ("changed", "distractors")  # columns with a second figure: the wrong value was taken
_COLOURS = {"closed": "#b4530a", "retrieved": "#0b6e8f", "old": "#a3123a"}


def table_rows(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each arm and way: `title`, `way`, and of each column its cell as a text with its interval, or a dash."""
    rows = []
    for (arm, way), one in examinations(runs).items():
        cells = {column: _cell(one, column) for column in ("stable", "changed", "distractors", "untrained", "reverse")}
        kept = [run["kept"]["kl"] for run in runs if run["arm"] == arm and run.get("kept")]
        cells["kept"] = f"{sum(kept) / len(kept):.2f}" if kept and way == "closed" else "–"
        tokens, seconds = one.mean("tokens_read"), one.mean("seconds")
        cells["tokens"] = "–" if tokens is None else f"{tokens:.0f}"
        cells["seconds"] = "–" if seconds is None else f"{seconds:.2f}"
        rows.append({"arm": arm, "title": ARMS[arm], "way": WAYS[way], "cells": cells})
    return rows


def retrieval_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """`table_rows` as Markdown: percent, with 95% intervals over facts (and trainings) in brackets."""
    lines = [f"| arm | | {' | '.join(TITLES.values())} |", "| --- " * (len(TITLES) + 2) + "|"]
    for row in table_rows(runs):
        lines.append(f"| {row['title']} | {row['way']} | {' | '.join(row['cells'][name] for name in TITLES)} |")
    return "\n".join(lines)


def write_retrieval_page(results: Mapping[str, Any], path: Path) -> None:
    """Write `retrieval.html` for the results of `recipes/retrieval.py`; its two pictures also lie beside it, as SVG.

    Args:
        results: what the recipe puts into `retrieval.json`.
        path: the file to write; nothing is loaded from elsewhere.

    Raises:
        ValueError: matplotlib is missing.
    """
    runs = results["runs"]
    pictures = {"facts": _facts_picture(runs), "trap": _trap_picture(runs)}
    for name, svg in pictures.items():
        path.with_name(f"{path.stem}_{name}.svg").write_text(svg, encoding="utf-8")
    template = resources.files("distill.reports.templates").joinpath("retrieval.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(template).render(
        **results,
        rows=table_rows(runs),
        titles=TITLES,
        verdict=verdict(runs),
        anew=answered_anew(runs),
        pictures=pictures,
        answers=_answers(runs),
        seeds=len({run["seed"] for run in runs if run["seed"] is not None}),
    )
    path.write_text(page, encoding="utf-8")


def _cell(one: Examination, column: str) -> str:
    share = one.share(column)
    if share is None:
        return "none asked" if one.unasked(column)[0] else "–"
    if column not in _TOOK:
        return _percent(share)
    took = one.share(column, "took_old")
    assert took is not None
    return f"{_percent(share)} / {100 * took.mean:.0f}"


def _percent(share: Interval) -> str:
    return f"{100 * share.mean:.0f} [{100 * share.low:.0f}–{100 * share.high:.0f}]"


def _facts_picture(runs: Sequence[Mapping[str, Any]]) -> str:
    """Stable facts, closed-book and with retrieval, an arm a line."""
    found = examinations(runs)
    arms = list(dict.fromkeys(arm for arm, _ in found))

    def paint(axes: Any) -> None:
        for way, shift in (("closed", -0.13), ("retrieved", 0.13)):
            _bars(axes, [found.get((arm, way)) for arm in arms], "stable", "right", shift, _COLOURS[way], WAYS[way])
        _finish(axes, arms, "stable facts answered rightly, %")

    return draw(paint, width=8.0, height=1.4 + 0.55 * len(arms), name="facts")


def _trap_picture(runs: Sequence[Mapping[str, Any]]) -> str:
    """Facts that changed after training, asked with the fresh passage: new and old value."""
    found = examinations(runs)
    arms = [arm for arm, way in found if way == "retrieved"]

    def paint(axes: Any) -> None:
        for what, shift, colour, label in (
            ("right", -0.13, _COLOURS["retrieved"], "new value, from the passage"),
            ("took_old", 0.13, _COLOURS["old"], "old value"),
        ):
            _bars(axes, [found[arm, "retrieved"] for arm in arms], "changed", what, shift, colour, label)
        _finish(axes, arms, "facts changed after training, asked with the fresh passage, %")

    return draw(paint, width=8.0, height=1.4 + 0.55 * len(arms), name="trap")


def _bars(
    axes: Any, found: Sequence[Examination | None], column: str, what: str, shift: float, colour: str, label: str
) -> None:
    for y, one in enumerate(found):
        share = one.share(column, what) if one else None
        if share is None:
            continue
        axes.plot([100 * share.low, 100 * share.high], [y + shift] * 2, color=colour, linewidth=5, alpha=0.3)
        axes.plot(100 * share.mean, y + shift, "o", color=colour, markersize=8, label=label)
        label = "_"  # one entry of the legend


def _finish(axes: Any, arms: Sequence[str], label: str) -> None:
    axes.set(xlim=(-3, 103), ylim=(len(arms) - 0.5, -0.6), xlabel=label)
    axes.set_yticks(range(len(arms)), [ARMS[arm] for arm in arms])
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _answers(runs: Sequence[Mapping[str, Any]], most: int = 4) -> list[dict[str, Any]]:
    """Questions about changed facts, with what every arm said with the fresh passage; those first on which arms differ."""
    found = {arm: one.trainings[0] for (arm, way), one in examinations(runs).items() if way == "retrieved"}
    asked: dict[str, dict[str, Any]] = {}
    for arm, answers in found.items():
        for one in answers:
            if one.question.column == "changed":
                entry = asked.setdefault(one.question.id, {"question": one.question, "said": {}, "kinds": set()})
                kind = "new value" if one.right else "old value" if one.took_old else "neither"
                entry["said"][ARMS[arm]] = (one.text, kind)
                entry["kinds"].add(kind)
    return sorted(asked.values(), key=lambda entry: -len(entry["kinds"]))[:most]
