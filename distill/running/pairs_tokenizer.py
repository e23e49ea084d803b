"""The tokenizer that the token ids of pairs are of."""

from pathlib import Path
from typing import TYPE_CHECKING

import datasets

from distill.models.embedded import EMBEDDED, is_at_hand
from distill.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def known_tokenizer(pairs: datasets.Dataset, name: str | None = None) -> "PreTrainedTokenizerBase | None":
    """The tokenizer of a model by its name; without one, that of the only teacher, where it lies here, else None.

    Args:
        pairs: see `distill.pairs`.
        name: see `load_tokenizer`.
    """
    if name is not None:
        return load_tokenizer(name)
    teachers = sorted(set(pairs["teacher"][:]))
    if len(teachers) == 1 and (Path(teachers[0]).is_dir() or (teachers[0] in EMBEDDED and is_at_hand(teachers[0]))):
        return load_tokenizer(teachers[0])
    return None
