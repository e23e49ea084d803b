"""How likely a model finds the completions of pairs: a number for each pair, comparable between models of other tokens."""

import datasets
import torch

from distill.evaluation.risk.sides import Side
from distill.models.evaluating import evaluating
from distill.models.load import fast_dtype
from distill.pairs.collate import PairCollator, supervised_rows, supervised_tokens
from distill.signals import SignalRequest, run_with_taps


@torch.no_grad()
def log_likelihoods(side: Side, pairs: datasets.Dataset, *, batch_size: int = 8, max_length: int = 1024) -> list[float]:
    """Log-likelihood of each completion behind its prompt, in nats a byte of its text.

    A byte and not a token, so that models with other tokens stand on one scale.

    Args:
        side: whose.
        pairs: in any tokens; made anew from their text where they are others.
        batch_size: rows at once.
        max_length: longest row in tokens; the rest of a longer completion is not scored.

    Returns:
        In the order of the pairs.

    Raises:
        ValueError: pairs that cannot be told in this model's tokens (a completion without text).
    """
    own = side.in_its_tokens(pairs)
    if len(own) != len(pairs):
        raise ValueError(
            f"{len(pairs) - len(own)} of {len(pairs)} pairs have an empty completion, which has no text to be likely."
        )
    collate = PairCollator(side.speaker.tokenizer, max_length=max_length)
    rows = list(own.select_columns([name for name in own.column_names if name != "teacher_prompt_ids"]))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["prompt_ids"]) + len(rows[i]["completion_ids"]))
    found, device, dtype = [0.0] * len(rows), side.model.device, fast_dtype()
    with evaluating(side.model), torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        for start in range(0, len(order), batch_size):
            some = order[start : start + batch_size]
            batch = collate([rows[i] for i in some])
            wanted = supervised_rows(batch["labels"])
            labels = supervised_tokens(batch["labels"], wanted).to(device)
            inputs = {name: tensor.to(device) for name, tensor in batch.items() if name != "labels"}
            signals = run_with_taps(side.model, side.model, inputs, wanted.to(device), SignalRequest(logits=True))
            assert signals.logits is not None
            losses = torch.nn.functional.cross_entropy(signals.logits.float(), labels, reduction="none")
            for i, part in zip(some, losses.split(wanted.sum(1).tolist()), strict=True):
                found[i] = -float(part.sum()) / max(1, len(rows[i]["completion"].encode()))
    return found
