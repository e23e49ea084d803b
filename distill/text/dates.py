"""The day that a chat template writes: fixed once a run, so that a run does not end at midnight.

Templates with `strftime_now` (Llama 3.2, gpt-oss, Granite) write today's date into every prompt. Two processes of one run, or a run
and its continuation on the next day, must write the same one: the first use fixes it, and who records a run records it with
`template_day` and gives it back with `on_day`.
"""

import datetime
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

_GENERATION = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")  # a tag of transformers, unknown to plain jinja
_fixed: list[datetime.date] = []  # the last one counts; empty until somebody asks


def template_day(tokenizer: Any) -> str | None:
    """The day that this tokenizer's template writes, as `2026-11-27`; None if it writes none."""
    template = tokenizer.chat_template
    several = template.values() if isinstance(template, dict) else [template or ""]
    return _day().isoformat() if any(map(_formats, several)) else None


@contextmanager
def on_day(day: str | None) -> Iterator[None]:
    """Templates write this day as long as the context is open; None changes nothing.

    Args:
        day: as `template_day` gave it to whoever recorded it.

    Raises:
        ValueError: no such day.

    Example:
        >>> with on_day(recorded.get("template_day")):
        ...     pairs = load_pairs("pairs.jsonl", tokenizer)
    """
    if day is None:
        yield
        return
    before = _fixed[:]
    _fixed.append(_read(day))
    try:
        yield
    finally:
        _fixed[:] = before


def day_settings(tokenizer: Any) -> dict[str, str]:
    """The day as a setting of whatever is made with this tokenizer: `{"template_day": ...}`; nothing if its template writes none."""
    day = template_day(tokenizer)
    return {} if day is None else {"template_day": day}


def fix_day(day: str | None = None) -> str:
    """From now on templates of this process write this day; without one, today's.

    Returns:
        It, for the record.

    Raises:
        ValueError: no such day.
    """
    _fixed[:] = [_read(day) if day else _today()]
    return _fixed[-1].isoformat()


def dated(template: str) -> str:
    """The template with its day written into it; as it is where it asks for none.

    `strftime_now` becomes a macro that knows the formats that stand in the template; hours and minutes are those of midnight.
    """
    formats = _formats(template)
    return _with_day(template, formats, _day()) if formats else template


def _day() -> datetime.date:
    if not _fixed:
        fix_day()
    return _fixed[-1]


def _today() -> datetime.date:
    return datetime.date.today()


def _read(day: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(day)
    except (TypeError, ValueError):
        raise ValueError(f"The day of a template is {day!r}; expected one like 2026-11-27.") from None


@lru_cache(maxsize=32)
def _formats(template: str) -> tuple[str, ...]:
    """Every text in the template that could be a format of a date, if it asks for one at all."""
    if "strftime_now" not in template:
        return ()
    from jinja2 import Environment, TemplateError, nodes

    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION.sub("", template))
    except TemplateError:  # whoever renders it says so
        return ()
    texts = (node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str))
    return tuple(dict.fromkeys(text for text in texts if "%" in text))


@lru_cache(maxsize=32)
def _with_day(template: str, formats: tuple[str, ...], day: datetime.date) -> str:
    moment = datetime.datetime.combine(day, datetime.time())
    known = {text: moment.strftime(text) for text in formats}
    # the empty expression keeps a line's end with which the template may begin
    return (
        "{%- macro strftime_now(format) -%}{%- set known = " + repr(known) + " -%}"
        "{{- known[format] if format in known else raise_exception('no date of the format ' ~ format ~ ' is fixed') -}}"
        "{%- endmacro %}{{ '' }}" + template
    )
