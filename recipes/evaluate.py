"""What tuning changed, and what it puts at risk: a student beside what it was before and who taught it, on one page with a verdict.

    distill evaluate runs/mine/student --against smollm2-135m --teacher my/teacher --pairs pairs.jsonl --held_out more.jsonl --output_dir runs/evaluation
    distill evaluate runs/demo/white_box-seed0/student --against cut --teacher smollm2-135m --pairs runs/demo/pairs.jsonl --held_out 24 more.jsonl

Writes `risk.html` (a page to attach to a release), `risk.json` and `risk.md` (a block for the model card). The exit status is 1 where a threshold is broken, or
is not shown to hold (--allow_unmeasured lets the latter pass). Interrupt it when you like: the same command goes on from there, and other thresholds are
held against what was measured.
"""

import dataclasses
import json
import random
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets

from distill import generate, load_pairs
from distill.basics.processes import say
from distill.basics.progress import Stages
from distill.basics.redact import clean
from distill.evaluation.risk import nearness, secrets, training_rows, what_it_can, what_was_kept
from distill.evaluation.risk.controls import Control, leak_controls, proves_nothing
from distill.evaluation.risk.figures import Figure
from distill.evaluation.risk.nearness import nearness_figures
from distill.evaluation.risk.secrets import planted_in, read_canaries, secret_figures
from distill.evaluation.risk.sides import Side, Sides
from distill.evaluation.risk.thresholds import is_broken, judge, read_thresholds
from distill.evaluation.risk.training_rows import Rows, membership_figure, overlap_figures
from distill.reports.card import put_block
from distill.reports.pictures import check_report_extra
from distill.reports.risk_card import BLOCK, risk_block
from distill.reports.risk_page import write_risk_page
from distill.reports.risk_words import verdict
from distill.running.environment import environment
from distill.running.evaluate_flags import EvaluateArguments
from distill.running.folder import RunFolder, one_sentence, write_json
from distill.running.parsing import parse
from distill.running.reading_flags import reading_of
from distill.running.stages import split_pairs

FIGURES = (
    nearness.KL[0], nearness.TOP1[0], *what_it_can.NAMES, *what_was_kept.SHOWN, training_rows.EMPTY[0], training_rows.TPR[0],
    training_rows.SHARE[0], training_rows.LONGEST[0], secrets.SAID[0], secrets.TPR[0], secrets.BITS[0],
)  # fmt: skip
SECONDS = {
    "nearness": 20.0,
    "abilities": 90.0,
    "old prompts": 90.0,
    "training pairs": 40.0,
    "answers": 60.0,
    "canaries": 240.0,
    "controls": 60.0,
}  # expected; only their ratios count


@one_sentence
def main(argv: list[str] | None = None) -> None:
    """Measure, judge, write, and end with the verdict's status."""
    given = list(sys.argv[1:] if argv is None else argv)
    flags = ["--student", *given] if given and not given[0].startswith("-") else given
    (asked,) = parse((EvaluateArguments,), flags, defaults={}, description=__doc__)
    check_report_extra()
    args, begun = asked.as_run(), time.monotonic()
    thresholds = read_thresholds(args.thresholds, FIGURES)
    canaries = None if args.canaries is None else read_canaries(args.canaries)
    sides = Sides(str(args.student), str(args.against), args.teacher)
    pairs, held_out = _pairs(args, sides)
    planted = None if canaries is None else planted_in(pairs, canaries)
    rows = None if pairs is None else Rows.of(pairs, held_out, args.most_pairs, args.seed)
    run = RunFolder(args.output_dir, args.settings(sides))
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "nearness": lambda: _found(nearness_figures(sides, held_out)),
        "abilities": lambda: _abilities(sides, args),
        "old prompts": lambda: _found(_old(sides, held_out, args, run)),
        "training pairs": lambda: _membership(sides, rows),
        "answers": lambda: _overlap(sides, rows, args, run),
        "canaries": lambda: _found(*secret_figures(sides, canaries, planted, samples=args.samples)),
        "controls": lambda: _found([], leak_controls(sides.base)),
    }
    stages = Stages([(name, SECONDS[name]) for name in parts])
    found: dict[str, dict[str, Any]] = {}
    for name, make in parts.items():
        with stages.stage(name):
            found[name] = _kept(run, name, make)
    controls = [Control(**one) for part in found.values() for one in part["controls"]]
    figures = doubted([Figure.of_dict(one) for part in found.values() for one in part["figures"]], controls)
    judged = judge(figures, thresholds)
    said = verdict(figures, judged, controls, allow_unmeasured=args.allow_unmeasured)
    results = {
        "models": sides.as_dict(),
        "verdict": {"state": said.state, "headline": said.headline, "proves_nothing": said.proves, "lines": said.lines},
        "figures": [one.as_dict() for one in figures],
        "thresholds": [one.as_dict() for one in judged],
        "controls": [dataclasses.asdict(one) for one in controls],
        "scores": found["training pairs"].get("scores", {}),
        "allow_unmeasured": args.allow_unmeasured,
        "quick": asked.quick,
        "settings": clean({name: value for name, value in vars(args).items() if value not in (None, False)}),
        "stages": [dataclasses.asdict(stage) for stage in stages.finished],
        "total_seconds": time.monotonic() - begun,
        "command": "distill evaluate " + shlex.join(map(str, given)),
        "environment": environment(),
    }
    write_json(run / "risk.json", results)
    write_risk_page(results, said, run / "risk.html")
    block = risk_block(results, said, judged)
    (run / "risk.md").write_text(block, encoding="utf-8")
    if args.card:
        put_block(Path(str(args.student)), BLOCK, block)
    say(f"\n{said.text()}\n\nOpen {(run / 'risk.html').resolve()}")
    if is_broken(judged, allow_unmeasured=args.allow_unmeasured):
        raise SystemExit(1)


