"""GGUF files of tiny models: read again by transformers with the same logits, by `gguf` with the same settings; what cannot be carried is refused by name.

llama.cpp itself is no dependency; docs/how-to/onward.md has the figures of a run of it on these files and on the embedded models.
"""

import pytest
import torch
from conftest import build_tokenizer
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GgufConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from distill.models.gguf_file import write_gguf

gguf = pytest.importorskip("gguf", reason="the extra demo is not installed")
SMALL = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 2, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "initializer_range": 0.2,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8, "hidden_activation": "gelu_pytorch_tanh"}
KINDS = {
    "llama": LlamaConfig(**SMALL),
    "llama, one matrix": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "llama, wide heads": LlamaConfig(**SMALL, head_dim=32),
    "llama 3.1": LlamaConfig(**SMALL, rope_parameters=LLAMA3),
    "llama, linear": LlamaConfig(**SMALL, rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}),
    "mistral": MistralConfig(**SMALL, sliding_window=None),
    "qwen2": Qwen2Config(**SMALL),
    "qwen3": Qwen3Config(**SMALL, head_dim=128),
    "qwen3, wide heads": Qwen3Config(**SMALL, head_dim=32),
    "gemma2": Gemma2Config(**SMALL, **GEMMA, attn_logit_softcapping=3.0, final_logit_softcapping=4.0),
    "gemma3": Gemma3TextConfig(**{**SMALL, "num_hidden_layers": 7}, **GEMMA),
}
IDS = torch.arange(3, 63)[None]


def made(kind):
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(KINDS[kind], dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():  # norms and biases that are 0 or 1 would hide what is done to them
            if weight.dim() == 1:
                weight.add_(torch.randn_like(weight) * 0.2)
    return model


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits.float()


def read_again(file):
    """The model that transformers makes of a file."""
    setting = GgufConfig(gguf_file=file.name, dequantize=True)
    return AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=setting
    ).eval()


def fields(file):
    return {name: one.contents() for name, one in gguf.GGUFReader(file).fields.items()}


# transformers' own reader knows no scaling of positions, and of Qwen3 no head that is not 128 wide; llama.cpp does (docs/how-to/onward.md)
READ = ["llama", "llama, one matrix", "llama, wide heads", "mistral", "qwen2", "qwen3", "gemma2", "gemma3"]


@pytest.mark.parametrize("kind", READ)
def test_transformers_reads_the_same_logits(tmp_path, kind):
    model = made(kind)
    facts = write_gguf(model, build_tokenizer(), tmp_path / "m.gguf", "f32")
    again = read_again(tmp_path / "m.gguf")
    assert again.config.model_type == ("llama" if kind == "mistral" else model.config.model_type)
    if kind.startswith(
        "gemma"
    ):  # nor does it know their windows and caps: its weights, then, in the model's own settings
        weights = again.state_dict()
        again = type(again)(model.config).eval()
        again.load_state_dict(weights)
    assert facts.bytes == (tmp_path / "m.gguf").stat().st_size
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("precision", "kl"), [("f16", 1e-4), ("bf16", 5e-3), ("q8_0", 5e-2), ("auto", 1e-4)])
def test_fewer_bits_change_logits_a_little(tmp_path, precision, kl):
    model = made("llama")
    facts = write_gguf(model, build_tokenizer(), tmp_path / "m.gguf", precision)
    assert facts.precision == (precision if precision != "auto" else "f16")
    ours, theirs = logits(model).log_softmax(-1), logits(read_again(tmp_path / "m.gguf")).log_softmax(-1)
    found = (ours.exp() * (ours - theirs)).sum(-1).mean().item()
    assert 0 < found < kl
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert kinds["blk.0.attn_q.weight"] == facts.precision.upper()
    assert kinds["blk.0.attn_norm.weight"] == "F32"


