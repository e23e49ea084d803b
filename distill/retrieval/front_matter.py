"""Front matter: what stands as YAML before Markdown."""

import re
from typing import Any

import yaml

from distill.basics.processes import tell

# The closing mark may be the end of the file.
_FORM = re.compile(r"---[ \t]*\n(?P<head>.*?\n|)---[ \t]*(?:\n|\Z)", re.DOTALL)
_DATE = "tag:yaml.org,2002:timestamp"
# What YAML's reader raises of values that look like something they are not: a month of 32 days, a time zone of 99 hours.
_ERRORS = (yaml.YAMLError, ValueError, TypeError, AttributeError, OverflowError, RecursionError)


class _AsWritten(yaml.SafeLoader):
    """Dates stay the texts that they are written as."""


_AsWritten.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != _DATE]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def front_matter(text: str, name: str) -> tuple[str, dict[str, Any]]:
    """Markdown without the YAML before it, and what that says; as it is where there is none.

    A date that is none (30 February) is kept as the text that it is. What is no YAML at all stays in the text, and that is told.

    Args:
        text: of a file, lines ended by a line feed alone.
        name: of the file, for people.

    Example:
        >>> front_matter("---\\ntitle: Mills\\n---\\nOld ones.", "a.md")
        ('Old ones.', {'title': 'Mills'})
    """
    there = _FORM.match(text)
    if there is None:
        return text, {}
    try:
        found = _loaded(there["head"])
    except _ERRORS as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        tell(f"{name}: what stands between --- before it is no YAML ({why}), and is read as its text.")
        return text, {}
    if found is None and not there["head"].strip():
        found = {}
    return (text[there.end() :], found) if isinstance(found, dict) else (text, {})


def _loaded(head: str) -> Any:
    try:
        return yaml.safe_load(head)
    except yaml.YAMLError:
        raise
    except _ERRORS:
        return yaml.load(head, _AsWritten)  # a safe loader, too
