"""What `bench_scaling.py` measured, as pictures and tables."""

from pathlib import Path
from typing import Any

from measuring import table
from slopes import fit_line, fit_square, picture

from distill.reports.pictures import draw

MARK = "<!-- Written by scripts/bench_scaling.py from here on. -->"
SFT, TEACHER, WHITE = "SFT step", "teacher forward", "white box, logits"
FLOOR, PLANNED = "teacher forward + SFT step", "by distill plan"
LABELS = {
    "length": "T, tokens of the row",
    "vocabulary": "V, tokens of the vocabulary",
    "depth": "layers of the student (the teacher has twice as many)",
    "ratio": "layers of the teacher over layers of the student",
}


def write_pictures(kept: dict[str, Any], folder: Path) -> None:
    """`NAME_seconds.svg` and `NAME_memory.svg` of every axis, and `processes.svg`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, label in LABELS.items():
        if name not in kept:
            continue
        found = kept[name]
        x = found["x"]
        seconds, lines = dict(found["seconds"]), {}
        for way, values in seconds.items():
            lines[way] = curve(name, x, values)
        floor = {WHITE: [t + s for t, s in zip(seconds[TEACHER], seconds[SFT], strict=True)]}
        drawn = picture(seconds, x, (label, "seconds of one step"), f"{name} seconds", lines, floor, FLOOR)
        (folder / f"{name}_seconds.svg").write_text(drawn + "\n", encoding="utf-8")
        memory = found["MiB"]
        lines = {way: fit_line(x, values) for way, values in memory.items() if min(values) > 0}
        planned = {way: [one["MiB"] for one in points] for way, points in found["foreseen"].items()}
        drawn = picture(memory, x, (label, "MiB that a step adds"), f"{name} memory", lines, planned, PLANNED)
        (folder / f"{name}_memory.svg").write_text(drawn + "\n", encoding="utf-8")
    if "processes" in kept:
        (folder / "processes.svg").write_text(_processes_picture(kept["processes"]) + "\n", encoding="utf-8")


def curve(name: str, x: list[float], y: list[float]) -> Any:
    """A parabola for the length, where attention's square shows; a line for the rest."""
    if name != "length" or len(x) < 4:
        return fit_line(x, y)
    start, linear, square, _ = fit_square(x, y)
    return lambda value: start + linear * value + square * value**2


def _processes_picture(found: dict[str, Any]) -> str:
    """Seconds over those of one process alone: 1 is a perfect gain, the number of processes is none."""
    count, x = found["count"], found["x"]

    def paint(axes: Any) -> None:
        for number, (way, manners) in enumerate(found["seconds"].items()):
            for manner, line in (("each for itself", "--"), ("DDP", "-")):
                ratios = [two / one for two, one in zip(manners[manner], manners["one alone"], strict=True)]
                axes.plot(x, ratios, line, marker="o", color=f"C{number}", label=f"{way}, {count}, {manner}")
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, [f"{value:,}" for value in x])
        axes.minorticks_off()
        axes.set_ylim(0.9, count + 0.1)
        axes.set_xlabel("T, tokens of each process's row")
        axes.set_ylabel("seconds over one process alone")
        axes.legend(fontsize=9, frameon=False)

    return draw(paint, name="processes")


def write_tables(kept: dict[str, Any], page: Path) -> str:
    """The tables, below the mark of the page; what people wrote above it stays."""
    parts = [f"## Tables\n\n{kept['machine']}; one thread."]
    for name, label in LABELS.items():
        if name in kept:
            parts.append(f"### {name}: {label}\n\n{_slopes(name, kept[name])}\n{_points(kept[name])}")
    if "length" in kept and len(kept["length"]["x"]) > 3:
        parts.append(f"### where T^2 shows\n\n{_squares(kept['length'])}")
    if "ratio" in kept:
        parts.append(f"### beside the floor 1 + P_t / (3 P_s)\n\n{_floor(kept['ratio'])}")
    if "processes" in kept:
        parts.append(f"### processes\n\n{_processes(kept['processes'])}")
    text = "\n\n".join(part.strip() for part in parts) + "\n"
    above = page.read_text(encoding="utf-8").partition(MARK)[0] if page.is_file() else "# How a step grows\n\n"
    page.write_text(f"{above}{MARK}\n\n{text}", encoding="utf-8")
    return text