def doubted(figures: list[Figure], controls: list[Control]) -> list[Figure]:
    """Figures of what is at risk, doubted where a control did not come out as it must."""
    why = proves_nothing(controls)
    if not why:
        return figures
    return [
        dataclasses.replace(one, doubted=one.doubted or "the controls did not come out as they must")
        if one.section == "risk" and one.is_measured
        else one
        for one in figures
    ]


def _pairs(args: EvaluateArguments, sides: Sides) -> tuple[datasets.Dataset | None, datasets.Dataset | None]:
    """Training pairs and held-out ones."""
    tokenizer, reading = sides.student.speaker.tokenizer, reading_of(args, args.output_dir)
    pairs = None if args.pairs is None else load_pairs(args.pairs, tokenizer, **reading)
    (counts, files), aside = args.held(), list[datasets.Dataset]()
    if counts:
        assert pairs is not None, "without pairs a number is refused"
        pairs, kept = split_pairs(pairs, counts[0])
        aside.append(kept)
    aside += [load_pairs(file, tokenizer) for file in files]
    if len(aside) > 1:  # of what they have in common
        shared = [name for name in aside[0].column_names if all(name in one.column_names for one in aside)]
        aside = [datasets.concatenate_datasets([one.select_columns(shared) for one in aside])]
    return pairs, aside[0] if aside else None


def _kept(run: RunFolder, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a part measured, from its file where it is there already."""
    file = run / f"{name.replace(' ', '_')}.json"
    if not file.is_file():
        write_json(file, make())
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _found(figures: list[Figure], controls: Sequence[Control] = (), **more: Any) -> dict[str, Any]:
    return {
        "figures": [one.as_dict() for one in figures], "controls": [dataclasses.asdict(one) for one in controls], **more,
    }  # fmt: skip


def _abilities(sides: Sides, args: EvaluateArguments) -> dict[str, Any]:
    """What each model can do."""
    figures, answers = what_it_can.ability_figures(sides, args.chosen(), args.n, args.seed, args.ability_settings())
    return _found(figures, answers=answers)


def _old(sides: Sides, held_out: datasets.Dataset | None, args: EvaluateArguments, run: RunFolder) -> list[Figure]:
    """What was kept of the base, on text of the user's or on its own."""
    try:
        old = (
            what_was_kept.old_pairs(
                sides, args.old_prompts, run / "old", max_new_tokens=args.max_new_tokens, seed=args.seed
            )
            if args.old is None
            else load_pairs(args.old, sides.base.speaker.tokenizer, limit=args.old_prompts)
        )
    except ValueError as error:
        if args.old is not None:
            raise
        return what_was_kept.not_kept(f"no prompts could be written ({error}); name general text with --old")
    return what_was_kept.kept_figures(
        sides, old, held_out, own_text=args.old is None, answered=args.old_prompts, max_new_tokens=args.max_new_tokens
    )


def _membership(sides: Sides, rows: Rows | None) -> dict[str, Any]:
    """Whether training pairs can be told from others; and whether the base seems to tell them, which it cannot."""
    figure, scores, untrained = membership_figure(sides, rows)
    return _found([figure], [untrained] if untrained else [], scores=scores)


def _overlap(sides: Sides, rows: Rows | None, args: EvaluateArguments, run: RunFolder) -> dict[str, Any]:
    """What the models answer to training prompts, and how much of it stands in training completions."""
    if rows is None:
        return _found(overlap_figures(None, {})[0])
    prompts = list(rows.members["prompt"])
    drawn = sorted(random.Random(f"answers {args.seed}").sample(range(len(prompts)), min(args.answers, len(prompts))))
    answers = {side.key: _answers(side, [prompts[i] for i in drawn], args, run) for side in sides}
    figures, stretches = overlap_figures(rows, answers)
    return _found(figures, stretches=stretches)


def _answers(side: Side, prompts: list[Any], args: EvaluateArguments, run: RunFolder) -> list[str]:
    """A side's most likely answers; kept as they come."""
    say(f"Asking the {side.key}.")
    pairs = generate(
        side.speaker, prompts, max_new_tokens=args.max_new_tokens, temperature=0.0, batch_size=20, allow_refusals=True,
        output=run / f"answers_{side.key}.jsonl",
    )  # fmt: skip
    return list(pairs["completion"])


if __name__ == "__main__":
    main()
