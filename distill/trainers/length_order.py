"""Lengths of rows, for Trainer's two ways of sampling by them: like lengths together, or like costs.

Trainer looks for a column `input_ids`, which pairs never have, and for one of lengths, which it has removed by then.
"""

from collections.abc import Callable, Iterator
from typing import Any

import datasets
import torch
from torch.utils.data import Sampler, SequentialSampler
from transformers.trainer_pt_utils import BatchRebalanceSampler, get_length_grouped_indices

from distill.pairs.packing import PackedPairs, pair_lengths


class LengthOrder(Sampler[int]):
    """Rows of like length together, the longest first, otherwise shuffled anew in each epoch.

    Trainer's own `LengthGroupedSampler` draws from a state that a run resumed in the middle of an epoch no longer has.

    Args:
        lengths: of the rows, in tokens.
        batch_size: rows that are to be alike: those of an optimiser's step in one process.
        seed: with the epoch it decides the order.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        yield from get_length_grouped_indices(self.lengths, self.batch_size, generator=generator)

    def set_epoch(self, epoch: int) -> None:
        """Which shuffle comes next."""
        self.epoch = epoch


def by_length(
    trainer: Any, rows: Any, batch_size: int, sampler_fn: Callable[[Any], Any] | None, training: bool
) -> Callable[[Any], Any] | None:
    """The maker of a sampler for rows: Trainer's own, or one that knows their lengths if the settings ask for it.

    Evaluation by length would give predictions in another order than that of the rows; it goes from first to last.

    Raises:
        ValueError: the lengths of these rows cannot be counted.
    """
    args = trainer.args
    strategy = str(getattr(args, "train_sampling_strategy", "random"))
    if strategy not in ("group_by_length", "batch_rebalance") or not hasattr(rows, "__len__"):
        return sampler_fn
    if not training:
        return SequentialSampler
    lengths = row_lengths(rows, getattr(trainer.data_collator, "max_length", None))
    seed = args.seed if args.data_seed is None else args.data_seed
    if strategy == "group_by_length":
        return lambda _: LengthOrder(lengths, batch_size * args.gradient_accumulation_steps, seed)
    return lambda _: BatchRebalanceSampler(
        lengths,
        effective_batch_size=batch_size * args.gradient_accumulation_steps * args.world_size,
        dp_size=args.world_size,
        grad_accum=args.gradient_accumulation_steps,
        rank=args.process_index,
        seed=seed,
        drop_last=args.dataloader_drop_last,
    )


def row_lengths(rows: Any, max_length: int | None) -> list[int]:
    """Tokens of each row, prompt and completion together, after what `max_length` cuts.

    Raises:
        ValueError: these are not pairs.
    """
    limit = 2**31 - 1 if max_length is None else max_length
    if isinstance(rows, PackedPairs):
        lengths = pair_lengths(rows.pairs, limit)
        return [int(lengths[numbers].sum()) for numbers in rows.bins]
    if isinstance(rows, datasets.Dataset):
        return pair_lengths(rows, limit).tolist()
    try:
        return [
            sum(
                min(len(pair["prompt_ids"]) + len(pair["completion_ids"]), limit)
                for pair in (row if isinstance(row, list) else [row])
            )
            for row in rows
        ]
    except (KeyError, TypeError, IndexError):
        raise ValueError(
            f"train_sampling_strategy asks for the lengths of rows, and rows of this {type(rows).__name__} do not say them: they have no "
            "prompt_ids and completion_ids."
        ) from None
