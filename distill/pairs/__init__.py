"""The pair, the training row: its schema, how it is read and written, how rows become a batch.

Token ids are the truth and text is for people. This room knows no model code.
"""

from distill.pairs.collate import PairCollator, supervised_rows, supervised_tokens
from distill.pairs.packing import pack_pairs
from distill.pairs.reading import are_tokens_of, load_pairs, pair_from_conversation, retokenize, save_pairs
from distill.pairs.schema import COLUMNS, complete_row, pairs_from_rows

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
