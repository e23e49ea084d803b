"""Pictures of a risk page: shares of every model side by side, and the scores by which training pairs may be told."""

from collections.abc import Mapping, Sequence
from typing import Any

from distill.evaluation.risk.figures import SIDES, Figure
from distill.reports.pictures import draw

COLOURS = {"student": "#c2570c", "base": "#7b8794", "teacher": "#0b7fa3"}  # told apart on white and on black
MARKS = {"student": "o", "base": "s", "teacher": "D"}
_WIDTH = 4.9  # inches: narrow, so that its letters are still read on a telephone


def shares_picture(figures: Sequence[Figure], limits: Mapping[str, float], name: str) -> str:
    """A line a figure: the share of each model with its interval, and the limit.

    Args:
        figures: measured ones of kind `share`.
        limits: by the figure's name.
        name: of the picture.
    """
    sides = [side for side in SIDES if any(side in one.of for one in figures)]
    step = 0.22

    def paint(axes: Any) -> None:
        for row, one in enumerate(figures):
            axes.text(0, row - 0.42, one.title, fontsize=10, va="bottom", transform=axes.get_yaxis_transform())
            for place, side in enumerate(side for side in sides if side in one.of):
                value, y = one.of[side], row - 0.2 + step * place
                if value.low is not None and value.high is not None:
                    axes.plot([100 * value.low, 100 * value.high], [y, y], color=COLOURS[side], linewidth=4, alpha=0.35)
                axes.plot(100 * value.value, y, MARKS[side], color=COLOURS[side], markersize=7)
            if one.name in limits:
                axes.plot([100 * limits[one.name]] * 2, [row - 0.35, row + 0.4], color="#a3123a", linestyle="--")
        for side in sides:
            axes.plot([], [], MARKS[side], color=COLOURS[side], label=SIDES[side])
        axes.set(ylim=(len(figures) - 0.4, -0.75), xlabel="%", yticks=[])
        if all(
            100 * (v.high if v.high is not None else v.value) > 15 or v.value > 0.15
            for one in figures
            for v in one.of.values()
        ):
            axes.set_xlim(-2, 102)
        else:
            axes.set_xlim(left=-1)
        axes.spines["left"].set_visible(False)
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)

    return draw(paint, width=_WIDTH, height=1.1 + 0.78 * len(figures), name=f"risk-{name}")


def scores_picture(scores: Mapping[str, Any]) -> str:
    """Two hills: scores of training pairs, and of pairs that were not trained on.

    Args:
        scores: `members` and `controls`, in nats a byte.
    """
    import numpy as np

    both = np.concatenate([scores["members"], scores["controls"]])
    low, high = np.quantile(both, [0.005, 0.995])
    edges = np.linspace(low, high if high > low else low + 1e-6, 25)

    def paint(axes: Any) -> None:
        for key, title, colour in (
            ("members", "trained on", COLOURS["student"]),
            ("controls", "not trained on", COLOURS["base"]),
        ):
            values = np.clip(scores[key], edges[0], edges[-1])
            axes.hist(
                values, edges, weights=np.full(len(values), 100 / len(values)), histtype="stepfilled",
                color=colour, alpha=0.45, edgecolor=colour, label=f"{title} ({len(values)})",
            )  # fmt: skip
        axes.set(xlabel="likelier than to the base, nats a byte", ylabel="% of pairs")
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    return draw(paint, width=_WIDTH, height=3.1, name="risk-scores")
