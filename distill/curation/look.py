"""What a look at pairs finds: figures, and sentences with a level, the rule and the way out."""

from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from distill.curation.turn_borders import turn_borders
from distill.pairs.measures import PairArrays

LEVELS = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """One sentence: figures, the rule, the way out. `level` is one of `LEVELS`."""

    level: str
    name: str
    text: str


class Look:
    """One look at pairs: every check adds figures and findings; none changes anything."""

    def __init__(
        self, pairs: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None, model: Any
    ) -> None:
        self.pairs, self.tokenizer, self.max_length, self.model = pairs, tokenizer, max_length, model
        added = tokenizer.added_tokens_decoder
        # written out, a character alone would be found in any text
        self.control = {i: token.content for i, token in added.items() if token.special and len(token.content) > 1}
        self.arrays = PairArrays(pairs, max_length, inner=turn_borders(tokenizer, model))
        self.rows = len(pairs)
        self.figures: dict[str, Any] = {"rows": self.rows, "max_length": max_length}
        self.findings: list[Finding] = []

    def say(self, level: str, name: str, text: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(level, name, text))

    def of(self, count: int | np.integer[Any], total: int | None = None) -> str:
        """`3 of 12 rows (25.0%)`."""
        total = self.rows if total is None else total
        return f"{int(count):,} of {total:,} rows ({count / max(total, 1):.1%})"
