"""What `make docs` does to the pages of docs/, which are written to be read in the repository: links to code become its name."""

import re
from typing import Any

_OUTSIDE = re.compile(
    r"\[([^\]]+)\]\((?:\.\./){2,}[^)]*\)|\[([^\]]+)\]\(\.\./(?!explanation|how-to|reference|tutorial|README|log)[^)]*\)"
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A link that leaves docs/ leads nowhere on a site; its text stays."""
    return _OUTSIDE.sub(lambda found: found[1] or found[2], markdown)


def on_nav(nav: Any, **_: Any) -> Any:
    """Sections in the order in which one reads, not that of the alphabet."""
    order = ["Home", "Tutorial", "How to", "Reference", "Explanation", "Log"]
    for section in nav.items:
        for part in section.children or ():
            if part.is_section and part.title == "Api":
                part.title = "The public names"
    nav.items.sort(key=lambda item: order.index(item.title) if item.title in order else 0)
    return nav
