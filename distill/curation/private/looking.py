"""All that is private in a row: in its texts, across its turns, and in its token ids."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from distill.curation.private.finding import find
from distill.curation.private.kinds import Found
from distill.curation.private.seams import Seam, seams, turns_of
from distill.curation.private.tokens import Tokens
from distill.curation.private.walking import walk_row

OWN_ID = re.compile(r"[0-9a-f]{16}")  # a hash of this package's
TRAINED = frozenset(
    ("prompt", "completion", "teacher_prompt", "message", "tools", "chat_template_kwargs")
)  # there are ids of them


@dataclass
class Looked:
    """What was found in one row.

    Args:
        found: by columns; `"token ids"` for what the ids alone say.
        across: values in two turns.
        texts: all that were read.
    """

    found: list[tuple[str, Found]] = field(default_factory=list)
    across: list[Seam] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def all(self) -> list[tuple[str, Found]]:
        """Where, and what; those in two turns, too."""
        return [*self.found, *(("two turns", seam.found) for seam in self.across)]

    def needs_tokens(self) -> bool:
        """Whether something of it stands in token ids."""
        return bool(self.across) or any(where in TRAINED or where == "token ids" for where, _ in self.found)


class Looker:
    """Looks through rows.

    Args:
        kinds: see `distill.curation.private.kinds`.
        regions: see `distill.curation.private.phones.phones`.
        columns: those with texts.
        tokens: reads the ids; without it they are not looked at.
    """

    def __init__(
        self, kinds: Sequence[str], regions: Sequence[str], columns: list[str], tokens: Tokens | None = None
    ) -> None:
        self.columns, self._kinds, self._tokens = columns, tuple(kinds), tokens
        # system texts, tools and templates are the same in row after row
        self._find: Callable[[str, str], list[Found]] = lru_cache(2_000)(
            lambda text, name: find(text, self._kinds, regions=regions, name=name)
        )
        self._regions = regions
        self.reads_ids = tokens is not None

    def look(self, row: Mapping[str, Any]) -> Looked:
        """What is private in a row; it must have the columns, and those with ids if these are to be read."""
        looked = Looked()
        for column in self.columns:
            if row.get(column) is None or (column == "id" and OWN_ID.fullmatch(row[column])):
                continue

            def read(text: str, name: str, column: str = column) -> str:
                looked.texts.append(text)
                found = (
                    self._find(text, name)
                    if len(text) < 500
                    else find(text, self._kinds, regions=self._regions, name=name)
                )
                looked.found.extend((column, one) for one in found)
                return text

            walk_row(row, [column], read)
        if row.get("prompt") is not None and isinstance(row.get("completion"), str):
            known = {one.value for _, one in looked.found}
            looked.across = [seam for seam in seams(turns_of(row), self._kinds) if seam.found.value not in known]
        if self._tokens is not None:
            texts = sorted(set(looked.texts), key=len, reverse=True)
            for text in self._tokens.beyond(row, texts):
                looked.found.extend(("token ids", one) for one in self._find(text, ""))
        return looked
