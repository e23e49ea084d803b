"""May this model be a student? It must not see the tokens that it is to predict: asked of the model itself, before the first step."""

import inspect
from typing import Any

import torch
from torch import Tensor

from distill.models.adapters import base_of
from distill.models.configs import text_config_of
from distill.models.evaluating import evaluating
from distill.models.probing import logits_of, place_of, probed_before, warn_unasked
from distill.models.quantising import is_quantised

_QUESTION = "it sees the tokens that it is to predict"
LENGTH = 7  # tokens of the probe; all but the first are changed


def check_causal(model: Any, device: torch.device | None = None) -> None:
    """Refuse a student whose logits at a position depend on later tokens.

    Such a model (BERT, RoBERTa without `is_decoder`, an encoder-decoder that reads the whole row) copies the answer: its loss goes to 0
    on noise, and what it has learned is of no use. A short row is run twice, with other tokens behind its first; the
    model's modes and the random state are left as they were.

    It is asked where its weights lie when a trainer is made, which under FSDP and DeepSpeed is the host. Not asked, with a warning, is one
    whose weights come later or that cannot be run there; one that does not say how many tokens it knows; one without logits; one
    with block-sparse attention, which short rows would switch off for good.

    Args:
        model: as it will be called in training, with its adapter if it has one.
        device: where training runs; None: where the model is.

    Raises:
        ValueError: names the class.
    """
    base = base_of(model)
    name, config = type(base).__name__, getattr(base, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"{name} is an encoder-decoder: its encoder would read the completion that its decoder is to predict. A student is a causal "
            "language model, such as those AutoModelForCausalLM gives for decoder-only families."
        )
    place = place_of(base)
    if place is not None and place.vocabulary < LENGTH + 2:
        return warn_unasked(base, _QUESTION, f"it knows {place.vocabulary} tokens, too few to exchange some")
    if getattr(config, "attention_type", None) == "block_sparse":
        return warn_unasked(
            base, _QUESTION, "its attention is block-sparse, which so short a row would switch off for good"
        )
    positions = getattr(text_config_of(base), "max_position_embeddings", None)
    length = min(LENGTH, positions or LENGTH)

    def run() -> list[Tensor | None]:
        assert place is not None
        ids = torch.ones(length, dtype=torch.long, device=place.device)
        other = ids.clone()
        # one token all over moves more than a mixture would; from the middle of the vocabulary, so that it is no special one
        ids[1:], other[1:] = 5, max(6, min(place.vocabulary, 2000) // 2)
        with evaluating(model), torch.no_grad(), torch.random.fork_rng():
            # one by one: in one batch a router of experts may weigh rows against each other
            return [_first_logits(model, base, row) for row in (ids, other)]

    found = probed_before(base, device, _QUESTION, run)
    if found is None:
        return None
    first, second = found
    if first is None or second is None:
        return warn_unasked(base, _QUESTION, "it gives no logits [B, T, V] by that name")
    moved, largest = float((first.float() - second.float()).abs().max()), float(first.abs().max())
    if moved > _rounding(base, first.dtype) * largest:
        raise ValueError(
            f"{name} sees the tokens it is to predict: when all but the first of {length} tokens change, the logits behind the first move "
            f"by {moved:.2g} (the largest is {largest:.2g}). It would copy the completion in place of learning it. Take a causal language "
            "model; for BERT-like classes that is config.is_decoder=True."
        )
    return None


def _first_logits(model: Any, base: Any, row: Tensor) -> Tensor | None:
    """`[V]` at the first position, or None if the model gives no logits."""
    takes = inspect.signature(base.forward).parameters
    more = {"use_cache": False} if "use_cache" in takes else {}
    logits = logits_of(model(input_ids=row[None], attention_mask=torch.ones_like(row[None]), **more))
    return logits[0, 0] if logits is not None and logits.dim() == 3 else None


def _rounding(base: Any, dtype: torch.dtype) -> float:
    """How far equal sums in another order may be apart, relative to the largest logit."""
    if is_quantised(base):  # 8 bits choose which columns they round by all tokens of a row
        return 5e-2
    kinds = {dtype, *(p.dtype for p in base.parameters() if p.is_floating_point())}
    coarsest = max(torch.finfo(kind).eps for kind in kinds)
    return max(1e-5, coarsest)
