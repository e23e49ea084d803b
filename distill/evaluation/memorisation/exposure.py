"""Exposure of secrets: the exact rank of each among all values that it might have had (Carlini et al. 2019)."""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from distill.evaluation.memorisation.canaries import Canaries, Canary
from distill.models.adapters import base_of
from distill.models.evaluating import evaluating
from distill.signals.head import head_of
from distill.text.encode import as_prompt, encode_prompt

ROWS = 512  # beginnings of values at once
TOGETHER = 16  # questions at once


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
    everybody = (*canaries.planted, *canaries.controls) if which is None else tuple(which)
    found = []
    values = likelihoods(model, tokenizer, everybody, canaries.secrets, chat=chat)
    for one, own in zip(everybody, values, strict=True):
        if own.isnan().any():
            raise ValueError(
                f"The likelihoods of {one.id} are no numbers: this model is broken, and a rank of its secrets would look like the highest."
            )
        of_secret = own[canaries.secrets.index(one.secret)]
        rank = 1 + float((own > of_secret).sum()) + (float((own == of_secret).sum()) - 1) / 2
        found.append(Exposure(one, rank, len(own), float(of_secret)))
    return found


@torch.no_grad()
def likelihoods(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    canaries: Sequence[Canary],
    secrets: Sequence[str],
    *,
    chat: bool | None = None,
) -> Tensor:
    """Log-likelihood of each value in place of each canary's secret, in nats, `[len(canaries), len(secrets)]` in float64.

    Only the value is scored: all have as many digits, so none begins another, and what stands behind would cost a row for each of them.
    Canaries whose questions have as many tokens are run together.
    """
    total = torch.zeros(len(canaries) * len(secrets), dtype=torch.float64)
    behind: list[list[int]] = []
    alike: dict[int, list[tuple[int, list[int]]]] = {}
    for number, one in enumerate(canaries):
        prompt = encode_prompt(as_prompt(one.question, tokenizer, chat), tokenizer)
        texts = [f"{one.before}{secret}" for secret in secrets]
        rows = [prompt + ids for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
        shared = _shared(rows)
        behind += [row[shared:] for row in rows]
        alike.setdefault(shared, []).append((number, rows[0][:shared]))
    device = model.get_input_embeddings().weight.device
    with evaluating(model), exact_head(model):
        for group in alike.values():
            for start in range(0, len(group), TOGETHER):
                some = group[start : start + TOGETHER]
                begun = model(input_ids=torch.tensor([ids for _, ids in some], device=device), use_cache=True)
                members = [list(range(n * len(secrets), (n + 1) * len(secrets))) for n, _ in some]
                _descend(model, begun, members, behind, 0, total)
    return total.view(len(canaries), len(secrets))


def _descend(
    model: Any, passed: Any, members: list[list[int]], behind: list[list[int]], depth: int, total: Tensor
) -> None:
    """Add what each value's token at `depth` costs, then go on behind each beginning that has more than one.

    Args:
        passed: what the model gave for the beginnings, a row each; its cache is theirs.
        members: of each beginning the values that begin so.
        behind: of each value its tokens.
        total: `[values]`, added to.
    """
    logs = passed.logits[:, -1].float().log_softmax(-1)
    pairs = [(row, value) for row, some in enumerate(members) for value in some]
    tokens = [behind[value][depth] for _, value in pairs]
    found = logs[[row for row, _ in pairs], tokens]
    total[[value for _, value in pairs]] += found.double().cpu()
    del logs
    children: dict[tuple[int, int], list[int]] = {}
    for (row, value), token in zip(pairs, tokens, strict=True):
        if len(behind[value]) > depth + 1:
            children.setdefault((row, token), []).append(value)
    names = list(children)
    for start in range(0, len(names), ROWS):
        some = names[start : start + ROWS]
        cache = _rows_of(passed.past_key_values, [row for row, _ in some])
        ids = torch.tensor([[token] for _, token in some], device=passed.logits.device)
        further = model(input_ids=ids, past_key_values=cache, use_cache=True)
        _descend(model, further, [children[name] for name in some], behind, depth + 1, total)


@contextmanager
def exact_head(model: Any) -> Iterator[None]:
    """Within it the head multiplies in float32, and the last position alone.

    In bfloat16 logits of 16 and more stand an eighth apart, so that values would tie; the rest of the model may round, the head must not. A head that is
    no plain matrix product stays as it is.
    """
    head = head_of(base_of(model))
    if head is None:
        yield
        return
    weight, bias = head.weight.float(), None if head.bias is None else head.bias.float()
    kind = weight.device.type

    def forward(hidden: Tensor) -> Tensor:
        with torch.autocast(kind, enabled=False):
            return functional.linear(hidden[:, -1:].float(), weight, bias)

    head.forward = forward  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        del head.forward


def _shared(rows: Sequence[list[int]]) -> int:
    """Tokens that all rows begin with; of no row all."""
    low, high = min(rows), max(rows)
    count = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return min(count, min(map(len, rows)) - 1)


def _rows_of(cache: Any, rows: list[int]) -> Any:
    """These rows of a cache as one of its own, some of them several times: a forward pass writes into it."""
    own = copy.copy(cache)
    # a plain layer is given new tensors when rows are chosen; others may be written in place
    own.layers = [copy.copy(one) if type(one) is DynamicLayer else copy.deepcopy(one) for one in cache.layers]
    own.batch_select_indices(torch.tensor(rows, device=cache.layers[0].keys.device))
    return own
