"""A glance at private data before a training, for `distill inspect`."""

from typing import TYPE_CHECKING, Any

import datasets
import numpy as np

from distill.curation.look import Finding
from distill.curation.private.kinds import check_private
from distill.curation.private.step import clean_private

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST = 1000


def private_finding(
    pairs: datasets.Dataset, tokenizer: "PreTrainedTokenizerBase | None" = None, most: int = MOST
) -> tuple[Finding, dict[str, Any]]:
    """What is private in some rows, as a finding and as figures; no value is in either.

    Args:
        pairs: see `distill.pairs`.
        tokenizer: of the pairs' ids, which are read, too.
        most: rows that are looked at, evenly spaced if there are more.
    """
    try:
        check_private()
    except ValueError as error:
        return Finding("info", "private data", f"Personal data and secrets were not looked for. {error}"), {
            "looked_at": 0
        }
    rows = np.unique(np.linspace(0, len(pairs) - 1, min(most, len(pairs))).astype(int))
    _, step = clean_private(pairs.select(rows), "report", tokenizer=tokenizer)
    figures = {"looked_at": len(rows), "rows": step.settings["rows"], "found": step.settings["found"]}
    of = f"{len(rows):,} rows" if len(rows) == len(pairs) else f"{len(rows):,} of {len(pairs):,} rows, evenly spaced"
    if not figures["rows"]:
        return Finding(
            "info",
            "private data",
            f"No personal data and no secrets were found in {of} (names of persons are not looked for).",
        ), figures
    said = f"Personal data or secrets in {figures['rows']:,} of {of}: {figures['found']}. `distill clean --private report` says where, `replace` puts stand-ins there."
    return Finding("warning", "private data", said), figures
