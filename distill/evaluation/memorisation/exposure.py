"""Exposure of secrets: the exact rank of each among all values that it might have had (Carlini et al. 2019)."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from distill.evaluation.memorisation.canaries import Canaries, Canary
from distill.models.evaluating import evaluating
from distill.text.encode import as_prompt, encode_prompt

ROWS = 256  # prefixes at once


@dataclass(frozen=True)
class Exposure:
    """How well a model knows one secret.

    Args:
        canary: whose.
        rank: of the secret among all values, 1 is the likeliest; of equally likely ones the middle.
        space: how many values there are.
        log_likelihood: of the secret, in nats, behind its question and the words before it.
    """

    canary: Canary
    rank: float
    space: int
    log_likelihood: float

    @property
    def bits(self) -> float:
        """log2(space) - log2(rank): 0 for the unlikeliest, log2(space) for the likeliest. For a secret that was never seen it is 1.44 on average."""
        return math.log2(self.space) - math.log2(self.rank)

    @property
    def share(self) -> float:
        """Share of values that are at most as likely: uniform between 0 and 1 for a secret that was never seen."""
        return 1 - (self.rank - 0.5) / self.space


@torch.no_grad()
def exposures(
    model: PreTrainedModel | Any,
    tokenizer: PreTrainedTokenizerBase,
    canaries: Canaries,
    *,
    which: Sequence[Canary] | None = None,
    chat: bool | None = None,
) -> list[Exposure]:
    """The exact rank of each secret: the likelihood of *every* value is computed, none is sampled.

    Values share their beginnings, so each beginning is run once, behind one run of the question: for three digits that are a token each
    100 rows of 2 tokens.

    Args:
        model, tokenizer: who is examined.
        canaries: planted and controls are all ranked.
        which: only these.
        chat: whether the question is asked in the chat template; None: where there is one.

    Returns:
        In the order of `which`, or of planted and controls.
    """
    found = []
    with evaluating(model):
        for one in (*canaries.planted, *canaries.controls) if which is None else which:
            values = likelihoods(model, tokenizer, one, canaries.secrets, chat=chat)
            own = values[canaries.secrets.index(one.secret)]
            rank = 1 + float((values > own).sum()) + (float((values == own).sum()) - 1) / 2
            found.append(Exposure(one, rank, len(values), float(own)))
    return found


@torch.no_grad()
def likelihoods(
    model: Any, tokenizer: PreTrainedTokenizerBase, canary: Canary, secrets: Sequence[str], *, chat: bool | None = None
) -> Tensor:
    """Log-likelihood of each value in place of a canary's secret, in nats, `[len(secrets)]` in float64.

    Only the value is scored: all have as many digits, so none begins another, and what stands behind would cost a row for each of them.
    """
    prompt = encode_prompt(as_prompt(canary.question, tokenizer, chat), tokenizer)
    texts = [f"{canary.before}{secret}" for secret in secrets]
    rows = [prompt + ids for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    shared = _shared(rows)
    # of each beginning, whatever comes behind it
    place: dict[tuple[int, ...], int] = {}
    for row in rows:
        place.setdefault(tuple(row[shared:-1]), len(place))
    device = model.get_input_embeddings().weight.device
    begun = model(input_ids=torch.tensor([rows[0][:shared]], device=device), use_cache=True)
    first = begun.logits[:, -1:].float().log_softmax(-1)
    total = torch.zeros(len(rows), dtype=torch.float64)
    of_row = torch.tensor([place[tuple(row[shared:-1])] for row in rows])
    beginnings = list(place)
    for start in range(0, len(beginnings), ROWS):
        some = beginnings[start : start + ROWS]
        longest = max(map(len, some))
        logs = first.expand(len(some), 1, -1)
        if longest:
            # right padding: causal, so that nothing sees it
            padded = torch.tensor([[*one, *[0] * (longest - len(one))] for one in some], device=device)
            logs = torch.cat([logs, model(input_ids=padded, past_key_values=_repeated(begun.past_key_values, len(some)), use_cache=True).logits.float().log_softmax(-1)], 1)  # fmt: skip
        for number in ((of_row >= start) & (of_row < start + len(some))).nonzero().flatten().tolist():
            behind = torch.tensor(rows[number][shared:], device=device)
            at = logs[of_row[number] - start, : len(behind)]
            total[number] = at.gather(1, behind[:, None]).double().sum().cpu()
    return total


def _shared(rows: Sequence[list[int]]) -> int:
    """Tokens that all rows begin with; of no row all."""
    low, high = min(rows), max(rows)
    count = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return min(count, min(map(len, rows)) - 1)


def _repeated(cache: Any, count: int) -> DynamicCache:
    """A copy of the question's cache, once for each row: a forward pass writes into it."""
    own: DynamicCache = copy.deepcopy(cache)
    own.batch_repeat_interleave(count)
    return own
