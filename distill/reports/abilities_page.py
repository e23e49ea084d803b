"""Abilities before and after, in one table: as Markdown, and as one self-contained page with its pictures."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from distill.reports.abilities_words import CONTROLS, WAYS, Row, columns_of, table_rows, verdict
from distill.reports.pictures import draw

_COLOURS = {"": "#7a8794", "black": "#b4530a", "white": "#0b6e8f", "control": "#a3123a"}
_ARROWS = {1: " ▲", 0: "", -1: " ▼"}


def abilities_table(results: Mapping[str, Any]) -> str:
    """The rows as Markdown: percent with exact 95% intervals; an arrow where the difference to the untouched model leaves 0 out."""
    rows = table_rows(results)
    columns = columns_of(rows)
    lines = [f"| trained on | {' | '.join(columns)} | KL to start |", "| --- " * (len(columns) + 2) + "|"]
    for row in rows:
        cells = [f"**{_cell(row, name)}**" if name == row.arm else _cell(row, name) for name in columns]
        lines.append(f"| {row.title} | {' | '.join(cells)} | {_kl(row)} |")
    return "\n".join(lines)


def write_abilities_page(results: Mapping[str, Any], path: Path) -> None:
    """Write `abilities.html` for the results of `recipes/abilities.py`; its two pictures also lie beside it, as SVG.

    Args:
        results: what the recipe puts into `abilities.json`.
        path: the file to write; nothing is loaded from elsewhere.

    Raises:
        ValueError: matplotlib is missing.
    """
    rows = table_rows(results)
    columns = columns_of(rows)
    pictures = {"taught": _taught_picture(rows), "changes": _changes_picture(rows)}
    for name, svg in pictures.items():
        path.with_name(f"{path.stem}_{name}.svg").write_text(svg, encoding="utf-8")
    template = resources.files("distill.reports.templates").joinpath("abilities.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(template).render(
        **results,
        rows=[
            {
                "title": row.title,
                "control": row.arm in CONTROLS,
                "cells": [{"text": _cell(row, name), "own": name == row.arm} for name in columns],
                "kl": _kl(row),
            }
            for row in rows
        ],
        singles=[
            {
                "title": row.title,
                "cells": [" ".join(f"{100 * one:.0f}" for one in row.single[name]) for name in columns],
            }
            for row in rows
        ],
        abilities=columns,
        verdict=verdict(results),
        pictures=pictures,
        answers=_answers(results),
        seeds=len({run["seed"] for run in results["runs"]}),
    )
    path.write_text(page, encoding="utf-8")


def _cell(row: Row, ability: str) -> str:
    share = row.figures[ability]
    return f"{100 * share.mean:.0f} [{100 * share.low:.0f}–{100 * share.high:.0f}]{_ARROWS[row.moved(ability)]}"


def _kl(row: Row) -> str:
    return f"{sum(row.kl) / len(row.kl):.2f}"


def _taught_picture(rows: list[Row]) -> str:
    """Each taught ability: before, after either way, and after the controls."""
    taught = list(dict.fromkeys(row.arm for row in rows if row.way in ("black", "white")))

    def paint(axes: Any) -> None:
        for y, ability in enumerate(taught):
            own = [row for row in rows if row.arm in ("untouched", ability, *CONTROLS)]
            for place, row in enumerate(own):
                share, height = row.figures[ability], y + (place - (len(own) - 1) / 2) * 0.15
                colour = _COLOURS[row.way]
                axes.plot([100 * share.low, 100 * share.high], [height] * 2, color=colour, linewidth=4, alpha=0.3)
                label = "before" if row.arm == "untouched" else row.title if row.way == "control" else WAYS[row.way]
                marker = "s" if row.arm == "shuffled" else "o"
                axes.plot(100 * share.mean, height, marker, color=colour, markersize=6, label=label if y == 0 else "_")
        axes.set(xlim=(-3, 103), ylim=(len(taught) - 0.5, -0.6), xlabel="probes answered rightly, %")
        axes.set_yticks(range(len(taught)), taught)
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=3, fontsize=9)

    return draw(paint, width=8.0, height=1.7 + 0.85 * len(taught), name="taught")


def _changes_picture(rows: list[Row]) -> str:
    """What each training did to each ability, in points; bold where the interval leaves 0 out."""
    after, columns = [row for row in rows if row.arm != "untouched"], columns_of(rows)

    def paint(axes: Any) -> None:
        table = [[100 * row.changes[name].mean for name in columns] for row in after]
        axes.imshow(table, cmap="RdBu", vmin=-100, vmax=100, aspect="auto")
        axes.grid(visible=False)
        for y, row in enumerate(after):
            for x, name in enumerate(columns):
                value, moved = table[y][x], row.moved(name)
                axes.text(
                    x, y, f"{value:+.0f}" if round(value) else "0", ha="center", va="center",
                    color="white" if abs(value) > 60 else "#1c2430", fontweight="bold" if moved else "normal", fontsize=10,
                )  # fmt: skip
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(after)), [row.title for row in after])
        axes.xaxis.tick_top()
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)

    return draw(paint, width=9.0, height=0.9 + 0.36 * len(after), name="changes")


def _answers(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each taught ability one probe, with what the models said before and after."""
    seed = results["runs"][0]["seed"]
    first = [run for run in results["runs"] if run["seed"] == seed]
    asked = results["probes"].get(seed) or results["probes"][str(seed)]
    shown = []
    for ability in dict.fromkeys(run["arm"] for run in first if run["way"] in ("black", "white")):
        said: dict[str, dict[str, Any]] = {}
        for run in first:
            if run["arm"] in ("untouched", ability):
                title = "before" if run["arm"] == "untouched" else WAYS[run["way"]]
                for one in run["answers"]:
                    if one["ability"] == ability:
                        said.setdefault(one["probe"], {})[title] = one
        # one that tells most: models that are right beside models that are wrong
        best = max(said, key=lambda probe: len({one["right"] for one in said[probe].values()}))
        prompt = asked[best]["prompt"]
        shown.append(
            {
                "ability": ability,
                "prompt": prompt if isinstance(prompt, str) else prompt[-1]["content"],
                "said": said[best],
            }
        )
    return shown
