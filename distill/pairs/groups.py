"""The rows of one prompt: samples that belong together, whatever their order in the file."""

import datasets
import numpy as np
import pyarrow.compute as pc


def rows_by_prompt(pairs: datasets.Dataset) -> dict[bytes, list[int]]:
    """The rows of each prompt, in their order; prompts in the order in which they first appear.

    Two rows have the same prompt if their `prompt_ids` are the same. The keys are those of `ids_as_bytes`.

    Example:
        >>> most_samples = max(map(len, rows_by_prompt(pairs).values()))
    """
    rows: dict[bytes, list[int]] = {}
    for row, prompt in enumerate(ids_as_bytes(pairs, "prompt_ids")):
        rows.setdefault(prompt, []).append(row)
    return rows


def ids_as_bytes(pairs: datasets.Dataset, column: str) -> list[bytes]:
    """Each row's ids as bytes (int32): equal where the ids are, and quicker to compare and to hash than lists."""
    # that column alone: picked rows are put together for every column that is there
    lists = pairs.select_columns([column]).with_format("arrow")[:][column].combine_chunks()
    sizes = np.asarray(pc.list_value_length(lists)).astype(np.int64) * 4
    ends = sizes.cumsum()
    data = np.ascontiguousarray(pc.list_flatten(lists).to_numpy(), dtype=np.int32).tobytes()
    return [data[start:end] for start, end in zip((ends - sizes).tolist(), ends.tolist(), strict=True)]
