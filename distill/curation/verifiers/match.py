"""Verifiers that compare the answer with the row's own: as text, by a pattern, as a number."""

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from distill.curation.verifiers.numerals import find_number, whole_number
from distill.text.traces import split_trace

FINAL = ("all", "tag", "boxed", "last_line")
NUMBERS = ("auto", "boxed", "hash", "phrase", "last")
PERCENT = ("fraction", "points")


def exact_match(
    column: str = "answer", final: str = "all", ignore_case: bool = False
) -> Callable[[dict[str, Any], str], bool]:
    """Is the answer, as text, the row's? Runs of white space count as one space.

    Args:
        column: of the prompt row, with the right answer.
        final: where the answer stands, see `final_answer`.
        ignore_case: whether upper and lower case are the same.

    Example:
        >>> exact_match()({"answer": "Paris"}, "<think>\\nFrance.\\n</think>\\n\\nParis")
        True
    """
    _one_of("final", final, FINAL)

    def verifier(row: dict[str, Any], completion: str) -> bool:
        given, right = final_answer(completion, final), str(_reference(row, column))
        if given is None:
            return False
        one, other = (" ".join(text.split()) for text in (given, right))
        return one.casefold() == other.casefold() if ignore_case else one == other

    return verifier


def regex_match(pattern: str, column: str | None = None) -> Callable[[dict[str, Any], str], bool]:
    """Does the pattern occur in the answer, and is what it found the row's answer?

    Args:
        pattern: a regular expression, searched in the answer after the trace.
        column: of the prompt row; the last match (its first group, where it has one) must equal it. `None`: any match
            will do.

    Raises:
        ValueError: the pattern is no regular expression.

    Example:
        >>> regex_match(r"Answer: (\\w+)", "answer")({"answer": "B"}, "It is late. Answer: B")
        True
    """
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}.") from None

    def verifier(row: dict[str, Any], completion: str) -> bool:
        matches = list(compiled.finditer(split_trace(completion).answer))
        if not matches or column is None:
            return bool(matches)
        found = matches[-1][1] if compiled.groups else matches[-1][0]
        return (found or "").strip() == str(_reference(row, column)).strip()

    return verifier


def number_match(
    column: str = "answer", where: str = "auto", tolerance: float = 1e-6, percent: str = "fraction"
) -> Callable[[dict[str, Any], str], bool]:
    """Is the answer's number the row's?

    Args:
        column: of the prompt row: a number, or a text that `parse_number` reads (what follows a `####` in it, if any).
        where: `"boxed"`: in the last `\\boxed{}`; `"hash"`: after the last `####`; `"phrase"`: the first number after
            the last "answer is" or "answer:"; `"last"`: the last number of the answer. `"auto"` takes the first of
            these four places that the answer has.
        tolerance: largest difference, relative to the right number (absolute if that is 0).
        percent: 50% is `"fraction"`: 0.5, or `"points"`: 50.

    Returns:
        A verifier. It raises `ValueError` for a row whose own answer is no number.

    Example:
        >>> number_match()({"answer": "1234.5"}, "So the answer is $1,234.50.")
        True
    """
    _one_of("where", where, NUMBERS)
    _one_of("percent", percent, PERCENT)
    if not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}; it must be 0 or more.")

    def verifier(row: dict[str, Any], completion: str) -> bool:
        right = parse_number(_reference(row, column), percent)
        given = _number_in(split_trace(completion).answer, where, percent)
        if given is None:
            return False
        return abs(given - right) <= Fraction(tolerance) * (abs(right) or 1)

    return verifier


def parse_number(value: Any, percent: str = "fraction") -> Fraction:
    """A number of a data set, exactly: `3`, `"-1,234.5"`, `"1/3"`, `"50%"`, `"2e-3"`, `"\\frac{1}{2}"`, `"... #### 18"`.

    Raises:
        ValueError: it is not one number.
    """
    if isinstance(value, int | Fraction) and not isinstance(value, bool):
        return Fraction(value)
    if isinstance(value, float) and math.isfinite(value):
        return Fraction(repr(value))  # the decimal that is written, and not its nearest binary number
    text = str(value).rpartition("####")[2]
    boxed = _boxed(text)
    number = whole_number(text if boxed is None else boxed, percent)
    if number is None:
        raise ValueError(f"{str(value)[:60]!r} is not one number, so no answer can be compared with it.")
    return number


def final_answer(completion: str, final: str = "all") -> str | None:
    """The final answer in a completion, as text; None where it has none.

    Args:
        completion: with or without a trace; only what follows the trace is looked at.
        final: `"all"` of it; in the last `<answer>` and `</answer>` (`"tag"`); in the last `\\boxed{}` (`"boxed"`); or
            the last line that is not blank (`"last_line"`).
    """
    _one_of("final", final, FINAL)
    text = split_trace(completion).answer
    if final == "tag":
        before, close, _ = text.rpartition("</answer>")
        _, tag, inside = before.rpartition("<answer>")
        return inside.strip() if close and tag else None
    if final == "boxed":
        return _boxed(text)
    if final == "last_line":
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else None
    return text.strip() or None


def _number_in(text: str, where: str, percent: str) -> Fraction | None:
    boxed, phrase = _boxed(text), list(re.finditer(r"answer\s*(?:is\b|=|:)", text, flags=re.IGNORECASE))
    if where == "auto":
        where = "boxed" if boxed is not None else "hash" if "####" in text else "phrase" if phrase else "last"
    if where == "boxed":
        return None if boxed is None else whole_number(boxed, percent)
    if where == "last":
        return find_number(text, percent, last=True)
    if where == "hash":
        after = text.rpartition("####")[2] if "####" in text else ""
    else:
        after = text[phrase[-1].end() :] if phrase else ""
    return find_number(after, percent)


def _boxed(text: str) -> str | None:
    """What stands in the last whole `\\boxed{...}`, with braces in it counted."""
    opened: list[int | None] = []  # where the content of each open brace begins, if it is a box's
    last: tuple[int, int] | None = None
    for found in re.finditer(r"\\f?boxed\s*\{|[{}]", text):
        if found[0] != "}":
            opened.append(found.end() if len(found[0]) > 1 else None)
        elif opened and (start := opened.pop()) is not None and (last is None or start > last[0]):
            last = start, found.start()
    return text[slice(*last)].strip() if last else None


def _reference(row: dict[str, Any], column: str) -> Any:
    if row.get(column) is None:
        raise ValueError(f"The prompt row has no {column!r}; it has {', '.join(row) or 'nothing'}.")
    return row[column]


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(allowed)}.")
