"""One object in a file: a row itself, or a list of rows under a name."""

from collections.abc import Collection, Mapping
from typing import Any

from distill.pairs.row_names import ASKED, ASKED_AND_ANSWERED, CONVERSATIONS, IDS


def list_in(found: Mapping[str, Any], columns: Collection[str], where: str) -> str | None:
    """The name under which an object holds rows (`{"data": [...]}`); None if it is a row itself.

    Args:
        found: the only object of its file.
        columns: that are taken for something; an object that has them is a row.
        where: for messages.

    Raises:
        ValueError: several lists could be it, or it could be a row as well.

    Example:
        >>> list_in({"version": 1, "data": [{"prompt": "Why?"}]}, (), "here")
        'data'
    """
    if _is_row(found, columns):
        return None
    lists = {name: value for name, value in found.items() if isinstance(value, list) and value}
    rows = [
        name for name, value in lists.items() if all(isinstance(one, dict) and _is_asked(one, columns) for one in value)
    ]
    # rows of other names, or texts
    others = [
        n for n, v in lists.items() if all(isinstance(one, dict) for one in v) or all(isinstance(one, str) for one in v)
    ]
    asked = _is_asked(found, columns)
    if len(rows) > 1:
        raise ValueError(
            f"{where} is one object with the lists of rows {', '.join(rows)}; give the rows of one of them, in a file of their own."
        )
    if rows and asked:
        raise ValueError(
            f"{where} is one object, which is a row itself or the rows in {rows[0]}; give a list of rows, or one row a line."
        )
    if asked or (not rows and len(others) != 1):
        return None
    return (rows or others)[0]


def _is_row(found: Mapping[str, Any], columns: Collection[str]) -> bool:
    """Whether it asks and answers, talks, or has token ids."""
    there = {name for name, value in found.items() if value is not None}
    return (
        (bool(columns) and there.issuperset(columns))
        or any(asked in there and answered in there for asked, answered in ASKED_AND_ANSWERED)
        or any(name in there for name in IDS)
        or any(_is_talk(found.get(name)) for name in CONVERSATIONS)
    )


def _is_asked(found: Mapping[str, Any], columns: Collection[str]) -> bool:
    """Whether it could be a row of any kind: what asks and does not answer is one of prompts."""
    return _is_row(found, columns) or any(isinstance(v := found.get(n), str) or _is_talk(v) for n in ASKED)


def _is_talk(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and isinstance(value[0], dict)
        and bool({"role", "from"} & value[0].keys())
    )
