"""May this model be a student? It must not see the tokens that it is to predict: asked of the model itself, before the first step."""

from typing import Any

import torch

from distill.models.adapters import base_of
from distill.models.evaluating import evaluating

LENGTH = 7  # tokens of the probe; the last two are changed


def check_causal(model: Any) -> None:
    """Refuse a student whose logits at a position depend on later tokens.

    Such a model (BERT, RoBERTa without `is_decoder`, an encoder-decoder that reads the whole row) copies the answer: its loss goes to 0
    on noise, and what it has learned is of no use. A short row is run twice, with other tokens at its end; the model's
    modes and the random state are left as they were. A model that cannot be run yet (its weights are not whole in this process) is
    not asked.

    Args:
        model: as it will be called in training, with its adapter if it has one.

    Raises:
        ValueError: names the class.
    """
    base = base_of(model)
    name = type(base).__name__
    if getattr(getattr(base, "config", None), "is_encoder_decoder", False):
        raise ValueError(
            f"{name} is an encoder-decoder: its encoder would read the completion that its decoder is to predict. A student is a causal "
            "language model, such as those AutoModelForCausalLM gives for decoder-only families."
        )
    weights = getattr(base.get_input_embeddings(), "weight", None) if hasattr(base, "get_input_embeddings") else None
    if weights is None or weights.is_meta or weights.dim() != 2 or weights.shape[0] < 4:
        return  # a model of somebody's own without embeddings, or one whose weights come later (ZeRO 3)
    vocabulary = min(weights.shape[0], 1000)
    ids = (torch.arange(LENGTH) * 7 + 3) % (vocabulary - 1) + 1
    other = ids.clone()
    other[-2:] = (ids[-2:] + vocabulary // 2) % (vocabulary - 1) + 1
    rows = torch.stack([ids, other]).to(weights.device)
    with evaluating(model), torch.no_grad():
        # one by one: in one batch a router of experts may weigh rows against each other
        first, second = (
            model(input_ids=row[None], attention_mask=torch.ones_like(row[None]), use_cache=False).logits[0].float()
            for row in rows
        )
    moved = (first - second).abs().amax(-1)
    early, late = float(moved[:-2].max()), float(moved[-2:].max())
    exact = weights.dtype in (torch.float32, torch.float64)
    if early > (1e-3 if exact else 5e-2) * max(late, 1e-6):
        raise ValueError(
            f"{name} sees the tokens it is to predict: when the last two of {LENGTH} tokens change, logits before them move by {early:.2g} "
            f"(and their own by {late:.2g}). It would copy the completion in place of learning it. Take a causal language model; for "
            "BERT-like classes that is config.is_decoder=True."
        )
