"""Between text and token ids.

`encode` is the only one that knows chat templates; conversations become one row; reasoning traces are told from answers; two
vocabularies are compared; texts that say nearly the same are found.
"""

from distill.text.encode import Messages, Prompt, as_prompt, encode_completion, encode_prompt
from distill.text.near_duplicates import near_duplicates
from distill.text.traces import split_trace
from distill.text.vocabulary import shared_vocabulary

__all__ = [
    "Messages",
    "Prompt",
    "as_prompt",
    "encode_completion",
    "encode_prompt",
    "near_duplicates",
    "shared_vocabulary",
    "split_trace",
]
