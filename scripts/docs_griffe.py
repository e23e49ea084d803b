"""How `make docs` reads docstrings: their examples are code."""

import re
from typing import Any

import griffe


class ExamplesAreCode(griffe.Extension):
    """`Example:` with one example is to be shown as `Examples:` is, of which the reader of docstrings knows."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Called for each module, class and function."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
