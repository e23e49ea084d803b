"""Seven published findings about distillation, tried again on one small bed: tables, verdicts that are computed from the figures, a picture.

    python scripts/findings.py --output runs/findings          # the embedded model, a student of 24 of its 30 layers, three seeds; goes on where it stopped
    python scripts/findings.py --output runs/small --steps 2 --batch 2 --seeds 2 --held_out 4 --start_steps 1 --new_tokens 8     # the plumbing

Every difference is taken between arms of the same seed (the same prompts in the same order) and has Student's t interval over seeds. A statement "came out"
where the whole interval says so, "did not" where the whole interval says the opposite, and else "cannot be told at this size". The control, a teacher whose
positions were shuffled, must lose half of the gain and more; where it does not, no verdict is worth anything, and the script says so and fails.
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from findings_arms import arms
from findings_bed import FIGURES, Bed
from findings_verdicts import BOTH, CAME, FINDINGS, Figures, control, overall
from measuring import machine, table

from distill.basics.processes import say
from distill.evaluation.accuracy import Interval, over_seeds
from distill.reports.pictures import draw
from distill.teachers import LocalTeacher


def shown(interval: Interval, signed: bool = False) -> str:
    """`0.12 ± 0.03`."""
    return f"{interval.middle:{'+' if signed else ''}.3f}" + (
        "" if interval.half == float("inf") else f" ± {interval.half:.3f}"
    )


def written(figures: Figures) -> str:
    """Markdown: the arms, the comparisons, the verdicts."""
    rows = [
        [arm, *(shown(over_seeds(figures.of(arm, name))) for name in FIGURES), f"{statistics.fmean(figures.of(arm, 'ended')):.2f}",
         f"{statistics.fmean(figures.of(arm, 'tokens')):,.0f}"]
        for arm in figures.found
    ]  # fmt: skip
    text = [table(["arm", *FIGURES.values(), "ended", "tokens learned from"], rows)]
    verdicts, comparisons = [], []
    for number, finding in enumerate(FINDINGS, 1):
        tests = finding.tests(figures)
        verdicts.append([str(number), finding.title, finding.papers, f"**{overall(tests)}**"])
        sides = {"above": "above", "below": "below", "apart": "further from 0 than"}
        comparisons += [
            [
                str(number),
                test.what,
                shown(test.interval, True),
                f"{sides[test.expected]} {test.bound:.3g}",
                test.verdict,
            ]
            for test in tests
        ]
    must = control(figures)
    comparisons.append(["control", must.what, shown(must.interval, True), f"above {must.bound:.3g}", must.verdict])
    text.append(table(["", "finding", "who says so", "here"], verdicts))
    text.append(table(["", "comparison", "seen, 95% over seeds", "expected", ""], comparisons))
    return "\n".join(text)


def picture(figures: Figures) -> str:
    """SVG: KL of every arm at its end, on both texts, with intervals; lines at the start and at the live forward KL."""
    names = list(figures.found)[1:]

    def paint(axes: Any) -> None:
        for shift, (name, colour) in zip((-0.15, 0.15), zip(BOTH, ("#1f77b4", "#d95f02"), strict=True), strict=True):
            found = [over_seeds(figures.of(arm, name)) for arm in names]
            halves = [0.0 if one.half == float("inf") else one.half for one in found]
            places = [place + shift for place in range(len(names))]
            axes.errorbar(
                [one.middle for one in found],
                places,
                xerr=halves,
                fmt="o",
                ms=4,
                capsize=2,
                color=colour,
                label=FIGURES[name],
            )
            for arm, style in (("the start", ":"), ("forward KL", "-")):
                axes.axvline(over_seeds(figures.of(arm, name)).middle, color=colour, ls=style, lw=0.8)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel("held-out KL, nats a token (dotted: the start; line: live forward KL)")
        axes.legend(loc="upper center", bbox_to_anchor=(0.3, 1.12), fontsize=9, frameon=False)

    return draw(paint, width=8.0, height=6.4, name="findings")


def main() -> None:
    """Arms and seeds; then tables, verdicts and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--teacher", default="smollm2-135m")
    parser.add_argument("--layers", type=int, default=24, help="of the student")
    parser.add_argument("--held_out", type=int, default=24)
    parser.add_argument("--new_tokens", type=int, default=24)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--start_steps", type=int, default=4, help="of fine-tuning on the teacher's text, for all arms alike"
    )
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--stored_tokens", type=int, default=12, help="that a stored position has")
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    parser.add_argument(
        "--trained", default="down_proj", help="only weights whose name has this in it are trained; empty: all"
    )
    parser.add_argument("--seeds", type=int, default=3)
    flags = parser.parse_args()
    flags.output.mkdir(parents=True, exist_ok=True)
    bed, table_of = Bed(flags, LocalTeacher(flags.teacher, chat=False)), arms(flags.stored_tokens)
    found: dict[str, list[Any]] = {name: [] for name in table_of}
    for seed in range(flags.seeds):
        for name, arm in table_of.items():
            found[name].append(bed.run(name, arm, seed)["points"])
            say(f"seed {seed}, {name}: {found[name][-1][-1]}")
    figures = Figures(found)
    head = f"{machine('cpu')}; {flags.layers} layers, {flags.seeds} seeds, {flags.steps} steps of {flags.batch} rows, {flags.new_tokens} new tokens, {flags.held_out} held-out pairs\n\n"
    (flags.output / "findings.md").write_text(head + written(figures), encoding="utf-8")
    (flags.output / "findings.svg").write_text(picture(figures), encoding="utf-8")
    (flags.output / "findings.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    say(head + written(figures))
    if flags.seeds > 1 and control(figures).verdict != CAME:
        sys.exit(
            f"The control did not fail as it must: {control(figures).what} is {shown(control(figures).interval, True)}. Nothing above can be believed."
        )


if __name__ == "__main__":
    main()
