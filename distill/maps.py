"""Divergence between two attention maps, from their queries and keys. Never holds a map of the whole batch."""

import torch
from torch import Tensor

from distill.divergences import forward_kl
from distill.taps import AttentionTap


def attention_scores(tap: AttentionTap, row: int, positions: Tensor) -> Tensor:
    """Masked scores `[H, n, T]` in float32 of one row of the batch: their softmax over the last axis is the map.

    Args:
        tap: queries and keys of a layer.
        row: index into the batch.
        positions: `[n]`, the query positions wanted.
    """
    query = tap.query[row][:, positions].float()
    key = tap.key[row].float()
    key = key.repeat_interleave(query.shape[0] // key.shape[0], dim=0)  # grouped queries share a key head
    scores = query @ key.transpose(1, 2) * tap.scaling
    if tap.mask is None:
        seen = torch.arange(key.shape[1], device=key.device) <= positions[:, None]
        return scores.masked_fill(~seen, float("-inf"))
    mask = tap.mask[row if tap.mask.shape[0] > 1 else 0][:, positions]
    return scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask


def attention_kl(student: AttentionTap, teacher: AttentionTap, rows: Tensor) -> Tensor:
    """KL(teacher's map || student's map) at each supervised position, mean over heads.

    One row of the batch is worked on at a time: memory is H * n * T numbers for the longest row.

    Args:
        student, teacher: one layer each, with the same number of heads.
        rows: `[B, T]` bool, the supervised positions.

    Returns:
        `[N]`, in nats.
    """
    values = []
    for row in range(rows.shape[0]):
        positions = rows[row].nonzero().squeeze(1)
        if len(positions):
            student_scores = attention_scores(student, row, positions)
            teacher_scores = attention_scores(teacher, row, positions)
            values.append(forward_kl(student_scores, teacher_scores).mean(dim=0))
    return torch.cat(values)
