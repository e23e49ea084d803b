"""The pair, the training row: its schema, how it is read and written, how rows become a batch.

Token ids are the truth and text is for people. This room knows no model code.
"""

from typing import TYPE_CHECKING

from distill.basics.lazy import lazy_names

if TYPE_CHECKING:
    from distill.pairs.collate import PairCollator, supervised_rows, supervised_tokens
    from distill.pairs.columns import COLUMNS
    from distill.pairs.packing import pack_pairs
    from distill.pairs.reading import load_pairs, pair_from_conversation
    from distill.pairs.schema import complete_row, pairs_from_rows
    from distill.pairs.tokens import are_tokens_of, retokenize
    from distill.pairs.writing import save_pairs

__all__ = [
    "COLUMNS",
    "PairCollator",
    "are_tokens_of",
    "complete_row",
    "load_pairs",
    "pack_pairs",
    "pair_from_conversation",
    "pairs_from_rows",
    "retokenize",
    "save_pairs",
    "supervised_rows",
    "supervised_tokens",
]

# Pairs are read without torch.
__getattr__ = lazy_names(
    __name__,
    {
        "COLUMNS": "distill.pairs.columns",
        "PairCollator": "distill.pairs.collate",
        "are_tokens_of": "distill.pairs.tokens",
        "complete_row": "distill.pairs.schema",
        "load_pairs": "distill.pairs.reading",
        "pack_pairs": "distill.pairs.packing",
        "pair_from_conversation": "distill.pairs.reading",
        "pairs_from_rows": "distill.pairs.schema",
        "retokenize": "distill.pairs.tokens",
        "save_pairs": "distill.pairs.writing",
        "supervised_rows": "distill.pairs.collate",
        "supervised_tokens": "distill.pairs.collate",
    },
)
