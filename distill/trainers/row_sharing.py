"""Sampler of several processes: each row of an epoch once, from a dataset or a stream, or in an order by length.

`accelerate` needs whole batches for every process and fills the last ones with rows from the beginning of the epoch. These
rows would count twice, so the last step of an epoch would depend on the number of processes, and a held-out loss too. Here
the batches are filled with rows that carry no loss. Of a stream it would let one process read for all and cut its batches into
parts, which needs rows of one length; or give each process some of its files, and wait for ever when one has fewer rows. Here every
process reads the whole stream and takes its own rows of each batch.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import datasets
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Dataset, IterableDataset, RandomSampler, Sampler, SequentialSampler, get_worker_info

from distill.pairs.collate import EMPTY, PairCollator
from distill.pairs.packing import PackedPairs
from distill.trainers.length_order import by_length

logger = logging.getLogger(__name__)


def arranged(
    trainer: Any, rows: Any, description: str, batch_size: int, sampler_fn: Callable[[Any], Any] | None, training: bool
) -> tuple[Any, Callable[[Any], Any] | None]:
    """The rows and the order that Trainer's own loader is to be made of.

    Args:
        trainer: a `PairTrainer`.
        rows: what it wants a loader of.
        description, batch_size, sampler_fn: as of `Trainer._get_dataloader`.
        training: whether they are trained on.

    Raises:
        ValueError: a stream that another one has already divided, or that is to be cut into parts; rows whose lengths are not known.
    """
    args, own = trainer.args, isinstance(trainer.data_collator, PairCollator)
    config = args.accelerator_config
    if isinstance(rows, IterableDataset):
        return (_stream(trainer, rows, description, batch_size, training) if own else rows), sampler_fn
    sampler_fn = by_length(trainer, rows, batch_size, sampler_fn, training)
    strategy = str(getattr(args, "train_sampling_strategy", "random"))
    if (
        args.world_size > 1
        and own
        and isinstance(rows, datasets.Dataset | PackedPairs | list | tuple)
        and (strategy != "batch_rebalance" or not training)
        and not (args.dataloader_drop_last or config.split_batches or config.dispatch_batches)
    ):
        order = sampler_fn and sampler_fn(rows)
        if isinstance(rows, datasets.Dataset):
            rows = trainer._remove_unused_columns(rows, description=description)
        shared = WithEmptyRows(rows, SharedOrder(rows, order, batch_size * args.world_size, args.data_seed))
        return shared, lambda _: shared.order
    if args.world_size > 1 and not args.dataloader_drop_last:
        logger.warning(
            "%s: with this collator or way of sampling, accelerate may repeat rows to fill the last batches of an epoch in "
            "several processes; they count twice.",
            description,
        )
    return rows, sampler_fn


class SharedOrder(Sampler[int]):
    """The order of one process, and then numbers beyond the last row up to a whole batch for every process.

    Args:
        rows: what is sampled.
        order: `transformers.Trainer`'s own sampler, or one by length; None: from first to last.
        multiple: rows of a batch times processes.
        seed: as `accelerate` takes it for `SeedableRandomSampler`.
    """

    def __init__(self, rows: Any, order: Sampler[int] | None, multiple: int, seed: int | None = None) -> None:
        self.count, self.multiple = len(rows), multiple
        if isinstance(order, RandomSampler):
            # what accelerate makes of it in one process
            order = SeedableRandomSampler(data_source=rows, data_seed=seed)
        self.order: Any = order or SequentialSampler(rows)

    def __len__(self) -> int:
        return -(-self.count // self.multiple) * self.multiple

    def __iter__(self) -> Iterator[int]:
        yield from self.order
        yield from range(self.count, len(self))

    def set_epoch(self, epoch: int) -> None:
        """Which shuffle comes next."""
        if hasattr(self.order, "set_epoch"):
            self.order.set_epoch(epoch)


class WithEmptyRows(Dataset[Any]):
    """Rows, and beyond the last one rows without loss. Its length is that of the real rows.

    Args:
        rows: pairs, or bins of pairs.
        order: in which they are taken.
    """

    def __init__(self, rows: Any, order: SharedOrder) -> None:
        self.rows, self.order = rows, order

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        if index < len(self.rows):
            return self.rows[index]
        return [EMPTY] if isinstance(self.rows[0], list) else EMPTY


class WholeStream(IterableDataset[Any]):
    """A stream, and behind its last row rows without loss, where a batch or a step would else be cut short.

    Every process gets a batch; and Trainer does not know where a stream ends: of a step that the end cuts short it would keep the
    gradient for the next epoch. A last batch of one process is left as short as it is: more rows in it would be more predictions,
    and count in a router's loss. A class of its own also because `accelerate` would give each process some of the files of a `datasets.IterableDataset`.

    Args:
        rows: the stream, the same in every process.
        together: rows of a batch of all processes.
        step: batches of a step.
        alone: there is one process.
        drop_last: leave out the rows behind the last whole batch.

    Raises:
        ValueError: there are no rows.
    """

    def __init__(self, rows: Any, together: int, step: int = 1, drop_last: bool = False, alone: bool = False) -> None:
        self.rows, self.together, self.step, self.drop_last, self.alone = rows, together, step, drop_last, alone
        if hasattr(rows, "generator"):  # accelerate seeds it alike in all processes
            self.generator = rows.generator

    def __iter__(self) -> Iterator[Any]:
        count, batch = 0, []
        for row in self.rows:
            batch.append(row)
            if len(batch) == self.together:
                yield from batch
                count, batch = count + len(batch), []
        if not self.drop_last:
            yield from batch
            count += len(batch)
        if not count and get_worker_info() is None:
            raise ValueError("The stream has no rows, or none is left of it: a generator can be read once only.")
        missing = -count % (self.together * self.step)
        if not (self.alone and missing < self.together):
            yield from [EMPTY] * missing

    def set_epoch(self, epoch: int) -> None:
        """Which shuffle comes next."""
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)


def _stream(trainer: Any, rows: Any, description: str, batch_size: int, training: bool) -> Any:
    """A stream as this process reads it."""
    args, config = trainer.args, trainer.args.accelerator_config
    if args.world_size > 1 and getattr(rows, "_distributed", None) is not None:
        raise ValueError(
            f"{description}: the stream is already divided over processes (split_dataset_by_node). Give the whole stream: every process "
            "takes its own rows of each batch."
        )
    if args.world_size > 1 and config.dispatch_batches:
        raise ValueError(
            f"{description}: dispatch_batches=True lets one process read and cut its batches into parts, which needs rows of one length. "
            "Leave it out: every process reads the stream and takes its own rows of each batch."
        )
    if args.world_size > 1 and not training and (trainer.compute_metrics is not None or description == "test"):
        raise ValueError(
            f"{description}: the predictions of a stream in several processes would have some for rows that fill up the last batch. Give "
            "the rows as a list or a datasets.Dataset, leave compute_metrics out, or predict in one process."
        )
    # where it is left open, accelerate would take True for a stream
    trainer.accelerator.dataloader_config.dispatch_batches = False
    together = batch_size * (1 if config.split_batches else args.world_size)
    step = args.gradient_accumulation_steps if training else 1
    return WholeStream(rows, together, step, args.dataloader_drop_last, alone=args.world_size == 1)
