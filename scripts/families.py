"""Tiny configs of decoder families, for `architectures.py`: small, and yet with everything that is peculiar to a family.

Windows are shorter than the rows, softcaps and scales far from doing nothing, heads have a bias where a family's can.
"""

from typing import Any

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
FULL, SLIDES, LINEAR = "full_attention", "sliding_attention", "linear_attention"

# fmt: off
GROUPED = {"num_key_value_heads": 2}
NARROW = {**GROUPED, "head_dim": 8}
SLIDING = {**NARROW, "sliding_window": 4}
MIXED = {**SLIDING, "layer_types": [SLIDES, FULL]}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SHARED = {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
LATENT = {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8,
          "v_head_dim": 6, "head_dim": 4}
MAMBA = {**NARROW, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8, "mamba_n_groups": 2,
         "num_hidden_layers": 3}
DELTA = {**NARROW, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
         "linear_value_head_dim": 8, "num_hidden_layers": 4, "layer_types": [LINEAR, FULL] * 2}
CAPPED = {"final_logit_softcapping": 2.0}
GEMMA2 = {**MIXED, **CAPPED, "attn_logit_softcapping": 1.0, "query_pre_attn_scalar": 8}
EMBEDDED = {"vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 8}
GRANITE = {**GROUPED, "logits_scaling": 4.0, "attention_multiplier": 0.5, "residual_multiplier": 0.5}

FAMILIES: dict[str, dict[str, Any]] = {
    "afmoe": {**MIXED, **EXPERTS},
    "apertus": GROUPED,
    "arcee": GROUPED,
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "biogpt": {},
    "bitnet": GROUPED,
    "bloom": {},
    "codegen": {"rotary_dim": 4},
    "cohere": {**GROUPED, "logit_scale": 0.25},
    "cohere2": {**MIXED, "logit_scale": 0.25},
    "ctrl": {"n_positions": 64},
    "dbrx": {"d_model": 32, "n_heads": 4, "n_layers": 2,
             "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 2.0},
             "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2}},
    "deepseek_v2": {**LATENT, **EXPERTS, **SHARED},
    "deepseek_v3": {**LATENT, **EXPERTS, **SHARED},
    "deepseek_v32": {**LATENT, **EXPERTS, **SHARED, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 32},
    "diffllama": GROUPED,
    "doge": {**GROUPED, "keep_window_size": 4},
    "dots1": {**SLIDING, **EXPERTS, "n_shared_experts": 1},
    "ernie4_5": NARROW,
    "ernie4_5_moe": {**GROUPED, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16},
    "exaone4": MIXED,
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon (ALiBi)": {"alibi": True, "num_kv_heads": 2},
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 64, "num_hidden_layers": 2, "lm_head_multiplier": 0.3},
    "falcon_mamba": {"state_size": 4},
    "flex_olmo": {**GROUPED, **EXPERTS},
    "gemma": NARROW,
    "gemma2": GEMMA2,
    "gemma3": {"text_config": {"model_type": "gemma3_text", **SIZES, **MIXED, **CAPPED},
               "vision_config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
                                 "image_size": 8, "patch_size": 4}, "mm_tokens_per_image": 4},
    "gemma3_text": {**MIXED, **CAPPED},
    "gemma3n_text": {**SLIDING, **EMBEDDED, **CAPPED, "layer_types": [SLIDES, FULL] * 2, "num_hidden_layers": 4,
                     "num_kv_shared_layers": 2, "laurel_rank": 4, "altup_num_inputs": 2,
                     "activation_sparsity_pattern": [0.0] * 4},
    "gemma4_text": {**MIXED, **EMBEDDED, **CAPPED, "global_head_dim": 8},
    "glm": NARROW,
    "glm4": NARROW,
    "glm4_moe": {**NARROW, **EXPERTS, **SHARED},
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 4},
    "gpt_neox": {},
    "gpt_oss": {**MIXED, **EXPERTS},
    "gptj": {"rotary_dim": 4},
    "granite": GRANITE,
    "granitemoe": {**GRANITE, **EXPERTS},
    "granitemoehybrid": {**MAMBA, **GRANITE, **EXPERTS, "layer_types": ["mamba", "attention", "mamba"],
                         "shared_intermediate_size": 16},
    "helium": NARROW,
    "hunyuan_v1_dense": NARROW,
    "inkling_text": {**SLIDING, **EXPERTS},
    "jamba": {**GROUPED, **EXPERTS, "num_hidden_layers": 3, "attn_layer_period": 2, "attn_layer_offset": 1,
              "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False},
    "jetmoe": {**GROUPED, **EXPERTS, "kv_channels": 8},
    "kimi_linear": {**LATENT, **EXPERTS, "q_lora_rank": None, "n_group": 1, "linear_head_dim": 8, "linear_num_heads": 4,
                    "layer_types": [LINEAR, FULL]},
    "lfm2": {**GROUPED, "layer_types": ["conv", FULL, "conv"], "num_hidden_layers": 3},
    "llama": GROUPED,
    "llama4_text": {**NARROW, **EXPERTS, "attention_chunk_size": 4, "no_rope_layers": [1, 0], "intermediate_size_mlp": 48},
    "longcat_flash": {**LATENT, "num_layers": 2, "num_hidden_layers": 4, "n_routed_experts": 4, "zero_expert_num": 2,
                      "moe_topk": 2, "ffn_hidden_size": 48, "expert_ffn_hidden_size": 16},
    "mamba": {"state_size": 4},
    "mamba2": {"state_size": 4, "num_heads": 4, "head_dim": 16, "n_groups": 2, "chunk_size": 8},
    "mimo_v2_flash": {**MIXED, **EXPERTS, "v_head_dim": 6},
    "minicpm3": {**LATENT, "dim_model_base": 8},
    "minimax": {**GROUPED, **EXPERTS, "layer_types": [LINEAR, FULL], "block_size": 8},
    "ministral": MIXED,
    "mistral": SLIDING,
    "mixtral": {**SLIDING, **EXPERTS},
    "mpt": {"n_heads": 4, "n_layers": 2, "d_model": 32, "max_seq_len": 64},
    "nanochat": {**GROUPED, **CAPPED},
    "nemotron": GROUPED,
    "nemotron_h": {**NARROW, **EXPERTS, "layers_block_type": ["mamba", "attention", "moe"], "num_hidden_layers": 3,
                   "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 2, "chunk_size": 8,
                   "moe_shared_expert_intermediate_size": 16},
    "olmo": {**GROUPED, "clip_qkv": 2.0},
    "olmo2": GROUPED,
    "olmo3": MIXED,
    "olmo_hybrid": DELTA,
    "olmoe": {**GROUPED, **EXPERTS},
    "openai-gpt": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 16},
    "persimmon": {},
    "phi": {},
    "phi3": SLIDING,
    "phimoe": {**SLIDING, **EXPERTS, "lm_head_bias": True},
    "qwen2": {**GROUPED, "sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1},
    "qwen2_moe": {**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3": NARROW,
    "qwen3_5_text": DELTA,
    "qwen3_moe": {**NARROW, **EXPERTS},
    "qwen3_next": {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 16},
    "recurrent_gemma": {"num_key_value_heads": 1, "num_hidden_layers": 3, "lru_width": 32, "intermediate_size": 96,
                        "attention_window_size": 4, "logits_soft_cap": 2.0, "w_init_variance_scale": 1.0},
    "rwkv": {"attention_hidden_size": 32},
    "seed_oss": NARROW,
    "smollm3": {**GROUPED, "no_rope_layers": [1, 0]},
    "stablelm": {**GROUPED, "use_qkv_bias": True, "qk_layernorm": True},
    "starcoder2": SLIDING,
    "vaultgemma": GEMMA2,
    "xglm": {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4, "init_std": 0.2},
    "xlstm": {"num_heads": 4, "num_blocks": 2, "chunk_size": 8, "output_logit_soft_cap": 2.0, "embedding_dim": 32,
              "qk_dim_factor": 1.0},
    "zamba2": {"num_hidden_layers": 2, "layers_block_type": ["mamba", "hybrid"], "mamba_d_state": 8, "n_mamba_heads": 4,
               "chunk_size": 8, "mamba_ngroups": 2, "num_key_value_heads": 4, "adapter_rank": 4, "use_mem_rope": True},
}
# fmt: on
