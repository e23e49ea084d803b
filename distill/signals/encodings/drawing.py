"""Drawing tokens from distributions: seeded by the document, inverted in float64, without a sorted vocabulary.

Random numbers come from Philox (Salmon et al. 2011), a generator whose stream is a function of key and counter and is kept by numpy
for good; the key is the document's. So what is drawn for a document does not know of the batch it came in, nor of the device.

Cumulative sums are in float64: float32 ones reached 1.0014 over 49,152 tokens. They are taken in two levels, over blocks of tokens and
within the blocks that were hit, so that the vocabulary is read once.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK = 128
_AT_ONCE = 2**24  # numbers of blocks that were hit, 128 MiB in float64


def uniforms(
    seeds: Sequence[bytes], counts: Sequence[int], each: int, seed: int = 0, number: int = 0
) -> NDArray[np.float64]:
    """`[N, each]` numbers from 0 and below 1, N the sum of `counts`.

    Args:
        seeds: 16 bytes a document.
        counts: positions of each.
        each: numbers a position.
        seed, number: another one gives other numbers; number is below 2^64.
    """
    assert len(seeds) == len(counts), (len(seeds), len(counts))
    drawn = np.zeros((sum(counts), each))
    at = 0
    for key, count in zip(seeds, counts, strict=True):
        if each and count:
            stream = np.random.Philox(key=int.from_bytes(key, "little"), counter=(seed << 192) + (number << 128))
            raw = stream.random_raw(count * each)
            drawn[at : at + count] = ((raw >> np.uint64(11)) * 2.0**-53).reshape(count, each)
        at += count
    return drawn


def in_blocks(p: Tensor) -> Tensor:
    """`[n, V]` filled up with zeros to `[n, blocks, BLOCK]`."""
    rest = -p.shape[1] % BLOCK
    p = torch.nn.functional.pad(p, (0, rest)) if rest else p
    return p.view(len(p), -1, BLOCK)


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row of `[n, V]`, largest first, and their places: by way of the largest of each block.

    They lie in the `count` blocks with the largest maxima, and `topk` over a vocabulary is most of what an encoding would cost.
    """
    rows, columns = values.shape
    blocks = columns // BLOCK
    if blocks <= 2 * count:
        found = values.topk(min(count, columns), dim=1)
        return found.values, found.indices
    whole = values[:, : blocks * BLOCK].view(rows, blocks, BLOCK)
    where = whole.amax(dim=2).topk(count, dim=1).indices
    places = (where[:, :, None] * BLOCK + torch.arange(BLOCK, device=values.device)).view(rows, -1)
    if blocks * BLOCK < columns:
        rest = torch.arange(blocks * BLOCK, columns, device=values.device).expand(rows, -1)
        places = torch.cat([places, rest], dim=1)
    found = values.gather(1, places).topk(count, dim=1)
    return found.values, places.gather(1, found.indices)


def inverted(blocks: Tensor, sums: Tensor, points: Tensor) -> Tensor:
    """The token at which the cumulative sum passes each point.

    Args:
        blocks: `[n, blocks, BLOCK]`, masses of tokens.
        sums: `[n, blocks]` float64, of the blocks.
        points: `[n, K]` float64, from 0 to the sum of all.

    Returns:
        `[n, K]` int64. A token without mass is never hit, if there is any with.
    """
    up_to = sums.cumsum(dim=1)
    points = torch.minimum(points, _just_below(up_to[:, -1:]))
    before = up_to - sums
    # thousands of points a row would look at the blocks of all at once
    each = max(1, _AT_ONCE // (BLOCK * max(len(sums), 1)))
    parts = [_within_blocks(blocks, before, up_to, part) for part in points.split(each, dim=1)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _within_blocks(blocks: Tensor, before: Tensor, up_to: Tensor, points: Tensor) -> Tensor:
    block = torch.searchsorted(up_to, points.contiguous(), right=True).clamp_(max=up_to.shape[1] - 1)
    within = points - before.gather(1, block)
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK)).double().cumsum(dim=2)
    within = torch.minimum(within, _just_below(inside[:, :, -1])).clamp_(min=0)
    token = torch.searchsorted(inside, within[:, :, None], right=True).squeeze(2).clamp_(max=BLOCK - 1)
    return block * BLOCK + token


def _just_below(numbers: Tensor) -> Tensor:
    return numbers * (1 - 2.0**-52)
