"""How many held-out questions a model answers correctly, and how sure that figure is."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.basics.intervals import wilson
from distill.curation.verifiers import Verifier, verify
from distill.generation.asking import generate
from distill.teachers.local import LocalTeacher


@dataclass(frozen=True)
class Accuracy:
    """Share of held-out questions that were answered correctly.

    Args:
        correct: of each question, in the order of the rows.
        ended: share of the completions that ended by themselves.
        errors: completions the verifier could not score; they count as wrong.
        completions: the texts.
    """

    correct: list[bool]
    ended: float
    errors: int
    completions: list[str]

    @property
    def mean(self) -> float:
        """The share."""
        return sum(self.correct) / len(self.correct)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `Accuracy(**values)` takes them back."""
        return asdict(self)


def accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    verifier: Verifier,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = True,
    timeout: float | None = None,
) -> Accuracy:
    """Let a model answer held-out questions, one completion each, and score them.

    Args:
        model, tokenizer: who answers.
        rows: prompt rows, as for `distill.curation.verifiers.verify`.
        verifier: `(row, completion) -> score`; 1 or more is correct.
        max_new_tokens, temperature, top_p, seed, batch_size: of the answers; by default the most likely tokens.
        progress: show a progress bar.
        timeout: seconds for one score, see `verify`.

    Raises:
        ValueError: no rows, or prompts that repeat.

    Example:
        >>> accuracy(student, tokenizer, rows, number_match(), max_new_tokens=40).mean
    """
    drawn = generate(
        LocalTeacher(model, tokenizer),
        [row["prompt"] for row in rows],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    if len(drawn) != len(rows):
        raise ValueError(f"{len(rows) - len(drawn)} of {len(rows)} held-out prompts repeat others; give each once.")
    scored = verify(drawn, rows, verifier, tokenizer=tokenizer, timeout=timeout)
    return Accuracy(
        correct=[score is not None and score >= 1 for score in scored["score"]],
        ended=scored["finish_reason"].count("stop") / len(scored),
        errors=sum(error is not None for error in scored["score_error"]),
        completions=list(scored["completion"]),
    )


class Interval(NamedTuple):
    """A 95% interval as its middle and half its width; the width is infinite where nothing is known of it."""

    middle: float
    half: float

    def __str__(self) -> str:
        return f"{self.middle:.1%}" + (f" ± {self.half:.1%}" if math.isfinite(self.half) else "")


def over_seeds(values: Sequence[float]) -> Interval:
    """Mean over seeds with Student's t interval; the units are the seeds.

    Raises:
        ValueError: no values; scipy is missing.
    """
    if not values:
        raise ValueError("There are no values to take a mean of.")
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Interval(mean, math.inf)
    try:
        from scipy import stats
    except ImportError:
        raise ValueError("An interval over seeds needs the 'scipy' package: pip install 'distill[report]'.") from None
    wide = float(stats.t.ppf(0.975, len(values) - 1))
    return Interval(mean, wide * statistics.stdev(values) / math.sqrt(len(values)))


def over_questions(correct: Sequence[bool]) -> Interval:
    """Wilson's score interval of a share of correct answers; the units are the questions (Wilson 1927).

    Its middle lies a little nearer to one half than the share itself.

    Raises:
        ValueError: no answers.
    """
    if not correct:
        raise ValueError("There are no answers to take a share of.")
    low, high = wilson(sum(correct) / len(correct), len(correct))
    return Interval((low + high) / 2, (high - low) / 2)


def accuracy_table(untrained: Mapping[str, Accuracy], trained: Mapping[str, Sequence[Accuracy]]) -> str:
    """A Markdown table of models that were not trained and of students, each trained from several seeds.

    Two intervals, because there are two questions: would other questions give another figure (Wilson), and would another
    training (t over seeds, for the same questions)? The last rows hold each later way against the first one, seed by
    seed, and against the first untrained model.

    Args:
        untrained: by name; the first is what the students started from.
        trained: by name, in the order of the seeds.
    """
    lines = ["| model | held-out accuracy | 95% over | single seeds | ended by itself |", "|---|---|---|---|---|"]
    for name, one in untrained.items():
        middle, half = over_questions(one.correct)
        lines.append(
            f"| {name} | {one.mean:.1%} | questions: {middle - half:.1%} to {middle + half:.1%} | | {one.ended:.0%} |"
        )
    means = {name: [one.mean for one in seeds] for name, seeds in trained.items()}
    for name, seeds in trained.items():
        each = ", ".join(f"{value:.1%}" for value in means[name])
        ended = statistics.fmean(one.ended for one in seeds)
        lines.append(
            f"| {name} | {statistics.fmean(means[name]):.1%} | {_spread(means[name])} | {each} | {ended:.0%} |"
        )
    start_name, start = next((name, one.mean) for name, one in untrained.items())
    (first, base), *others = means.items()
    for name, values in others or [(first, base)]:
        lines.append(_difference(f"{name}, minus {start_name}", [value - start for value in values]))
        if others:
            lines.append(_difference(f"{name}, minus {first}", [a - b for a, b in zip(values, base, strict=True)]))
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    middle, half = over_seeds(values)
    return f"seeds: {middle - half:.1%} to {middle + half:.1%}" if math.isfinite(half) else ""


def _difference(name: str, values: Sequence[float]) -> str:
    each = ", ".join(f"{value:+.1%}" for value in values)
    middle, half = over_seeds(values)
    spread = f"seeds: {middle - half:+.1%} to {middle + half:+.1%}" if math.isfinite(half) else ""
    return f"| *{name}* | {middle:+.1%} | {spread} | {each} | |"
