"""What can be tapped in which architecture: tiny random models of every family against naive references.

    python scripts/architectures.py           # writes docs/architectures.md
    python scripts/architectures.py --check   # exits with 1 if that file would change

A signal that does not equal its reference raises AssertionError, and nothing is written.
"""

import argparse
import copy
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from distill import AttentionMaps, HiddenStates, Logits
from distill.collate import PairCollator, supervised_rows
from distill.divergences import forward_kl
from distill.taps import run_with_taps

PAGE = Path(__file__).parent.parent / "docs" / "architectures.md"
SIDES = ("right", "left")
WINDOW = 4  # of families with a sliding window: shorter than the rows

# Names a config does not know become attributes that nobody reads.
SIZES = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,  # large, so that random models really differ
}
GROUPED = {"num_key_value_heads": 2}
SLIDING = {**GROUPED, "sliding_window": WINDOW}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8,
    "v_head_dim": 6, "head_dim": 4,
}  # fmt: skip
GROUPS = {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8, "mamba_n_groups": 2}
LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "head_dim": 8, "num_hidden_layers": 4,
}  # fmt: skip
FULL, SLIDES = "full_attention", "sliding_attention"

FAMILIES: dict[str, dict[str, Any]] = {
    "afmoe": {**SLIDING, **EXPERTS, "head_dim": 8, "layer_types": [SLIDES, FULL]},
    "apertus": GROUPED,
    "arcee": GROUPED,
    "bamba": {**GROUPED, **MAMBA, "attn_layer_indices": [1], "num_hidden_layers": 3},
    "biogpt": {},
    "bitnet": GROUPED,
    "bloom": {},
    "codegen": {"rotary_dim": 4},
    "cohere": {**GROUPED, "logit_scale": 0.25},
    "cohere2": {**SLIDING, "logit_scale": 0.25, "layer_types": [SLIDES, FULL]},
    "ctrl": {"n_positions": 64},
    "dbrx": {
        "d_model": 32, "n_heads": 4, "n_layers": 2, "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 2.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {**LATENT, **EXPERTS, **GROUPS},
    "deepseek_v3": {**LATENT, **EXPERTS, **GROUPS},
    "diffllama": GROUPED,
    "doge": GROUPED,
    "dots1": {**SLIDING, **EXPERTS, "n_shared_experts": 1, "head_dim": 8},
    "ernie4_5": {**GROUPED, "head_dim": 8},
    "ernie4_5_moe": {**GROUPED, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16},
    "exaone4": {**SLIDING, "layer_types": [SLIDES, FULL]},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon (ALiBi)": {"alibi": True, "num_kv_heads": 2},
    "falcon_h1": {**GROUPED, **MAMBA, "mamba_d_ssm": 64, "head_dim": 8, "lm_head_multiplier": 0.3},
    "falcon_mamba": {"state_size": 4},
    "flex_olmo": {**GROUPED, **EXPERTS},
    "gemma": {**GROUPED, "head_dim": 8},
    "gemma2": {**SLIDING, "head_dim": 8, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 1.0, "query_pre_attn_scalar": 8},
    "gemma3_text": {**SLIDING, "head_dim": 8, "layer_types": [SLIDES, FULL]},
    "gemma3n_text": {
        **SLIDING, "head_dim": 8, "layer_types": [SLIDES, FULL] * 2, "num_hidden_layers": 4, "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 8, "laurel_rank": 4, "altup_num_inputs": 2,
        "final_logit_softcapping": 2.0, "activation_sparsity_pattern": [0.0] * 4,
    },
    "gemma4_text": {
        **SLIDING, "head_dim": 8, "global_head_dim": 8, "layer_types": [SLIDES, FULL], "vocab_size_per_layer_input": 320,
        "hidden_size_per_layer_input": 8, "final_logit_softcapping": 2.0,
    },
    "glm": {**GROUPED, "head_dim": 8},
    "glm4": {**GROUPED, "head_dim": 8},
    "glm4_moe": {**GROUPED, **EXPERTS, **GROUPS, "head_dim": 8},
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "gpt_neox": {},
    "gpt_oss": {**SLIDING, **EXPERTS, "head_dim": 8, "layer_types": [SLIDES, FULL]},
    "gptj": {"rotary_dim": 4},
    "granite": {**GROUPED, "logits_scaling": 4.0, "attention_multiplier": 0.5, "residual_multiplier": 0.5},
    "granitemoe": {**GROUPED, **EXPERTS, "logits_scaling": 4.0, "attention_multiplier": 0.5},
    "granitemoehybrid": {
        **GROUPED, **EXPERTS, **MAMBA, "num_hidden_layers": 3, "layer_types": ["mamba", "attention", "mamba"],
        "logits_scaling": 4.0, "attention_multiplier": 0.5, "shared_intermediate_size": 16,
    },
    "helium": {**GROUPED, "head_dim": 8},
    "hunyuan_v1_dense": {**GROUPED, "head_dim": 8},
    "jamba": {
        **GROUPED, **EXPERTS, "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4,
        "mamba_dt_rank": 4, "use_mamba_kernels": False,
    },
    "jetmoe": {"num_key_value_heads": 2, "kv_channels": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "kimi_linear": {
        **LATENT, **EXPERTS, "n_group": 1, "num_hidden_layers": 4, "linear_head_dim": 8, "linear_num_heads": 4,
        "layer_types": ["linear_attention", FULL] * 2, "q_lora_rank": None,
    },
    "lfm2": {**GROUPED, "layer_types": ["conv", FULL, "conv"], "num_hidden_layers": 3},
    "llama": GROUPED,
    "llama4_text": {**GROUPED, **EXPERTS, "head_dim": 8, "attention_chunk_size": WINDOW, "no_rope_layers": [1, 0], "intermediate_size_mlp": 48},
    "longcat_flash": {
        **LATENT, "num_layers": 2, "num_hidden_layers": 4, "n_routed_experts": 4, "zero_expert_num": 2, "moe_topk": 2,
        "ffn_hidden_size": 48, "expert_ffn_hidden_size": 16,
    },
    "mamba": {"state_size": 4},
    "mamba2": {"state_size": 4, "num_heads": 4, "head_dim": 16, "n_groups": 2, "chunk_size": 8},
    "mimo_v2_flash": {**SLIDING, **EXPERTS, "head_dim": 8, "v_head_dim": 6, "layer_types": [SLIDES, FULL]},
    "minicpm3": {**LATENT, "dim_model_base": 8},
    "minimax": {**GROUPED, **EXPERTS, "num_hidden_layers": 3, "layer_types": ["linear_attention", FULL, "linear_attention"], "block_size": 8},
    "ministral": {**SLIDING, "head_dim": 8, "layer_types": [SLIDES, FULL]},
    "mistral": SLIDING,
    "mixtral": {**SLIDING, **EXPERTS},
    "mpt": {"n_heads": 4, "n_layers": 2, "d_model": 32, "max_seq_len": 64},
    "nanochat": {**GROUPED, "final_logit_softcapping": 2.0},
    "nemotron": GROUPED,
    "nemotron_h": {
        **GROUPED, **EXPERTS, "head_dim": 8, "layers_block_type": ["mamba", "attention", "moe"], "num_hidden_layers": 3, "mamba_num_heads": 4,
        "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 2, "chunk_size": 8, "moe_shared_expert_intermediate_size": 16,
    },
    "olmo": {**GROUPED, "clip_qkv": 2.0},
    "olmo2": GROUPED,
    "olmo3": {**SLIDING, "layer_types": [SLIDES, FULL]},
    "olmo_hybrid": {**GROUPED, **LINEAR, "layer_types": ["linear_attention", FULL] * 2},
    "olmoe": {**GROUPED, **EXPERTS},
    "openai-gpt": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 16},
    "persimmon": {},
    "phi": {},
    "phi3": SLIDING,
    "phimoe": {**SLIDING, **EXPERTS, "lm_head_bias": True},
    "qwen2": {**SLIDING, "use_sliding_window": True, "max_window_layers": 1},
    "qwen2_moe": {**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3": {**GROUPED, "head_dim": 8},
    "qwen3_5_text": {**GROUPED, **LINEAR, "layer_types": ["linear_attention", FULL] * 2},
    "qwen3_moe": {**GROUPED, **EXPERTS, "head_dim": 8},
    "qwen3_next": {**GROUPED, **EXPERTS, **LINEAR, "layer_types": ["linear_attention", FULL] * 2, "shared_expert_intermediate_size": 16},
    "recurrent_gemma": {
        "num_key_value_heads": 1, "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": WINDOW, "logits_soft_cap": 2.0,
        "w_init_variance_scale": 1.0, "intermediate_size": 96,
    },
    "rwkv": {"attention_hidden_size": 32},
    "seed_oss": {**GROUPED, "head_dim": 8},
    "smollm3": {**GROUPED, "no_rope_layers": [1, 0]},
    "stablelm": {**GROUPED, "use_qkv_bias": True, "qk_layernorm": True},
    "starcoder2": SLIDING,
    "vaultgemma": {**SLIDING, "head_dim": 8, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 1.0, "query_pre_attn_scalar": 8, "layer_types": [SLIDES, FULL]},
    "xglm": {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4, "init_std": 0.2},
    "xlstm": {"num_heads": 4, "num_blocks": 2, "chunk_size": 8, "output_logit_soft_cap": 2.0, "embedding_dim": 32, "qk_dim_factor": 1.0},
    "zamba2": {
        "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2, "mamba_d_state": 8, "n_mamba_heads": 4, "chunk_size": 8,
        "mamba_ngroups": 2, "num_key_value_heads": 4, "adapter_rank": 4, "use_mem_rope": True,
    },
}


@dataclass(frozen=True)
class Outcome:
    """A row of the table; a sentence stands where the library refuses."""

    family: str
    model: str
    logits: str
    hidden: str
    attention: str


def exists(family: str) -> bool:
    """Whether the installed transformers has it."""
    return model_type(family) in CONFIG_MAPPING and CONFIG_MAPPING[model_type(family)] in MODEL_FOR_CAUSAL_LM_MAPPING


def model_type(family: str) -> str:
    """The name transformers has for it."""
    return family.partition(" ")[0]


def build(family: str, seed: int) -> PreTrainedModel:
    """A tiny random model, every parameter of it, biases and norms too."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type(family), **{**SIZES, **FAMILIES[family]})
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return add_noise(model)


def add_noise(model: PreTrainedModel) -> PreTrainedModel:
    """In place; returns the model."""
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def batch(side: str) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs and supervised rows of two pairs of unequal length; there are unsupervised positions before and behind."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"<pad>": 0})), pad_token="<pad>")
    ids = torch.randint(3, 320, (21,), generator=torch.Generator().manual_seed(0)).tolist()
    pairs = [{"prompt_ids": ids[:3], "completion_ids": ids[3:12]}, {"prompt_ids": ids[12:15], "completion_ids": ids[15:21]}]
    inputs = PairCollator(tokenizer, padding_side=side)(pairs)
    labels = inputs.pop("labels")
    labels[:, -2:] = -100
    if side == "right":
        labels[1, 7:] = -100
    return inputs, supervised_rows(labels)


def compare(what: str, got: Tensor, expected: Tensor) -> None:
    """Equal up to rounding, and not trivially."""
    assert expected.abs().max() > 1e-6, f"{what}: the reference is zero, which shows nothing"
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5, msg=lambda words: f"{what}: {words}")


def compare_gradients(what: str, value: Tensor, model: PreTrainedModel, expected: Tensor, twin: PreTrainedModel) -> None:
    """Of the sums, in every parameter of a model and its copy."""
    for total, owner in ((value, model), (expected, twin)):
        owner.zero_grad()
        total.sum().backward()
    scale = max(float(p.grad.abs().max()) for p in twin.parameters() if p.grad is not None)
    assert scale > 1e-6, f"{what}: no gradient, which shows nothing"
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        pair = [torch.zeros_like(p) if p.grad is None else p.grad for p in (ours, theirs)]
        torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-4 * scale, msg=lambda words: f"{what} of {name}: {words}")


def check_logits(student: PreTrainedModel, teacher: PreTrainedModel) -> str:
    """Divergence and gradient against the models' full logits; temperature 2 shows whether a softcap comes before it."""
    objective = Logits("forward_kl", temperature=2.0)
    objective.bind(student, teacher, None)
    twin = copy.deepcopy(student)
    for side in SIDES:
        inputs, rows = batch(side)
        value = objective(*signals(objective, student, teacher, inputs, rows))
        ours, theirs = (model(**inputs, use_cache=False).logits[rows] for model in (twin, teacher))
        expected = 4 * forward_kl(ours, theirs.detach(), temperature=2.0)
        compare("logits", value, expected)
        compare_gradients("gradient of logits", value, student, expected, twin)
    return "whole" if objective.heads is None else "streams"


def check_hidden(student: PreTrainedModel, teacher: PreTrainedModel) -> str:
    """Every layer against the model's own hidden states."""
    objective = HiddenStates()
    try:
        objective.bind(student, teacher, None)
    except ValueError as error:
        return str(error)
    for side in SIDES:
        inputs, rows = batch(side)
        with torch.no_grad():
            states = teacher(**inputs, use_cache=False, output_hidden_states=True).hidden_states
            _, found = signals(objective, student, teacher, inputs, rows)
        assert len(states) == len(found.hidden) + 1, f"{len(states)} hidden states for {len(found.hidden)} layers"
        for layer, hidden in found.hidden.items():
            compare(f"hidden state {layer}", hidden, states[layer + 1][rows])
    value = objective(*signals(objective, student, teacher, inputs, rows))
    value.sum().backward()
    return "yes"


def check_attention(student: PreTrainedModel, teacher: PreTrainedModel) -> str:
    """Divergence and gradient against eager maps."""
    count, sentence = student.config.get_text_config(decoder=True).num_hidden_layers, ""
    layers = []
    for layer in range(count):
        try:
            AttentionMaps({layer: layer}).bind(student, teacher, None)
            layers.append(layer)
        except ValueError as error:
            sentence = str(error)
    if not layers:
        return sentence
    objective = AttentionMaps([(layer, layer) for layer in layers])
    objective.bind(student, teacher, None)
    twin, eager_teacher = copy.deepcopy(student), copy.deepcopy(teacher)
    for model in (twin, eager_teacher):
        model.set_attn_implementation("eager")
    for side in SIDES:
        inputs, rows = batch(side)
        value = objective(*signals(objective, student, teacher, inputs, rows))
        expected = naive_attention(twin, eager_teacher, inputs, rows, layers)
        compare("attention", value, expected)
        compare_gradients("gradient of attention", value, student, expected, twin)
    return "yes" if len(layers) == count else "layers " + ", ".join(map(str, layers))


def signals(objective, student, teacher, inputs, rows):
    return (
        run_with_taps(student, student, inputs, rows, objective.student_wants()),
        run_with_taps(teacher, teacher, inputs, rows, objective.teacher_wants()),
    )


def naive_attention(student, teacher, inputs, rows, layers) -> Tensor:
    """Mean over layers and heads of KL between eager maps, by definition.

    gpt-oss gives its maps without the column of the sink; what a row lacks to 1 is that column.
    """
    sides = []
    for model in (student, teacher):
        maps = model(**inputs, use_cache=False, output_attentions=True).attentions
        maps = [m for m in maps if m is not None]
        if len(maps) != len(layers):
            maps = [maps[layer] for layer in layers]
        sides.append(maps)
    total = torch.zeros(int(rows.sum()))
    for q, p in zip(*sides, strict=True):
        q, p = (with_sink(m.transpose(1, 2)[rows]) for m in (q, p.detach()))
        terms = torch.where(p > 0, p * (p.clamp(min=1e-38).log() - q.clamp(min=1e-38).log()), 0.0)
        total = total + terms.sum(-1).mean(1)
    return total / len(layers)


def with_sink(maps: Tensor) -> Tensor:
    rest = 1 - maps.sum(-1, keepdim=True)
    return torch.cat([maps, rest], dim=-1) if rest.max() > 1e-4 else maps
