"""New skill against what was forgotten: as a Markdown table, and as one self-contained page with its picture."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from distill.basics.intervals import Interval
from distill.reports.forgetting_words import START, TAUGHT, ArmResult, arms_of
from distill.reports.forgetting_words import verdict as verdict
from distill.reports.pictures import draw

TITLES = {
    "skill": "new skill, %",
    "old": "old abilities, %",
    "kl_old": "KL to the start, old prompts",
    "kl_new": "KL to the start, new prompts",
    "loss_old": "loss on own samples of the start",
    "ece_old": "calibration error",
    "characters": "length of answers",
    "ended": "ended by themselves",
    "seconds": "processor s",
}
_COLOURS = {"start": "#1c2430", "taught": "#a3123a", "replay": "#0b6e8f", "keep_kl": "#b4530a", "lora": "#5b3fa0", "average": "#3b7d2c", "control": "#8894a2"}  # fmt: skip
_MARKS = {"start": "*", "taught": "s", "replay": "o", "keep_kl": "^", "lora": "D", "average": "P", "control": "x"}


def table_rows(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each arm: `title`, and of each column of `TITLES` its cell as a text, with its interval."""
    rows = []
    for arm in arms_of(runs).values():
        cells = {
            "skill": _percent(arm.share("skill")),
            "old": _percent(arm.share("old")),
            "kl_old": _interval(arm.kl("old")),
            "kl_new": _interval(arm.kl("new")),
            "loss_old": f"{arm.mean('loss_old'):+.3f}",
            "ece_old": f"{arm.mean('ece_old'):+.3f}",
            "characters": f"{arm.mean('characters'):+.0f}",
            "ended": f"{100 * arm.mean('ended'):+.0f}",
            "seconds": f"{sum(run['train_seconds'] for run in arm.runs) / len(arm.runs):.0f}",
        }
        rows.append({"title": arm.title, "cells": cells})
    return rows


def forgetting_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """`table_rows` as Markdown; from the loss on, differences to the start (ends in points of percent)."""
    lines = [f"| | {' | '.join(TITLES.values())} |", "| --- " * (len(TITLES) + 1) + "|"]
    lines += [f"| {row['title']} | {' | '.join(row['cells'][name] for name in TITLES)} |" for row in table_rows(runs)]
    return "\n".join(lines)


def write_forgetting_page(results: Mapping[str, Any], path: Path) -> None:
    """Write `forgetting.html` for the results of `recipes/forgetting.py`; its picture also lies beside it, as SVG.

    Args:
        results: what the recipe puts into `forgetting.json`.
        path: the file to write; nothing is loaded from elsewhere.

    Raises:
        ValueError: matplotlib is missing.
    """
    runs = results["runs"]
    picture = _frontier(runs, results["skill"])
    path.with_name(f"{path.stem}_frontier.svg").write_text(picture, encoding="utf-8")
    template = resources.files("distill.reports.templates").joinpath("forgetting.html.jinja").read_text(encoding="utf-8")  # fmt: skip
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(template).render(
        **results,
        rows=table_rows(runs),
        titles=TITLES,
        verdict=verdict(runs),
        picture=picture,
        answers=_answers(runs),
        seeds=len({run["seed"] for run in runs}),
    )
    path.write_text(page, encoding="utf-8")


def _percent(share: Interval) -> str:
    return f"{100 * share.mean:.0f} [{100 * share.low:.0f} to {100 * share.high:.0f}]"


def _interval(found: Interval) -> str:
    return "0" if found == (0, 0, 0) else f"{found.mean:.3f} [{found.low:.3f} to {found.high:.3f}]"


def _frontier(runs: Sequence[Mapping[str, Any]], skill: str) -> str:
    """New skill upwards, change on old prompts to the right: up and to the left is better."""
    arms = arms_of(runs)

    def paint(axes: Any) -> None:
        line = sorted(
            [arms[START], *(arm for arm in arms.values() if arm.kind == "average"), arms[TAUGHT]],
            key=lambda arm: {START: 0.0, TAUGHT: 1.0}.get(arm.kind, arm.value),
        )
        axes.plot([a.kl("old").mean for a in line], [100 * a.share("skill").mean for a in line], "--", color=_COLOURS["average"], linewidth=1, alpha=0.7)  # fmt: skip
        for arm in arms.values():
            _point(axes, arm)
        axes.set(xlabel="KL to the start on old prompts, nats a token (less is less forgotten)", ylabel=f"new skill ({skill}), %", ylim=(-6, 106))  # fmt: skip
        axes.set_xlim(left=-0.04 * max(0.02, max(arm.kl("old").high for arm in arms.values())))
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, fontsize=10)

    return draw(paint, width=7.0, height=5.4, name="frontier")


def _point(axes: Any, arm: ArmResult) -> None:
    kl, share, colour = arm.kl("old"), arm.share("skill"), _COLOURS[arm.kind]
    y = 100 * share.mean
    axes.plot([kl.low, kl.high], [y, y], color=colour, linewidth=1.5, alpha=0.4)
    axes.plot([kl.mean] * 2, [100 * share.low, 100 * share.high], color=colour, linewidth=1.5, alpha=0.4)
    size = 7 if arm.kind in (START, TAUGHT, "control") else 5 + 5 * min(1.0, arm.value / (8 if arm.kind == "lora" else 1))  # fmt: skip
    axes.plot(kl.mean, y, _MARKS[arm.kind], color=colour, markersize=size, label=arm.title, linestyle="none")


def _answers(runs: Sequence[Mapping[str, Any]], most: int = 4) -> list[dict[str, Any]]:
    """Probes with what each arm said, of the first training: first of the skill, then old ones whose answer changed."""
    first = {name: arm.runs[0] for name, arm in arms_of(runs).items() if arm.kind != "control"}
    titles = {name: arm.title for name, arm in arms_of(runs).items()}
    shown = []
    for what, count in (("skill", 1), ("old", most - 1)):
        asked = list(zip(*(run[what] for run in first.values()), strict=True))
        asked.sort(key=lambda said: -len({one["right"] for one in said}))
        for said in asked[:count]:
            texts = {titles[name]: (one["text"], one["right"]) for name, one in zip(first, said, strict=True)}
            shown.append({"prompt": said[0]["prompt"], "ability": said[0]["ability"], "said": texts})
    return shown
