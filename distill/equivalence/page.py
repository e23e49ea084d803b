"""The sections as one self-contained HTML page, with their pictures."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from distill.equivalence.results import Section
from distill.reports.pictures import draw

TITLES = {
    "ladder": "Same program",
    "controls": "What must break the equality",
    "provenance": "Blind for where the text came from",
    "gradients": "Why it works: one gradient, three ways",
    "bridge": "The bridge from black box to white box",
    "law": "What a limited amount of text costs",
    "noise": "The noise floor",
    "hard_labels": "The hard-label limit",
    "breaks": "Where it breaks",
    "real": "On a real model",
    "sources": "Two sources of one text, on real students",
}
_BLACK, _WHITE, _GREY, _RED = "#b4530a", "#0b6e8f", "#5a6675", "#a3123a"
_KINDS = {"same": _WHITE, "rounding": _GREY, "convention": _BLACK, "control": _RED}


def write_page(sections: list[Section], facts: dict[str, Any], path: Path) -> None:
    """Write `equivalence.html`.

    Args:
        sections: those that were run.
        facts: `command`, `seconds`, `teacher`, `environment` (names and values).
        path: the file; each picture is also written beside it, as `NAME.svg`.

    Raises:
        ValueError: matplotlib is missing.
    """
    pictures = {section.name: draw_section(section) for section in sections if section.name in _PAINTERS}
    for name, svg in pictures.items():
        path.with_name(f"{name}.svg").write_text(svg, encoding="utf-8")
    template = (
        resources.files("distill.reports.templates").joinpath("equivalence.html.jinja").read_text(encoding="utf-8")
    )
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    claims = [claim for section in sections for claim in section.claims]
    page = environment.from_string(template).render(
        sections=sections,
        titles=TITLES,
        pictures=pictures,
        held=sum(claim.holds is True for claim in claims),
        failed=sum(claim.holds is False for claim in claims),
        untried=sum(claim.holds is None for claim in claims),
        **facts,
    )
    path.write_text(page, encoding="utf-8")


def draw_section(section: Section) -> str:
    """The picture of one section, as SVG."""
    paint, height = _PAINTERS[section.name]
    return draw(lambda axes: paint(axes, section.data), width=8.4, height=height, name=section.name)


def _ladder(axes: Any, data: dict[str, Any]) -> None:
    rungs = [r for r in data["rungs"] if r["distance"] is not None]
    same, others = [r for r in rungs if r["kind"] == "same"], [r for r in rungs if r["kind"] != "same"]
    programs = list(dict.fromkeys(r["name"] for r in same))
    largest = {name: max(r["distance"] for r in same if r["name"] == name) for name in programs}
    count = {name: sum(r["name"] == name for r in same) for name in programs}
    rows = [(f"{name} ({count[name]} settings)", "same", largest[name]) for name in programs]
    _dots(axes, rows + [(r["name"], r["kind"], r["distance"]) for r in others])
    axes.legend(frameon=False, loc="upper right", fontsize=9)


def _controls(axes: Any, data: dict[str, Any]) -> None:
    _dots(axes, [(c["name"], "control", c["distance"]) for c in data.get("controls", [])])


def _dots(axes: Any, rows: list[tuple[str, str, float]]) -> None:
    names = {"same": "same program", "rounding": "another order of addition", "convention": "another convention"}
    seen = set()
    for y, (_, kind, distance) in enumerate(rows):
        label = None if kind in seen else names.get(kind)
        seen.add(kind)
        axes.plot(max(distance, 1e-9), y, "o" if distance else "D", color=_KINDS[kind], markersize=8, label=label)
        note = "0, bit for bit" if distance == 0 else f"{distance:.1e}"
        axes.annotate(note, (max(distance, 1e-9), y), (8, -4), textcoords="offset points", fontsize=9, color=_GREY)
    axes.set(
        xscale="log", xlim=(4e-10, max(0.3, *(10 * distance for _, _, distance in rows))), ylim=(len(rows) - 0.5, -0.8),
        xlabel="largest difference of any parameter at the end (left edge: none)",
    )  # fmt: skip
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=10)


def _gradients(axes: Any, data: dict[str, Any]) -> None:
    axes.loglog(data["sizes"], data["errors"], "o", color=_BLACK, label="SFT on N completions, measured")
    axes.loglog(data["sizes"], data["predicted"], "-", color=_GREY, label="square root of variance / N, predicted")
    axes.set(xlabel="completions N", ylabel="relative error of the gradient")
    axes.legend(frameon=False)


def _bridge(axes: Any, data: dict[str, Any]) -> None:
    low, high = data["white_box"], data["sft"]
    axes.plot(data["counts"], data["variance"], "o", color=_BLACK, label="n tokens a position, measured")
    axes.plot(data["counts"], data["predicted"], color=_GREY, label="predicted: a + b / n")
    axes.axhline(high, color=_BLACK, linestyle=":", label="black box (exact)")
    axes.axhline(low, color=_WHITE, linestyle=":", label="white box, the whole vocabulary (exact)")
    axes.set(xlabel="tokens n seen at every position", ylabel="variance of the gradient", ylim=(0, None))
    axes.set_xscale("log", base=2)
    axes.legend(frameon=False)


def _law(axes: Any, data: dict[str, Any]) -> None:
    points = data["points"]
    sizes = [p["N"] for p in points]
    axes.loglog(
        [f["N"] for f in data["fits"]], [f["kl"] for f in data["fits"]], "o", color=_BLACK, label="BlackBoxTrainer"
    )
    axes.loglog(sizes, [p["predicted"] for p in points], color=_GREY, label=f"k / (2N), k = {data['k']}")
    axes.loglog([data["white_box"]["N"]], [data["white_box"]["kl"]], "D", color=_WHITE, label="WhiteBoxTrainer")
    axes.set(xlabel="tokens of the teacher's text N", ylabel="final KL, nats a token")
    axes.legend(frameon=False)


def _noise(axes: Any, data: dict[str, Any]) -> None:
    for (name, points), colour in zip(data["curves"].items(), (_BLACK, _WHITE), strict=True):
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=2, label=name)
    axes.plot(*zip(*data["predicted"], strict=True), color=_GREY, linestyle="--", label="black box, predicted")
    axes.set(xlabel="optimiser steps", ylabel="KL(teacher || student), nats a token")
    axes.legend(frameon=False)


def _hard_labels(axes: Any, data: dict[str, Any]) -> None:
    some = [(t, d) for t, d in zip(data["temperatures"], data["distances"], strict=True) if d > 0]
    axes.loglog(*zip(*some, strict=True), "o-", color=_WHITE)
    axes.set(xlabel="teacher's temperature", ylabel="distance to the SFT gradient")


def _breaks(axes: Any, data: dict[str, Any]) -> None:
    rows = data["practices"]
    floor = 1e-3
    colours = [_WHITE if row["error"] < floor else _BLACK for row in rows]
    axes.barh([row["name"] for row in rows], [max(row["error"], floor) for row in rows], color=colours)
    for y, row in enumerate(rows):
        text = f"{row['error']:.2g}" if row["error"] > 1e-12 else "0"
        axes.annotate(text, (max(row["error"], floor), y), (5, -4), textcoords="offset points", fontsize=9, color=_GREY)
    axes.set(xscale="log", xlim=(floor, 10), xlabel="relative error of the expected gradient")
    axes.invert_yaxis()


def _sources(axes: Any, data: dict[str, Any]) -> None:
    for (name, losses), colour in zip(data["losses"].items(), (_BLACK, _WHITE, _RED), strict=True):
        axes.plot(range(len(losses)), losses, "o-", color=colour, label=name)
    axes.set(xlabel="seed (order of the pairs)", ylabel="held-out loss, nats a token")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, fontsize=9)


_PAINTERS: dict[str, tuple[Callable[[Any, dict[str, Any]], None], float]] = {
    "ladder": (_ladder, 4.6),
    "controls": (_controls, 2.6),
    "gradients": (_gradients, 3.4),
    "bridge": (_bridge, 3.6),
    "law": (_law, 3.4),
    "noise": (_noise, 3.8),
    "hard_labels": (_hard_labels, 3.2),
    "breaks": (_breaks, 4.8),
    "sources": (_sources, 3.4),
}
