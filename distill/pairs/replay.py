"""Replay: some rows among the trained ones that say what the model said before."""

import datasets

from distill.basics.processes import say
from distill.pairs.groups import ids_digests


def replayed(pairs: datasets.Dataset, own: datasets.Dataset, share: float) -> datasets.Dataset:
    """Training pairs, and behind them so many of the start's own samples that they are `share` of all rows.

    The start's own text stands in for the data that it was trained on, which nobody has; learning it anew holds the student where it was. Rows
    of prompts that are trained are not taken, since on these the student shall change.

    Args:
        pairs: of the training.
        own: the start's samples on other prompts (`distill.evaluation.forgetting.own_pairs`), enough of them.
        share: of all rows, 0 to below 1; 0 gives the pairs themselves.

    Raises:
        ValueError: a share out of range, or so small that it is no row; too few samples.

    Source: Robins 1995 (pseudo-rehearsal); Scialom et al. 2022 (rehearsal of 0.25 to 1% in instruction tuning).

    Example:
        >>> mixed = replayed(pairs, own_pairs(start, 200), 0.05)
    """
    if not 0 <= share < 1:
        raise ValueError(f"replay is {share}; it is a share of the training rows, from 0 (none) to below 1.")
    if share == 0:
        return pairs
    count = round(share / (1 - share) * len(pairs))
    if count == 0:
        raise ValueError(
            f"replay is {share}, which of {len(pairs)} training rows is not one; raise it above {0.5 / (len(pairs) + 0.5):.4f}, or give more rows."
        )
    trained = set(ids_digests(pairs, "prompt_ids"))
    others = [row for row, prompt in enumerate(ids_digests(own, "prompt_ids")) if prompt not in trained]
    if len(others) < len(own):
        say(f"{len(own) - len(others)} of {len(own)} own samples are on prompts that are trained, and are left out.")
    if len(others) < count:
        raise ValueError(
            f"replay is {share}, which is {count} rows beside {len(pairs)}, and there are {len(others)} own samples on other prompts; give more."
        )
    return datasets.concatenate_datasets([pairs, own.select(others[:count])])
