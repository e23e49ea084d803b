"""Filters by length, end, language, format, broken text and repetition: `(pairs, Step)` each, as in `distill.curation.duplicates`."""

import re
from collections.abc import Collection

import datasets
import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from distill.basics.curation_step import Step
from distill.curation.repetition import GOPHER, repetition
from distill.curation.rows import PARTS, each_text, keep_rows, one_of, one_text, short
from distill.pairs.batches import batches, column, flat
from distill.text.language import languages_of

_REPLACEMENT = "\ufffd"


def filter_length(
    pairs: datasets.Dataset,
    minimum: int | None = None,
    maximum: int | None = None,
    *,
    of: str = "completion",
    unit: str = "tokens",
) -> tuple[datasets.Dataset, Step]:
    """Keep rows whose `of` (`"prompt"`, `"completion"` or both as a `"row"`) has from `minimum` to `maximum` `unit`.

    Args:
        minimum, maximum: both may be reached; `None` is no limit.
        unit: `"tokens"` (with the EOS), or `"characters"` of the text.

    Raises:
        ValueError: no limit at all, limits that exclude everything, or another `of` or `unit`.
    """
    one_of("of", of, (*PARTS, "row"))
    one_of("unit", unit, ("tokens", "characters"))
    if minimum is None and maximum is None:
        raise ValueError("There is neither a minimum nor a maximum length; give one of them.")
    low, high = minimum or 0, np.inf if maximum is None else maximum
    if low < 0 or high < max(low, 1):
        raise ValueError(f"The length must be from {minimum} to {maximum} {unit}, which no text is.")
    parts = PARTS if of == "row" else (of,)
    size = np.sum([_sizes(pairs, part, unit) for part in parts], axis=0)
    limits = " and ".join(
        f"{word} {value}" for word, value in (("at least", minimum), ("at most", maximum)) if value is not None
    )
    effect = f"Distilled is the teacher given a {of} of {limits} {unit}: other lengths are never seen."
    if maximum is not None and of != "prompt":
        effect += " The student learns to be shorter than the teacher."
    settings = {"of": of, "unit": unit, "minimum": minimum, "maximum": maximum}
    kept = (size >= low) & (size <= high)
    return keep_rows(pairs, kept, f"length of the {of}", effect, settings, lambda row: f"{size[row]} {unit}")


def drop_cut(pairs: datasets.Dataset) -> tuple[datasets.Dataset, Step]:
    """Leave out rows whose completion was cut at the limit (`finish_reason` is `"length"`)."""
    effect = (
        "Distilled is the teacher given that it ends in time: long answers are never seen, and the student learns to be "
        "shorter (60% error of the expected gradient in docs/explanation/equivalence.md). Keeping cut rows, without an invented EOS, "
        "is exact for the tokens they have."
    )
    kept = np.asarray(pc.equal(column(pairs, "finish_reason"), "stop"), dtype=bool)
    return keep_rows(
        pairs, kept, "cut completions", effect, {}, lambda row: f"cut: {short(one_text(pairs, row, 'completion'))}"
    )


def filter_language(
    pairs: datasets.Dataset,
    keep: Collection[str],
    *,
    of: str = "completion",
    shortest: int = 40,
    probability: float = 0.9,
) -> tuple[datasets.Dataset, Step]:
    """Leave out rows whose `of` is written in another language; where that cannot be said, the row stays.

    Args:
        keep: ISO 639-1 codes, e.g. `["en"]`.
        of: `"prompt"` or `"completion"`.
        shortest: nothing is said about a text of fewer letters than this (see docs/how-to/cleaning.md for how often short texts
            are mistaken).
        probability: nor where the identifier gives less than this to its best language.

    Raises:
        ValueError: an unknown code, a value out of range, or the `py3langid` package is missing.
    """
    one_of("of", of, PARTS)
    texts = each_text(pairs, of, "telling languages")
    found = languages_of(texts, keep=keep, shortest=shortest, probability=probability)
    effect = f"Distilled is the teacher given that its {of} is in {', '.join(sorted(keep))} or too short to tell."
    unsaid = found.count(None)
    settings = {"of": of, "keep": sorted(keep), "shortest": shortest, "probability": probability, "not_said": unsaid}
    kept = np.array([language is None or language in keep for language in found], dtype=bool)
    return keep_rows(
        pairs, kept, f"language of the {of}", effect, settings,
        lambda row: f"{found[row]}: {short(one_text(pairs, row, of))}",
    )  # fmt: skip


