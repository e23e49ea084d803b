"""Masks of attention as rules, read from what a kernel is given: flash and flex attention never make a [T, T] one.

A kernel of the flash family gets a padding mask or none, a window, and where rows are packed their positions; flex attention gets a
`BlockMask`. Both say which keys a position sees, and neither as a tensor that could be read. Made of them here is a rule, which is asked about a few
positions at a time: memory stays linear in T. What it says is what the kernel does, and for batches of pairs what the mask of sdpa says.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers.utils.generic import is_flash_attention_requested

PIECE = 2**26  # places of a mask looked at at once


def is_flash(implementation: str) -> bool:
    """Whether a kernel of the flash family is meant: `flash_attention_2` and later, and those of the Hub."""
    return is_flash_attention_requested(requested_attention_implementation=implementation)


@dataclass(frozen=True, eq=False)
class MaskRule:
    """Which keys a position sees, by their places.

    Args:
        rule: of rows `[c, 1, 1]`, positions `[c, m, 1]` and keys `[1, 1, K]`: bool, broadcast to `[c, m, K]`; on `device`.
        shape: (B, T).
        device: where its tensors are.
        first: `[B or 1, T]`, the first key that each position may see, where that is known; no position sees one behind itself.
    """

    rule: Callable[[Tensor, Tensor, Tensor], Tensor]
    shape: tuple[int, int]
    device: torch.device
    first: Tensor | None = None

    def shown(self, rows: Tensor, positions: Tensor, keys: slice) -> Tensor:
        """`[c, 1, m, K]` bool: what these positions see of these keys.

        Args:
            rows: `[c, 1]` of the batch.
            positions: `[c, m]`.
            keys: from the first to behind the last.
        """
        places = torch.arange(keys.start, keys.stop, device=self.device)[None, None]
        seen = self.rule(rows.to(self.device)[..., None], positions.to(self.device)[..., None], places)
        return seen.expand(*positions.shape, places.shape[-1])[:, None].to(positions.device)

    def of_rows(self, index: Tensor) -> "MaskRule":
        """For some rows of the batch."""
        here, first = index.to(self.device), self.first
        first = first if first is None or len(first) == 1 else first.index_select(0, here)
        shape, rule = (len(here), self.shape[1]), self.rule
        return MaskRule(lambda rows, positions, keys: rule(here[rows], positions, keys), shape, self.device, first)

    def ranges(self) -> tuple[Tensor, Tensor]:
        """`[B or 1, T]` each: the first and the last key that a position may see. Nothing waits."""
        batch, time = self.shape
        every = torch.arange(time, device=self.device)
        if self.first is not None:
            return self.first, every.expand_as(self.first)
        rows, found = torch.arange(batch, device=self.device)[:, None], []
        height = max(1, PIECE // max(1, batch * time))
        for start in range(0, time, height):
            seen = self.shown(rows, every[None, start : start + height].expand(batch, -1), slice(0, time))[:, 0].byte()
            found.append(torch.stack([seen.argmax(-1), time - 1 - seen.flip(-1).argmax(-1)]))
        first, last = torch.cat(found, dim=-1)
        return first, last


def mask_of_flash(
    shape: tuple[int, int], device: torch.device, mask: Tensor | None, given: Mapping[str, Any], is_causal: bool
) -> MaskRule | None:
    """What a kernel of the flash family does with the arguments that `transformers` gives it; None: causal, and that is all.

    As in `transformers.modeling_flash_attention_utils`: rows with a padding mask are squeezed together, so that a window counts tokens and no
    padding; in a row without one, documents begin where `cu_seq_lens_q` says, or where positions begin again, if it is the only row.

    Args:
        shape: (B, T) of the queries.
        device: of the queries.
        mask: `[B, T]`, 0 at padding; or None.
        given: the other arguments: `sliding_window`, `position_ids`, `cu_seq_lens_q`.
        is_causal: whether a position sees what stands before it only.

    Raises:
        ValueError: it is not causal; documents that may go over the end of a row; a mask of another shape.
    """
    batch, time = shape
    if not is_causal:
        raise ValueError(
            "This attention is not causal, so it has no next-token maps to compare; leave AttentionMaps out."
        )
    if mask is not None and mask.shape != shape:
        raise ValueError(
            f"Attention was given a mask of shape {list(mask.shape)} for {batch} x {time} tokens; a kernel of the flash family takes one "
            "number a token."
        )
    window, starts = given.get("sliding_window"), None
    every = torch.arange(time, device=device)
    if mask is not None:
        real = mask.to(device).bool()
        rank = real.long().cumsum(-1)
        lowest = rank.new_ones(()) if window is None else (rank - window + 1).clamp(min=1)
        first = torch.searchsorted(rank, lowest.expand_as(rank).contiguous())
        return MaskRule(
            lambda rows, positions, keys: (
                (keys <= positions) & (keys >= first[rows, positions]) & real[rows, keys]
            ),
            shape, device, first.clamp(max=every),
        )  # fmt: skip
    lengths, positions = given.get("cu_seq_lens_q"), given.get("position_ids")
    if lengths is not None:
        if batch > 1:
            raise ValueError(
                f"cu_seq_lens_q with {batch} rows: documents may go from one row into the next, and maps are compared within rows; give one "
                "row (DataCollatorWithFlattening, or packing=True)."
            )
        starts = torch.searchsorted(lengths.to(every), every, right=True) - 1
        starts = lengths.to(every)[starts.clamp(min=0, max=len(lengths) - 1)]
    elif positions is not None and batch == 1 and positions.shape[-1] == time:
        begins = positions[0] == positions.min()
        starts = torch.where(begins, every, 0).cummax(0).values
    if starts is None and window is None:
        return None
    lowest = every * 0 if starts is None else starts
    lowest = lowest if window is None else torch.maximum(lowest, every - window + 1)
    return MaskRule(
        lambda rows, positions, keys: (keys <= positions) & (keys >= lowest[positions]), shape, device, lowest[None]
    )


def mask_of_flex(mask: Any, device: torch.device) -> Any:
    """A `BlockMask` as the function that it was made from; another mask as it is.

    Args:
        mask: what flex attention was given.
        device: of the queries.

    Raises:
        ValueError: there is none, so that every position sees every other.
    """
    if mask is None:
        raise ValueError(
            "flex_attention was given no mask, so every position sees every other; leave AttentionMaps out."
        )
    if not isinstance(mask, BlockMask):
        return mask
    head = torch.zeros((), dtype=torch.long, device=device)
    batch, _, time, _ = mask.shape
    return MaskRule(lambda rows, positions, keys: mask.mask_mod(rows, head, positions, keys), (batch, time), device)
