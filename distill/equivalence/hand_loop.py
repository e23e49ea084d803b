"""Supervised fine-tuning without any trainer: what everybody would write. It shares no line with the rest of the package."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import cross_entropy, pad
from torch.nn.utils.rnn import pad_sequence


def batch_of(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad on the right; no loss on prompt and padding."""
    ids = [torch.tensor(row["prompt_ids"] + row["completion_ids"]) for row in rows]
    labels = [torch.tensor([-100] * len(row["prompt_ids"]) + row["completion_ids"]) for row in rows]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=0),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
    }


def hand_loop(model: Any, rows: list[dict[str, Any]], settings: Any) -> Iterator[int]:
    """Train `model` in place, one optimiser step each time the next value is asked for; `settings` as in `programs`."""
    s = settings
    windows = []  # batches of one optimiser step, for all epochs; each epoch has its own order
    for epoch in range(s.epochs):
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(s.seed + epoch)).tolist()
        indices = [order[i : i + s.batch_size] for i in range(0, len(rows), s.batch_size)]
        windows += [indices[i : i + s.accumulation] for i in range(0, len(indices), s.accumulation)]
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": s.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=s.learning_rate, fused=True)
    model.train()
    for step, window in enumerate(windows):
        batches = [batch_of([rows[i] for i in batch]) for batch in window]
        tokens = sum((batch["labels"][:, 1:] != -100).sum() for batch in batches)
        for batch in batches:
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
            following = pad(batch["labels"], (0, 1), value=-100)[:, 1:]
            loss = cross_entropy(logits.flatten(0, 1), following.flatten(), reduction="sum") / tokens
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), s.max_grad_norm)
        for group in optimizer.param_groups:
            warm, left = step / max(s.warmup_steps, 1), (len(windows) - step) / max(len(windows) - s.warmup_steps, 1)
            group["lr"] = s.learning_rate * (warm if step < s.warmup_steps else left)
        optimizer.step()
        optimizer.zero_grad()
        yield step
