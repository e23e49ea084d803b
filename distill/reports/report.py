"""Numbers and pictures of a comparison -> one self-contained HTML file."""

import math
import statistics
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from distill.reports.pictures import draw

WAYS = {"black_box": "Black box", "white_box": "White box"}
ABLATION = {
    "white_box_hidden": "White box + hidden states",
    "white_box_attention": "White box + hidden states + attention",
}
_COLOURS = {"black_box": "#b4530a", "white_box": "#0b6e8f"}


def write_report(results: dict[str, Any], path: Path) -> None:
    """Write `report.html` for the results of `recipes/compare.py`.

    Args:
        results: what the recipe puts into `results.json`.
        path: the file to write; pictures are inside it, nothing is loaded from elsewhere.

    Raises:
        ValueError: matplotlib is missing.
    """
    template = resources.files("distill.reports.templates").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["amount"] = _amount
    by_way = {way: [run for run in results["runs"] if run["way"] == way] for way in WAYS}
    page = environment.from_string(template).render(
        **results,
        ways=WAYS,
        by_way=by_way,
        summary={way: summarise(runs) for way, runs in by_way.items()},
        ablation=ablation_rows(results["runs"]) if any(run["way"] in ABLATION for run in results["runs"]) else [],
        verdict=verdict(by_way),
        kl_by_step=_curves(by_way, "step", "optimiser steps"),
        kl_by_time=_curves(by_way, "seconds", "seconds spent in training steps"),
    )
    path.write_text(page, encoding="utf-8")


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over the seeds of one way, and the half range of the final KL over them."""
    finals = [run["final"] for run in runs]
    kls = [final["kl"] for final in finals]
    return {
        **{name: statistics.fmean(final[name] for final in finals) for name in ("kl", "kl_error", "top1", "loss")},
        "kl_half_range": (max(kls) - min(kls)) / 2,
        "seeds": len(runs),
        **{name: statistics.fmean(run[name] for run in runs) for name in ("seconds", "tokens")},
        # a later run starts with memory that earlier ones left to the allocator; the first one is the cleanest figure
        "peak_memory_gib": min(run["peak_memory_gib"] for run in runs),
    }


def ablation_rows(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line a way: the summary of its runs, and how its final KL compares with logits alone, seed by seed."""
    alone = {run["seed"]: run["final"]["kl"] for run in runs if run["way"] == "white_box"}
    rows = []
    for way, title in (WAYS | ABLATION).items():
        if mine := [run for run in runs if run["way"] == way]:
            apart = [run["final"]["kl"] - alone[run["seed"]] for run in mine]
            rows.append({"title": title, "apart": (min(apart), max(apart)), **summarise(mine)})
    return rows


def ablation_table(runs: list[dict[str, Any]]) -> str:
    """`ablation_rows` as Markdown."""
    lines = [
        "| objectives | KL, mean ± half range | against logits alone, by seed | same top token | training seconds |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in ablation_rows(runs):
        low, high = row["apart"]
        lines.append(
            f"| {row['title']} | {row['kl']:.3f} ± {row['kl_half_range']:.3f} | {low:+.3f} to {high:+.3f} | "
            f"{row['top1']:.1%} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def verdict(by_way: dict[str, list[dict[str, Any]]]) -> str:
    """Which way came nearer to the teacher, in one or two honest sentences."""
    black, white = (summarise(by_way[way]) for way in WAYS)
    (near, winner), (far, loser) = sorted([(black["kl"], "black box"), (white["kl"], "white box")])
    seconds = f"Its training steps took {white['seconds'] / black['seconds']:.2f} times as long as the black box's."
    seeds = black["seeds"]
    if seeds < 2:
        return (
            f"On this budget the {winner} came nearer to the teacher: {near:.3f} against {far:.3f} nats a token. That is one "
            f"seed; give --seeds 2 or more to see how much of the difference is chance. White box: {seconds.lower()}"
        )
    apart = [b["final"]["kl"] - w["final"]["kl"] for b, w in zip(*(by_way[way] for way in WAYS), strict=True)]
    if min(apart) <= 0 <= max(apart):
        return (
            f"On this budget neither way clearly won: black box {black['kl']:.3f}, white box {white['kl']:.3f} nats a token, "
            f"and the order is not the same in all {seeds} seeds. White box: {seconds.lower()}"
        )
    return (
        f"On this budget the {winner} came nearer to the teacher than the {loser}: {near:.3f} against {far:.3f} nats a token "
        f"(mean of {seeds} seeds), in every seed. White box: {seconds.lower()}"
    )


def _curves(by_way: dict[str, list[dict[str, Any]]], x: str, label: str) -> str:
    """Held-out KL against `x` as inline SVG: a thin line a seed, a thick one for their mean."""

    def paint(axes: Any) -> None:
        for way, runs in by_way.items():
            curves = [[(point[x], point["held_out"]["kl"]) for point in run["curve"]] for run in runs]
            for curve in curves:
                axes.plot(*zip(*curve, strict=True), color=_COLOURS[way], linewidth=1, alpha=0.45)
            mean = [tuple(map(statistics.fmean, zip(*points, strict=True))) for points in zip(*curves, strict=True)]
            axes.plot(*zip(*mean, strict=True), color=_COLOURS[way], linewidth=2.4, marker="o", label=WAYS[way])
        axes.set(xlabel=label, ylabel="KL(teacher || student), nats a token", ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False)

    return draw(paint, name=x)


def _amount(value: float, digits: int = 3) -> str:
    """A number for a table: `1.234`, or a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:,.{digits}f}"
