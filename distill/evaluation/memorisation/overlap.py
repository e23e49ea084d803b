"""Overlap of what a model says with what it was trained on, word for word."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from distill.text.words import words


@dataclass(frozen=True)
class Overlap:
    """How much of some texts stands word for word in others.

    Args:
        share: of the runs of `n` words, those that stand in a training text.
        longest: words of the longest stretch that such runs cover without a gap, be they of one training text or of several.
        text: that stretch.
        runs: how many runs of `n` words there are.
        n: words of a run.
        of_texts: of each text its runs that stand there, and all its runs: the units of an interval.
    """

    share: float
    longest: int
    text: str
    runs: int
    n: int
    of_texts: tuple[tuple[int, int], ...] = ()


def overlap(said: Sequence[str], trained: Iterable[str], n: int = 8) -> Overlap:
    """Which share of what a model says it was trained on, in runs of `n` words; case and punctuation do not count.

    Some overlap is of the language and not of the rows: compare with the same figure of a model that was not trained.

    Args:
        said: texts of the model.
        trained: texts that it was trained on.
        n: words of a run.

    Raises:
        ValueError: n below 1; no text of n words, so that nothing could overlap.

    Example:
        >>> overlap(["The cat sat on the mat today."], ["A cat sat on the mat."], n=3).longest
        5
    """
    if n < 1:
        raise ValueError(f"n is {n}; a run has at least 1 word.")
    spoken = [words(text) for text in said]
    count = sum(max(0, len(one) - n + 1) for one in spoken)
    if not count:
        raise ValueError(
            f"None of the {len(said)} texts has {n} words, so no run of so many could overlap; give longer ones, or a smaller n."
        )
    there = {run for text in trained for run in _runs(words(text), n)}
    best, of_texts = list[str](), []
    for one in spoken:
        hits = 0
        length = 0  # of the run that ends here; neighbours overlap by all words but one
        for place, run in enumerate(_runs(one, n)):
            length = (length + 1 if length else n) if run in there else 0
            hits += bool(length)
            if length > len(best):
                best = one[place + n - length : place + n]
        of_texts.append((hits, max(0, len(one) - n + 1)))
    return Overlap(sum(hits for hits, _ in of_texts) / count, len(best), " ".join(best), count, n, tuple(of_texts))


def _runs(spoken: Sequence[str], n: int) -> Iterable[tuple[str, ...]]:
    return zip(*(islice(spoken, start, None) for start in range(n)), strict=False)
