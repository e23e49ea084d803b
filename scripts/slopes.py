"""Straight lines and powers through measured points, and pictures of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from distill.reports.pictures import draw


@dataclass(frozen=True)
class Line:
    """y = start + slope * x, where both are 0 or more, fitted to *relative* errors, so that small points count as much as large ones.

    Args:
        start: y at x = 0: what does not grow with x.
        slope: y for each x.
        residual: the largest |fitted / measured - 1|.
        exponent: of y ~ x^exponent over all points: below 1 where `start` is large.
        last: the same over the last two points, where `start` weighs least.
    """

    start: float
    slope: float
    residual: float
    exponent: float
    last: float

    def __call__(self, x: float) -> float:
        return self.start + self.slope * x


def fit_line(x: Sequence[float], y: Sequence[float]) -> Line:
    """The line through points with x and y above 0.

    Raises:
        ValueError: fewer than three points, or one that is not above 0.
    """
    if len(x) != len(y) or len(x) < 3:
        raise ValueError(f"{len(x)} and {len(y)} values; a line through fewer than three points shows nothing.")
    if min(*x, *y) <= 0:
        raise ValueError(f"x {list(x)} and y {list(y)} must be above 0.")
    xs, ys = numpy.asarray(x, dtype=float), numpy.asarray(y, dtype=float)
    start, slope = _non_negative(numpy.stack([1 / ys, xs / ys], axis=1), numpy.ones_like(ys))
    residual = numpy.abs((start + slope * xs) / ys - 1).max()
    exponent = numpy.polyfit(numpy.log(xs), numpy.log(ys), 1)[0]
    last = numpy.log(ys[-1] / ys[-2]) / numpy.log(xs[-1] / xs[-2])
    return Line(float(start), float(slope), float(residual), float(exponent), float(last))


def fit_square(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float, float]:
    """start, linear and square coefficient of the non-negative parabola through the points, and its largest relative residual."""
    xs, ys = numpy.asarray(x, dtype=float), numpy.asarray(y, dtype=float)
    found = _non_negative(numpy.stack([1 / ys, xs / ys, xs**2 / ys], axis=1), numpy.ones_like(ys))
    fitted = found[0] + found[1] * xs + found[2] * xs**2
    return float(found[0]), float(found[1]), float(found[2]), float(numpy.abs(fitted / ys - 1).max())


def _non_negative(columns: Any, target: Any) -> Any:
    """Least squares with coefficients of 0 or more; of so few columns every subset can be tried."""
    count = columns.shape[1]
    best, found = float("inf"), numpy.zeros(count)
    for subset in range(1, 2**count):
        kept = [i for i in range(count) if subset >> i & 1]
        part = numpy.linalg.lstsq(columns[:, kept], target, rcond=None)[0]
        error = float(numpy.square(columns[:, kept] @ part - target).sum())
        if (part >= 0).all() and error < best:
            best, found = error, numpy.zeros(count)
            found[kept] = part
    return found


def picture(
    points: dict[str, list[float]],
    x: Sequence[float],
    labels: tuple[str, str],
    name: str,
    lines: dict[str, Callable[[float], float]],
    dashed: dict[str, list[float]] | None = None,
    dashed_label: str = "",
) -> str:
    """SVG on doubly logarithmic axes: measured points, the line fitted to each, and dashed what was foreseen.

    Args:
        points: what was measured, by way.
        x: where.
        labels: of the axes.
        name: of the picture.
        lines: fitted, by way.
        dashed: foreseen at `x`, by way.
        dashed_label: what that is, for the legend.
    """

    def paint(axes: Any) -> None:
        from matplotlib.ticker import LogLocator

        fine = numpy.geomspace(x[0], x[-1], 60)
        for number, (way, values) in enumerate(points.items()):
            colour = f"C{number}"
            axes.plot(x, values, "o", color=colour, label=way, markersize=5)
            if way in lines:
                axes.plot(fine, [lines[way](value) for value in fine], color=colour, linewidth=1)
            if dashed and way in dashed:
                axes.plot(x, dashed[way], "--", color=colour, linewidth=1.2)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.set_xticks(list(x), [f"{value:,}" if value < 10_000 else f"{value / 1024:g}k" for value in x])
        axes.yaxis.set_major_formatter("{x:g}")
        if dashed:
            axes.plot([], [], "--", color="0.4", label=dashed_label)
        axes.minorticks_off()
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))

    return draw(paint, width=7.4, name=name)