def filter_format(
    pairs: datasets.Dataset, *, must: str | None = None, must_not: str | None = None, of: str = "completion"
) -> tuple[datasets.Dataset, Step]:
    """Keep rows in whose `of` the pattern `must` is found and `must_not` is not.

    No pattern is built in: what is a refusal, or a wrong format, is yours to say (`must_not="(?i)as an ai"`).

    Args:
        must, must_not: Python regular expressions, searched anywhere in the text; `(?s)`, `(?i)` and the like may lead them.

    Raises:
        ValueError: no pattern, one that does not compile, or another `of`.
    """
    one_of("of", of, PARTS)
    if must is None and must_not is None:
        raise ValueError("There is no pattern; give must= or must_not=.")
    wanted, unwanted = (None if pattern is None else _compiled(pattern) for pattern in (must, must_not))
    say: dict[int, str] = {}
    for i, text in enumerate(each_text(pairs, of, "looking for patterns")):
        if wanted is not None and not wanted.search(text):
            say[i] = f"without {must!r}: {short(text)}"
        elif unwanted is not None and (match := unwanted.search(text)):
            say[i] = f"{match.group()[:60]!r} in {short(text)}"
    effect = f"Distilled is the teacher given the format of its {of}: whatever else it does is never seen."
    settings = {"of": of, "must": must, "must_not": must_not}
    return keep_rows(pairs, _all_but(say, pairs), f"format of the {of}", effect, settings, say.__getitem__)


def drop_broken(pairs: datasets.Dataset) -> tuple[datasets.Dataset, Step]:
    """Leave out rows whose completion is blank, or whose prompt or completion has a replacement character (U+FFFD).

    A completion that was cut may end inside a character: replacement characters at its very end are no fault.
    """
    say: dict[int, str] = {}
    reasons = column(pairs, "finish_reason").to_pylist()
    texts = (each_text(pairs, "prompt"), each_text(pairs, "completion", "looking for broken text"))
    for i, (prompt, completion, reason) in enumerate(zip(*texts, reasons, strict=True)):
        text = completion.rstrip(_REPLACEMENT) if reason == "length" else completion
        if not completion.strip():
            say[i] = "a blank completion"
        elif _REPLACEMENT in text or _REPLACEMENT in prompt:
            say[i] = f"broken characters in {short(text if _REPLACEMENT in text else prompt)}"
    effect = "Nothing a reader would miss is lost; a teacher that answers with nothing is no longer imitated in that."
    return keep_rows(pairs, _all_but(say, pairs), "broken text", effect, {}, say.__getitem__)


def filter_repetition(
    pairs: datasets.Dataset, limits: dict[str, float] = GOPHER, *, fewest_words: int = 50
) -> tuple[datasets.Dataset, Step]:
    """Leave out rows whose completion repeats itself, as a degenerate loop does (see `distill.curation.repetition`).

    Args:
        limits: shares that may not be exceeded; raise them for text that repeats by nature (tables, code, long traces).
        fewest_words: shorter completions are not judged: in ten words any pair of words is a large share.

    Raises:
        ValueError: an unknown limit, or one that is no share.
    """
    say: dict[int, str] = {}
    for i, text in enumerate(each_text(pairs, "completion", "looking for loops")):
        broken = [
            f"{name} {share:.2f}"
            for name, share in repetition(text, limits, fewest_words=fewest_words).items()
            if share > limits[name]
        ]
        if broken:
            say[i] = f"{', '.join(broken[:3])}: {short(text)}"
    effect = "Distilled is the teacher given that it does not loop. Loops are a fault of decoding; lists and tables suffer, too."
    settings = {"limits": dict(limits), "fewest_words": fewest_words}
    return keep_rows(pairs, _all_but(say, pairs), "repetition", effect, settings, say.__getitem__)


def _all_but(say: Collection[int], pairs: datasets.Dataset) -> NDArray[np.bool_]:
    kept = np.ones(len(pairs), dtype=bool)
    kept[list(say)] = False
    return kept


def _sizes(pairs: datasets.Dataset, part: str, unit: str) -> NDArray[np.int64]:
    if unit == "characters":
        return np.fromiter(map(len, each_text(pairs, part, "measuring texts")), np.int64)
    found = [flat(table[f"{part}_ids"])[1] for table in batches(pairs, [f"{part}_ids"])]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"The pattern {pattern!r} is no regular expression: {error}.") from None
