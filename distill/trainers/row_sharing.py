"""Sampler of several processes: each row of an epoch once.

`accelerate` needs whole batches for every process and fills the last ones with rows from the beginning of the epoch. These
rows would count twice, so the last step of an epoch would depend on the number of processes, and a held-out loss too. Here
the batches are filled with rows that carry no loss.
"""

from collections.abc import Iterator
from typing import Any

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Dataset, RandomSampler, Sampler, SequentialSampler

from distill.pairs.collate import EMPTY


class SharedOrder(Sampler[int]):
    """The order of one process, and then numbers beyond the last row up to a whole batch for every process.

    Args:
        rows: what is sampled.
        order: `transformers.Trainer`'s own sampler; None: from first to last.
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
    """

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        if index < len(self.rows):
            return self.rows[index]
        return [EMPTY] if isinstance(self.rows[0], list) else EMPTY
