"""What a GGUF file says of an architecture, and how each weight lies in it: for those whose logits were held against transformers'.

Sources: the format and the names are llama.cpp's (Gerganov et al. 2023), as its package `gguf` and its converter have them.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
}
WAY_OUT = (
    "Keep the folder of safetensors (adapters: --to merged), which transformers and vLLM serve, or convert that folder with llama.cpp's own "
    "convert_hf_to_gguf.py."
)
_GEMMA_PERIOD = {"gemma2": 2, "gemma3": 6}  # every so many layers one looks at all, which readers know by heart


def architecture_of(model: Any) -> str:
    """llama.cpp's name of a model's architecture.

    Raises:
        ValueError: one that is not written here, or a setting of one that the format or its readers have no place for.
    """
    config, kind = model.config, type(model).__name__
    name = ARCHITECTURES.get(kind)
    if name is None:
        raise ValueError(f"{kind} is not written as GGUF here; {', '.join(ARCHITECTURES)} are. {WAY_OUT}")
    for what, found, wanted in _settings(config, name):
        if found not in wanted:
            allowed = " or ".join(str(one) for one in wanted)
            raise ValueError(
                f"{kind} with {what} {found!r} cannot be written as GGUF, whose readers compute with {allowed}. {WAY_OUT}"
            )
    return name


def _settings(config: Any, name: str) -> list[tuple[str, Any, tuple[Any, ...]]]:
    """What is not told to a reader, and is computed so by each: (setting, as it is, what it may be)."""
    activation = getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", None)
    ropes = _ropes(config)
    found: list[tuple[str, Any, tuple[Any, ...]]] = [
        ("hidden_act", activation, ("gelu_pytorch_tanh",) if name.startswith("gemma") else ("silu",)),
        *(("partial_rotary_factor", rope.get("partial_rotary_factor") or 1.0, (1.0,)) for rope in ropes.values()),
        *(("rope_type", rope.get("rope_type", "default"), ("default", "linear", "llama3")) for rope in ropes.values()),
    ]
    if name in _GEMMA_PERIOD:
        found += [
            # of the largest of each kind a reader takes another scale
            ("query_pre_attn_scalar", float(config.query_pre_attn_scalar), (float(config.head_dim),)),
            ("use_bidirectional_attention", bool(getattr(config, "use_bidirectional_attention", False)), (False,)),
            ("layer_types", tuple(config.layer_types), (_alternating(config.num_hidden_layers, _GEMMA_PERIOD[name]),)),
        ]
        if name == "gemma3":
            found.append(("attn_logit_softcapping", config.attn_logit_softcapping, (None,)))
    else:
        window = getattr(config, "sliding_window", None)
        if (
            window is not None
            and getattr(config, "use_sliding_window", True)
            and window < config.max_position_embeddings
        ):
            found.append(("sliding_window", window, (None,)))
    return found


def _alternating(layers: int, period: int) -> tuple[str, ...]:
    return tuple("full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(layers))


def _ropes(config: Any) -> dict[str, dict[str, Any]]:
    """Rotary settings by kind of layer; "" where all layers have the same."""
    given = dict(config.rope_parameters or {})
    parts = {kind: value for kind, value in given.items() if isinstance(value, dict)}
    return parts or {"": given}


def write_settings(writer: Any, config: Any, name: str, rows: int) -> None:
    """Tell a `gguf.GGUFWriter` what the config says.

    Args:
        rows: of the embedding matrix.
    """
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_vocab_size(rows)
    ropes = _ropes(config)
    rope = ropes.get("full_attention", next(iter(ropes.values())))
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(_scaling_type().LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if name in _GEMMA_PERIOD:
        writer.add_sliding_window(config.sliding_window)
        if config.final_logit_softcapping:
            writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if name == "gemma2" and config.attn_logit_softcapping:
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if name == "gemma3":
        writer.add_rope_freq_base_swa(float(ropes.get("sliding_attention", rope)["rope_theta"]))


def _scaling_type() -> Any:
    from gguf import RopeScalingType

    return RopeScalingType


def tensors_of(model: Any, name: str) -> dict[str, Callable[[], Tensor]]:
    """Names in the file, and what makes each weight in float32, `[rows, columns]` or `[length]`, as its readers expect it.

    Raises:
        ValueError: a weight that the architecture has no name for.
    """
    import gguf

    config = model.config
    kind = next(key for key, text in gguf.MODEL_ARCH_NAMES.items() if text == name)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    weights = model.state_dict()
    found: dict[str, Callable[[], Tensor]] = {}
    for own, weight in weights.items():
        if own == "lm_head.weight" and weight.data_ptr() == weights["model.embed_tokens.weight"].data_ptr():
            continue  # one matrix with the embeddings, which a reader takes where there is none
        known = names.get_name(own, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise ValueError(f"The weight {own} has no name in a GGUF of {name}. {WAY_OUT}")
        found[known] = _maker(own, weight, name, config)
    factors = _llama3_factors(config)
    if factors is not None:
        found["rope_freqs.weight"] = lambda: factors
    return found


def _maker(own: str, weight: Tensor, name: str, config: Any) -> Callable[[], Tensor]:
    part = own.rsplit(".", 2)[-2]
    if name == "llama" and part in ("q_proj", "k_proj"):
        heads = config.num_attention_heads if part == "q_proj" else config.num_key_value_heads
        return lambda: _interleaved(weight.float(), heads)
    if name.startswith("gemma") and own.endswith("norm.weight"):
        return lambda: weight.float() + 1  # there a norm multiplies with 1 + w, and readers with w
    return lambda: weight.float()


def _interleaved(weight: Tensor, heads: int) -> Tensor:
    """Rows of each head in the order in which a reader turns them: neighbours make a pair, where transformers pairs the halves."""
    rest = weight.shape[1:]
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *rest).swapaxes(1, 2).reshape(weight.shape)


def _llama3_factors(config: Any) -> Tensor | None:
    """By what each frequency is divided, `[head_dim / 2]`, for Llama 3.1's scaling; None for any other."""
    (rope, *_) = _ropes(config).values()
    if rope.get("rope_type") != "llama3":
        return None
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    frequencies = 1.0 / rope["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    low, high, before = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    factors = []
    for frequency in frequencies.tolist():
        turns = before * frequency / (2 * math.pi)  # over the length it was trained on
        if turns > high:
            factors.append(1.0)
        elif turns < low:
            factors.append(rope["factor"])
        else:
            smooth = (turns - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return torch.tensor(factors, dtype=torch.float32)
