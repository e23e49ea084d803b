"""Sampling from the student with `transformers`, each row by numbers of its own: no state, no batch and no process decides what it writes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

from distill.models.adapters import base_of
from distill.models.evaluating import evaluating
from distill.models.generating import left_padded, own_generation_config, up_to_end
from distill.models.precision import exact_on
from distill.teachers.base import Sampling
from distill.trainers.rollouts import Answer, Ask, uniform_numbers

_BLOCK = 256  # tokens whose probabilities are summed at once


def sample(
    student: Any, asks: Sequence[Ask], sampling: Sampling, stop_ids: set[int], vocabulary: int | None = None
) -> list[Answer]:
    """One completion for each prompt; see `distill.trainers.rollouts.Sampler`.

    The model is in evaluation mode meanwhile (no dropout), its own generation config is not read, and torch's random state is neither read nor moved.
    """
    pad_id = min(stop_ids, default=0)
    input_ids, mask = left_padded([ask.prompt_ids for ask in asks], pad_id, student.device)
    config = GenerationConfig(
        do_sample=False,  # the likeliest token, of logits in which chance has spoken already
        max_new_tokens=sampling.max_new_tokens,
        pad_token_id=pad_id,
        eos_token_id=sorted(stop_ids) or None,
        use_cache=True,
    )
    processors = LogitsProcessorList([OwnChance(asks, sampling, input_ids.shape[1], vocabulary)])
    base = base_of(student)
    with own_generation_config([student, base], config), evaluating(student), torch.no_grad():
        output = student.generate(
            input_ids=input_ids, attention_mask=mask, generation_config=config, logits_processor=processors
        )
    completions = output[:, input_ids.shape[1] :].tolist()
    return [Answer(ask.prompt_ids, up_to_end(ids, stop_ids)[0]) for ask, ids in zip(asks, completions, strict=True)]


class OwnChance(LogitsProcessor):
    """Draws the next token of each row by that row's own number, and leaves it as the only one.

    Args:
        asks: of the rows.
        sampling: how to draw.
        start: tokens of the padded prompts.
        vocabulary: ids from here on are not drawn.
    """

    def __init__(self, asks: Sequence[Ask], sampling: Sampling, start: int, vocabulary: int | None) -> None:
        self.sampling, self.start, self.vocabulary = sampling, start, vocabulary
        count = sampling.max_new_tokens if sampling.temperature > 0 else 0
        self._numbers = torch.stack([torch.from_numpy(uniform_numbers(ask.seed, count)) for ask in asks])
        self._cut = LogitsProcessorList()
        if sampling.top_k:
            self._cut.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self._cut.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """`[B, V]` of logits in float32, to the same with one token left in each row."""
        if self.vocabulary is not None and self.vocabulary < scores.shape[1]:
            scores[:, self.vocabulary :] = -torch.inf
        if self.sampling.temperature == 0:
            return scores
        if self.sampling.temperature != 1:
            scores = scores / self.sampling.temperature
        if self._numbers.device != scores.device:
            self._numbers = self._numbers.to(scores.device, exact_on(scores.device))
        tokens = drawn(self._cut(input_ids, scores), self._numbers[:, input_ids.shape[1] - self.start])
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)


def drawn(logits: Tensor, numbers: Tensor) -> Tensor:
    """`[B]`: the token of each row at which the sum of probabilities, in the order of the ids, goes beyond the row's number.

    Sums are taken by blocks and in float64 (with products of matrices, because a cumulative sum on a GPU may come out in several ways): no
    token is too unlikely to be drawn, and a token without probability never is.

    Args:
        logits: `[B, V]`.
        numbers: `[B]`, from 0 up to 1.
    """
    exact, batch = numbers.dtype, len(logits)
    probabilities = torch.nn.functional.pad(logits.float().softmax(dim=-1), (0, -logits.shape[1] % _BLOCK))
    blocks = probabilities.view(batch, -1, _BLOCK).to(exact)
    ends = _cumulative(blocks.sum(dim=-1))
    goal = numbers[:, None] * ends[:, -1:]
    block = (ends <= goal).sum(dim=-1, keepdim=True).clamp(max=ends.shape[1] - 1)
    inside = blocks.gather(1, block[..., None].expand(-1, -1, _BLOCK)).squeeze(1)
    before = ends.gather(1, block) - inside.sum(dim=-1, keepdim=True)
    beyond = (_cumulative(inside) + before > goal) & (inside > 0)
    # where the two ways to sum differ in the last digit, none may be beyond
    place = torch.where(beyond.any(dim=-1), beyond.int().argmax(dim=-1), inside.argmax(dim=-1))
    return block.squeeze(1) * _BLOCK + place


def _cumulative(values: Tensor) -> Tensor:
    return values @ values.new_ones(values.shape[1], values.shape[1]).triu()