def test_a_student_in_bfloat16_loses_nothing(tmp_path):
    model = made("qwen2").bfloat16()
    assert write_gguf(model, build_tokenizer(), tmp_path / "m.gguf").precision == "bf16"
    again = read_again(tmp_path / "m.gguf").bfloat16()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_settings_stand_in_the_file(tmp_path):
    write_gguf(made("llama 3.1"), build_tokenizer(), tmp_path / "a.gguf", "f32")
    (factors,) = [one.data for one in gguf.GGUFReader(tmp_path / "a.gguf").tensors if one.name == "rope_freqs.weight"]
    model = made("llama 3.1").model
    plain = 1 / 500.0 ** (torch.arange(0, 16, 2).float() / 16)
    # transformers' own frequencies are the plain ones divided by these
    torch.testing.assert_close(plain / torch.tensor(factors), model.rotary_emb.inv_freq, rtol=1e-5, atol=1e-7)
    write_gguf(made("llama, linear"), build_tokenizer(), tmp_path / "b.gguf", "f32")
    told = fields(tmp_path / "b.gguf")
    assert (told["llama.rope.scaling.type"], told["llama.rope.scaling.factor"]) == ("linear", 4.0)
    write_gguf(made("gemma2"), build_tokenizer(), tmp_path / "c.gguf", "f32")
    told = fields(tmp_path / "c.gguf")
    assert told["gemma2.attention.sliding_window"] == 8
    assert told["gemma2.attn_logit_softcapping"] == 3.0
    assert told["gemma2.final_logit_softcapping"] == 4.0
    assert "output.weight" not in [one.name for one in gguf.GGUFReader(tmp_path / "c.gguf").tensors], "one matrix"


def test_rows_that_do_not_fit_eight_bits_are_told(tmp_path):
    model = AutoModelForCausalLM.from_config(LlamaConfig(**{**SMALL, "intermediate_size": 80})).eval()
    facts = write_gguf(model, build_tokenizer(), tmp_path / "m.gguf", "q8_0")
    assert facts.notes == [f"blk.{i}.ffn_down.weight has rows of 80, no multiple of 32, and 16 bits" for i in range(2)]
    assert (logits(read_again(tmp_path / "m.gguf")) - logits(model)).abs().max() < 1


REFUSED = {
    "Gemma2ForCausalLM with query_pre_attn_scalar 64.0": Gemma2Config(**SMALL, **{**GEMMA, "query_pre_attn_scalar": 64}),
    "Gemma3ForCausalLM with layer_types": Gemma3TextConfig(**SMALL, **GEMMA, layer_types=["full_attention", "sliding_attention"]),
    "MistralForCausalLM with sliding_window 8": MistralConfig(**SMALL, sliding_window=8),
    "LlamaForCausalLM with hidden_act 'gelu'": LlamaConfig(**SMALL, hidden_act="gelu"),
    "LlamaForCausalLM with rope_type 'yarn'": LlamaConfig(
        **SMALL, rope_parameters={"rope_type": "yarn", "rope_theta": 500.0, "factor": 2.0, "original_max_position_embeddings": 64}
    ),
    "GPT2LMHeadModel is not written as GGUF here; LlamaForCausalLM, ": GPT2Config(vocab_size=320, n_embd=32, n_layer=1, n_head=4),
}  # fmt: skip


@pytest.mark.parametrize("said", REFUSED)
def test_what_is_not_checked_is_refused_by_name(tmp_path, said):
    model = AutoModelForCausalLM.from_config(REFUSED[said])
    with pytest.raises(ValueError, match=f"{said}.*convert_hf_to_gguf.py"):
        write_gguf(model, build_tokenizer(), tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


def test_wrong_paths_and_weights_are_refused_and_leave_nothing(tmp_path):
    model, tokenizer = made("llama"), build_tokenizer()
    (tmp_path / "there.gguf").write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        write_gguf(model, tokenizer, tmp_path / "there.gguf")
    with pytest.raises(ValueError, match="ends with .gguf"):
        write_gguf(model, tokenizer, tmp_path / "m.bin")
    with pytest.raises(ValueError, match="precision is 'q4'; it must be one of auto, f32"):
        write_gguf(model, tokenizer, tmp_path / "m.gguf", "q4")
    with torch.no_grad():
        model.lm_head.weight[3, 3] = 1e6
    with pytest.raises(ValueError, match=r"output.weight has weights that float16 cannot hold; take --precision bf16"):
        write_gguf(model, tokenizer, tmp_path / "m.gguf", "f16")
    assert [p.name for p in tmp_path.iterdir()] == ["there.gguf"]
    assert (tmp_path / "there.gguf").read_text() == "mine"