def _slopes(name: str, found: dict[str, Any]) -> str:
    rows = []
    for what, unit in (("seconds", "ms"), ("MiB", "MiB")):
        for way, values in found[what].items():
            if min(values) <= 0:
                rows.append([way, unit, "-", "-", "-", "-", "-"])
                continue
            line, scale = fit_line(found["x"], values), 1000 if unit == "ms" else 1
            step = 1 if found["x"][-1] < 100 else 1024
            figures = [f"{line.start * scale:,.1f}", f"{line.slope * step * scale:,.2f}", f"{line.residual:.0%}"]
            rows.append([way, unit, *figures, f"{line.exponent:.2f}", f"{line.last:.2f}"])
    each = "for each 1" if found["x"][-1] < 100 else "for each 1,024"
    return table(
        ["way", "unit", "at 0", each, "largest residual", "exponent, all points", "exponent, last doubling"], rows
    )


def _points(found: dict[str, Any]) -> str:
    rows = []
    for way, values in found["seconds"].items():
        rows.append([way, "seconds", *(f"{value:.3f}" for value in values)])
    floor = [t + s for t, s in zip(found["seconds"][TEACHER], found["seconds"][SFT], strict=True)]
    ratios = [w / f for w, f in zip(found["seconds"][WHITE], floor, strict=True)]
    rows.append([WHITE, "over (teacher forward + SFT step)", *(f"{ratio:.2f}" for ratio in ratios)])
    for way, values in found["MiB"].items():
        rows.append([way, "MiB", *(f"{value:,.0f}" for value in values)])
    for way, points in found["foreseen"].items():
        rows.append([way, "MiB by the plan", *(f"{one['MiB']:,.0f}" for one in points)])
    return table(["way", "", *(f"{value:,}" for value in found["x"])], rows)


def _squares(found: dict[str, Any]) -> str:
    rows = []
    for way, values in found["seconds"].items():
        start, linear, square, residual = fit_square(found["x"], values)
        equal = f"{linear / square:,.0f}" if square else "never"
        rows.append([way, f"{start * 1e3:.1f}", f"{linear * 1e6:.1f}", f"{square * 1e9:.2f}", f"{residual:.0%}", equal])
    return table(["way", "ms", "us * T", "ns * T^2", "largest residual", "both equal at T"], rows)


def _floor(found: dict[str, Any]) -> str:
    rows = []
    sft = found["seconds"][SFT]
    for i, value in enumerate(found["x"]):
        foreseen, plain = found["foreseen"][WHITE][i], found["foreseen"][SFT][i]
        counted = 1 + foreseen["teacher TFLOP"] / plain["TFLOP"]
        clock = 1 + found["seconds"][TEACHER][i] / sft[i]
        ours = (foreseen["teacher TFLOP"] + foreseen["TFLOP"]) / plain["TFLOP"]
        seen = found["seconds"][WHITE][i] / sft[i]
        rows.append([str(value), f"{counted:.2f}", f"{clock:.2f}", f"{ours:.2f}", f"{seen:.2f}"])
    return table(
        ["teacher's layers over student's", "floor, counted", "floor, timed", "white box, counted", "white box, timed"],
        rows,
    )


def _processes(found: dict[str, Any]) -> str:
    rows = []
    for way, manners in found["seconds"].items():
        for i, length in enumerate(found["x"]):
            alone, apart, together = (manners[name][i] for name in ("one alone", "each for itself", "DDP"))
            times = [f"{value:.3f}" for value in (alone, apart, together)]
            shares = [f"{found['count'] * alone / together:.2f}", f"{(together - apart) * 1000:,.0f}"]
            rows.append([way, f"{length:,}", *times, *shares])
    both = f"{found['count']} processes"
    columns = [
        "way", "T of each", "one alone, s", f"{both}, each for itself, s", f"{both}, DDP, s", "tokens a second over one's",
        "exchange, ms",
    ]  # fmt: skip
    note = f"Gradients of {found['gradient bytes'] / 2**20:,.1f} MiB are exchanged in every step, over gloo.\n\n"
    return note + table(columns, rows)
