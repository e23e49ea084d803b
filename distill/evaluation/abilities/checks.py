"""What a program asks of an answer: conditions by name, each with a plain value, so that a probe can be written to a file."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from distill.curation.verifiers.numerals import find_number
from distill.evaluation.abilities.calls import calls_in
from distill.text.language import languages_of
from distill.text.saying import said_at, says, value_words
from distill.text.traces import split_trace

_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+\S")
_FENCE = re.compile(r"^\s*```[a-z]*\s*(.*?)\s*```\s*$", re.DOTALL)
# the end of a sentence: its mark, perhaps a closing quote, and then a blank or nothing
_END = re.compile(r"[.!?]+[\"'”’)]*(?=\s|$)")
_SHORT = re.compile(r"\b(?:mr|mrs|ms|dr|st|e\.g|i\.e|etc|vs)\.", re.IGNORECASE)


@dataclass(frozen=True)
class Check:
    """Conditions, all of which an answer must meet. No answer at all meets none.

    Args:
        conditions: pairs of a name in `CONDITIONS` and its value, which is plain.

    Raises:
        ValueError: no condition, or one of no such name.

    Example:
        >>> Check((("words_at_most", 3),)).wrong("It is a red lantern.")
        'it has 5 words, and 3 are the most'
    """

    conditions: tuple[tuple[str, Any], ...]

    def __post_init__(self) -> None:
        if not self.conditions:
            raise ValueError("A check has at least one condition.")
        if unknown := [name for name, _ in self.conditions if name not in CONDITIONS]:
            raise ValueError(f"There is no condition {', '.join(unknown)}; there are {', '.join(CONDITIONS)}.")

    def wrong(self, text: str) -> str:
        """What is wrong with an answer; empty where nothing is. Of an answer with a trace, what follows the trace counts."""
        answer = split_trace(text).answer.strip()
        if not answer:
            return "it says nothing"
        return next((why for name, value in self.conditions if (why := CONDITIONS[name](answer, value))), "")


def sentences_of(text: str) -> list[str]:
    """The sentences of a text that end in a mark; what stands behind the last mark is one more."""
    parts = _END.split(_SHORT.sub(lambda found: found[0].replace(".", ""), text))
    return [part.strip() for part in parts if part.strip(" \n\t\"'”’)")]


def _words_at_most(text: str, most: int) -> str:
    count = len(text.split())
    return f"it has {count} words, and {most} are the most" if count > most else ""


def _words_at_least(text: str, least: int) -> str:
    count = len(text.split())
    return f"it has {count} words, and {least} are the least" if count < least else ""


def _sentences(text: str, wanted: int) -> str:
    count = len(sentences_of(text))
    if count != wanted:
        return f"it has {count} sentences in place of {wanted}"
    # an answer that was cut has one sentence fewer than it looks
    return "" if re.search(r"[.!?][\"'”’)]*$", text) else "its last sentence does not end"


def _bullets(text: str, wanted: int) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    count = sum(bool(_BULLET.match(line)) for line in lines)
    if count != wanted:
        return f"it has {count} bullets in place of {wanted}"
    # one line may introduce a list, and nothing stands between or behind
    return "" if all(_BULLET.match(line) for line in lines[-wanted:]) else "other lines stand among the bullets"


def _lower_case(text: str, _: Any) -> str:
    if not any(map(str.isalpha, text)):
        return "it has no letters"
    upper = next((letter for letter in text if letter.isupper()), None)
    return "" if upper is None else f"it has the capital letter {upper!r}"


def _json_keys(text: str, keys: Sequence[str]) -> str:
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except ValueError:
        return "it is not JSON"
    if not isinstance(value, dict):
        return "it is JSON, and no object"
    if set(value) != set(keys):
        return f"its keys are {', '.join(map(str, value)) or 'none'} in place of {', '.join(keys)}"
    return "" if all(value[key] not in (None, "", [], {}) for key in keys) else "a value in it is empty"


def _language(text: str, code: str) -> str:
    found = languages_of([text], shortest=12, probability=0.5)[0]
    return "" if found == code else f"its language is {found or 'not to be told'} in place of {code}"


def _says(text: str, value: str) -> str:
    return "" if says(text, value) else f"it does not say {value!r}"


def _silent_about(text: str, values: Sequence[str]) -> str:
    said = next((value for value in values if says(text, value)), None)
    return "" if said is None else f"it says {said!r}"


def _says_first(text: str, values: Sequence[str]) -> str:
    """The first value is said, and none of the others before it; others that are a part of it, or have it in them, do not count."""
    right, *others = values
    place = said_at(text, right)
    if place is None:
        return f"it does not say {right!r}"
    for other in others:
        at = said_at(text, other) if not (says(other, right) or says(right, other)) else None
        if at is not None and at < place:
            return f"it says {other!r} before {right!r}"
    return ""


def _says_some(text: str, asked: Sequence[Any]) -> str:
    least, values = int(asked[0]), asked[1]
    said = [value for value in values if says(text, value)]
    return "" if len(said) >= least else f"it has {len(said)} of the style's words, and {least} are the least"


def _begins(text: str, beginning: str) -> str:
    return "" if value_words(text)[: len(value_words(beginning))] == value_words(beginning) else f"it does not begin with {beginning!r}"  # fmt: skip


def _ends(text: str, ending: str) -> str:
    return "" if text.rstrip(" \n\"'”’)").endswith(ending) else f"it does not end in {ending!r}"


def _without(text: str, marks: str) -> str:
    found = next((mark for mark in marks if mark in text), None)
    return "" if found is None else f"it has {found!r}"


def _number(text: str, wanted: str) -> str:
    """The last number of an answer is the wanted one."""
    found, right = find_number(text, "points", last=True), find_number(wanted, "points")
    if found is None:
        return "it has no number"
    return "" if found == right else f"its last number is {found} in place of {wanted}"


def _call(text: str, wanted: Any) -> str:
    calls, problem = calls_in(text)
    if problem:
        return problem
    if len(calls) != 1:
        return f"it has {len(calls)} calls in place of one"
    (name, arguments), right = calls[0], wanted["arguments"]
    if name != wanted["name"]:
        return f"it calls {name!r} in place of {wanted['name']!r}"
    if set(arguments) != set(right):
        return f"its arguments are {', '.join(arguments) or 'none'} in place of {', '.join(right)}"
    wrong = next((key for key in right if not _same(arguments[key], right[key])), None)
    return "" if wrong is None else f"its argument {wrong} is {arguments[wrong]!r} in place of {right[wrong]!r}"


def _no_call(text: str, _: Any) -> str:
    calls, problem = calls_in(text)
    if problem or calls:
        return f"it calls {calls[0][0]!r}, and no call is wanted" if calls else problem
    return "" if value_words(text) else "it has no words"


def _same(given: Any, right: Any) -> bool:
    """A number is the same as its digits in a text, since some models quote all values; of a text, case and outer blanks do not count."""
    if isinstance(given, bool) or isinstance(right, bool):
        return given is right
    if isinstance(right, int | float) and isinstance(given, str):
        return given.strip() == str(right)
    if isinstance(right, str) and isinstance(given, str):
        return given.strip().casefold() == right.casefold()
    return type(given) in (int, float) and type(right) in (int, float) and given == right


CONDITIONS: dict[str, Callable[[str, Any], str]] = {
    "words_at_most": _words_at_most,
    "words_at_least": _words_at_least,
    "sentences": _sentences,
    "bullets": _bullets,
    "lower_case": _lower_case,
    "json_keys": _json_keys,
    "language": _language,
    "says": _says,
    "silent_about": _silent_about,
    "says_first": _says_first,
    "says_some": _says_some,
    "begins": _begins,
    "ends": _ends,
    "without": _without,
    "number": _number,
    "call": _call,
    "no_call": _no_call,
}
