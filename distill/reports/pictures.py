"""Pictures as SVG text, to stand inside a page."""

import importlib.util
import io
from collections.abc import Callable
from typing import Any


def check_report_extra() -> None:
    """Raise `ValueError` if what draws the pictures is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("The report's pictures need the 'matplotlib' package: pip install 'distill[report]'.")


def draw(paint: Callable[[Any], None], width: float = 5.6, height: float = 3.7, name: str = "picture") -> str:
    """SVG of one pair of axes.

    Args:
        paint: draws on the axes it is given.
        width, height: in inches.
        name: makes the ids inside the SVG its own, so that several can stand in one page; the same name and data give the
            same file.

    Raises:
        ValueError: matplotlib is missing.
    """
    check_report_extra()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 11, "font.family": "sans-serif"}
    ):
        figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        paint(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]
