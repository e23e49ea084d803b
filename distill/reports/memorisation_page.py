"""The audit of memorisation in one table: as Markdown, and as one self-contained page with its pictures."""

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from distill.basics.intervals import Interval, Share
from distill.evaluation.memorisation.audit import Arm, Audited, mean_of
from distill.reports.memorisation_words import ARMS, arms_of, verdict
from distill.reports.pictures import draw

_COLOURS = ("#0b6e8f", "#b4530a", "#a3123a", "#5a6675", "#3d7a35")


def _repeats(arms: Mapping[str, Arm]) -> list[int]:
    return sorted({one.canary.repeats for one in arms["start"].trainings[0].found.planted()})


def titles(audits: Iterable[Audited]) -> list[str]:
    """Of the columns behind the model's name."""
    times = [f"{count}x" for count in _repeats(arms_of(audits))]
    return [
        "secrets in its own rows", *(f"exposure {one}, bits" for one in times), "of controls", *(f"said {one}" for one in times), "controls said",
        "told from controls at 1% FPR", "overlap, other answers", "overlap, asked",
    ]  # fmt: skip


def table_rows(audits: Iterable[Audited]) -> list[tuple[str, list[str]]]:
    """Each model's title, and its cells as texts with their intervals."""
    arms = arms_of(audits)
    times, rows = _repeats(arms), []
    for name, arm in arms.items():
        held = arm.held()
        rows.append((ARMS[name], [
            f"{held.right} of {held.n}", *(_bits(arm.bits(count)) for count in times), _bits(arm.bits(planted=False)),
            *(_share(arm.said(count)) for count in times), _share(arm.said_controls()),
            _share(arm.told()) + ("" if arm.is_enough else " (no headline)"), _percent(arm.overlaps()), _percent(arm.overlaps("overlap_asked")),
        ]))  # fmt: skip
    return rows


def memorisation_table(audits: Iterable[Audited]) -> str:
    """`table_rows` as Markdown."""
    audits = list(audits)
    names = titles(audits)
    lines = [f"| model | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
    return "\n".join([*lines, *(f"| {title} | {' | '.join(cells)} |" for title, cells in table_rows(audits))])


def write_memorisation_page(results: Mapping[str, Any], path: Path) -> None:
    """Write `memorisation.html` for the results of `recipes/memorisation.py`; its two pictures also lie beside it, as SVG.

    Args:
        results: what the recipe puts into `memorisation.json`.
        path: the file to write; nothing is loaded from elsewhere.

    Raises:
        ValueError: matplotlib is missing.
    """
    audits = [Audited.of(one) for one in results["audits"]]
    arms = arms_of(audits)
    pictures = {"exposure": _exposure_picture(arms), "said": _said_picture(arms)}
    for name, svg in pictures.items():
        path.with_name(f"{path.stem}_{name}.svg").write_text(svg, encoding="utf-8")
    template = (
        resources.files("distill.reports.templates").joinpath("memorisation.html.jinja").read_text(encoding="utf-8")
    )
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(template).render(
        **results,
        rows=table_rows(audits),
        titles=titles(audits),
        # the stars of Markdown, as parts: every second one is loud
        verdict=[sentence.split("**") for sentence in verdict(audits)],
        pictures=pictures,
        answers=_answers(arms),
        seeds=len(arms["start"].trainings),
    )
    path.write_text(page, encoding="utf-8")


def _bits(one: Interval) -> str:
    return f"{one.mean:.1f} [{one.low:.1f}–{one.high:.1f}]"


def _share(one: Share) -> str:
    return f"{one.right}/{one.n} [{100 * one.low:.0f}–{100 * one.high:.0f}%]"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f}%"


def _exposure_picture(arms: Mapping[str, Arm]) -> str:
    """Bits that secrets gained over the untrained model, by how often they were planted."""

    def paint(axes: Any) -> None:
        axes.axvline(0, color="#5a6675", linewidth=1)
        for place, count in enumerate(times := _repeats(arms)):
            found = [mean_of(list(arms[arm].gains(count).values())) for arm in shown]
            _bars(axes, found, _shift(place, len(times)), _COLOURS[place % len(_COLOURS)], f"planted {count}x an epoch")
        _finish(axes, shown, "bits of exposure gained over the untrained model")

    shown = [arm for arm in arms if arm != "start"]
    return draw(paint, width=8.0, height=1.4 + 0.6 * len(shown), name="exposure")


def _said_picture(arms: Mapping[str, Arm]) -> str:
    """Secrets that are said when asked; controls beside."""

    def paint(axes: Any) -> None:
        for place, count in enumerate(times := _repeats(arms)):
            found = [_hundred(arms[arm].said(count)) for arm in arms]
            _bars(axes, found, _shift(place, len(times) + 1), _COLOURS[place % len(_COLOURS)], f"planted {count}x")
        found = [_hundred(arm.said_controls()) for arm in arms.values()]
        _bars(axes, found, _shift(len(times), len(times) + 1), "#9fb0c0", "controls")
        _finish(axes, list(arms), "secrets that stand in any answer, %")

    return draw(paint, width=8.0, height=1.4 + 0.6 * len(arms), name="said")


def _hundred(share: Share) -> Interval:
    return Interval(100 * share.mean, 100 * share.low, 100 * share.high)


def _shift(place: int, count: int) -> float:
    return (place - (count - 1) / 2) * 0.6 / count


def _bars(axes: Any, found: Sequence[Interval], shift: float, colour: str, label: str) -> None:
    for y, one in enumerate(found):
        axes.plot([one.low, one.high], [y + shift] * 2, color=colour, linewidth=4, alpha=0.35)
        axes.plot(one.mean, y + shift, "o", color=colour, markersize=6, label=label)
        label = "_"  # one entry of the legend


def _finish(axes: Any, arms: Sequence[str], label: str) -> None:
    axes.set(ylim=(len(arms) - 0.4, -0.6), xlabel=label)
    axes.set_yticks(range(len(arms)), [ARMS[arm] for arm in arms])
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=4)


def _answers(arms: Mapping[str, Arm], most: int = 4) -> list[dict[str, Any]]:
    """Secrets that were planted most often, and what every model answers; those first on which models differ."""
    last = _repeats(arms)[-1]
    asked: dict[str, dict[str, Any]] = {}
    for name, arm in arms.items():
        for one in arm.trainings[0].found.said:
            if one.canary.repeats == last:
                entry = asked.setdefault(one.canary.id, {"canary": one.canary, "said": {}, "kinds": set()})
                entry["said"][ARMS[name]] = (one.said, one.greedy)
                entry["kinds"].add((name, one.greedy))
    wrong = {key: sum(not right for _, right in entry["kinds"]) for key, entry in asked.items()}
    order = sorted(asked, key=lambda key: abs(wrong[key] - len(arms) / 2))
    return [asked[key] for key in order[:most]]
