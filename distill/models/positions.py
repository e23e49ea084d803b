"""Positions: how many tokens a model was made to take, prompt and completion together."""

from typing import Any

from distill.models.configs import text_config_of


def positions_of(model: Any) -> int | None:
    """The longest row of tokens, by the model's config; None where the config sets no limit.

    With learned positions a longer row is an error, with rotary ones an answer from beyond what was trained. Scaled rotary
    positions count as scaled: configs give either figure as `max_position_embeddings`, so the larger one is taken. Linear
    biases (ALiBi) and recurrent models have no limit.

    Args:
        model: with or without an adapter.

    Example:
        >>> positions_of(LlamaForCausalLM(LlamaConfig(max_position_embeddings=128)))
        128
    """
    config = text_config_of(model)
    positions = getattr(config, "max_position_embeddings", None)
    if type(positions) is not int or positions < 1 or getattr(config, "alibi", False):
        return None
    scaled = [_scaled(rope) for rope in _ropes(config)]
    return max([positions, *scaled])


def _ropes(config: Any) -> list[dict[str, Any]]:
    """Settings of rotary positions: one set, or one a kind of layers."""
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if not isinstance(found, dict):
        return []
    return [part for part in (found, *found.values()) if isinstance(part, dict)]


def _scaled(rope: dict[str, Any]) -> int:
    factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
    if not isinstance(factor, int | float) or not isinstance(original, int | float):
        return 0
    return int(factor * original)
