"""Fidelity drawn: the error of the student's gradient against the bytes that a stored token takes."""

from typing import Any

from distill.reports.pictures import draw

_NAMES = {"hidden": "hidden states", "threshold": "threshold sampling", "draws": "draws", "top": "top and a bucket"}


def fidelity_picture(found: dict[str, Any], name: str = "fidelity") -> str:
    """SVG of `Fidelity.as_dict()`: one line an encoding, filled for all parameters, open at the head's input.

    Args:
        found: of `distill.evaluation.fidelity`.
        name: makes the ids inside the SVG its own.

    Raises:
        ValueError: matplotlib is missing.
    """

    def paint(axes: Any) -> None:
        for number, (kind, title) in enumerate(_NAMES.items()):
            rows = [row for row in found["rows"] if row["encoding"].partition(":")[0] == kind]
            rows.sort(key=lambda row: row["bytes"])
            sizes = [row["bytes"] for row in rows]
            for error, style, fill in (("head_error", ":", "none"), ("parameter_error", "-", None)):
                # an error of exactly 0 has no place on this axis; it stands at its lower end
                heights = [max(row[error], 1e-4) for row in rows]
                label = title if error == "parameter_error" and rows else None
                look = {} if fill is None else {"markerfacecolor": fill}
                axes.plot(sizes, heights, style, marker="o", color=f"C{number}", label=label, **look)
        axes.set(xscale="log", yscale="log", xlabel="bytes a token", ylabel="relative error of the gradient")
        axes.legend(title="filled: all parameters\nopen: head, by position", fontsize="small", title_fontsize="small")

    return draw(paint, width=6.4, height=4.2, name=name)
