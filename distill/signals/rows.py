"""Where a batch has its supervised positions: asked of the device once, then known on both sides.

Indexing with booleans makes the host wait for the device, because the size of the result is known only there. A training step that
does so for every layer waits hundreds of times; with the places as numbers it waits once a batch.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class SupervisedRows:
    """The N supervised positions of a batch, in the order of `mask.nonzero()`.

    Args:
        mask: `[B, T]` bool, True at supervised positions.
        index: `[N]` int64, their places b * T + t, where the batch is.
        host: `[N]` the same on the host.
        sent: `index` by device, on those that were asked for states: a model may be spread over several.

    Example:
        >>> SupervisedRows.of(torch.tensor([[False, True], [True, False]])).index
        tensor([1, 2])
    """

    mask: Tensor
    index: Tensor
    host: Tensor
    sent: dict[torch.device, Tensor] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, mask: Tensor) -> "SupervisedRows":
        """The one wait for the device: the mask is copied to the host."""
        host = mask.to("cpu").flatten().nonzero().squeeze(1)
        return cls(mask, sent_to(mask.device, host), host)

    def __len__(self) -> int:
        return len(self.index)

    def take(self, states: Tensor) -> Tensor:
        """`[N, ...]` of `[B, T, ...]`, wherever that lies."""
        return states.flatten(0, 1).index_select(0, self.index_on(states.device))

    def index_on(self, device: torch.device) -> Tensor:
        """`index` on that device; copied there once, and not once a layer."""
        if device == self.index.device:
            return self.index
        if device not in self.sent:
            self.sent[device] = sent_to(device, self.host)
        return self.sent[device]

    def next_tokens(self, labels: Tensor) -> Tensor:
        """`[N]`: the label that follows each supervised position. No row ends with a supervised position."""
        return labels.flatten().index_select(0, self.index + 1)

    def counts(self) -> list[int]:
        """How many each row of the batch has."""
        batch, time = self.mask.shape
        return torch.bincount(self.host // max(time, 1), minlength=batch).numpy().tolist()


def sent_to(device: torch.device, host: Tensor) -> Tensor:
    """A small tensor of the host on the device; the host does not wait for the copy."""
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)
