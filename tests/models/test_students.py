"""Cutting a student: weights copied, nothing shared, layers chosen as said."""

import pytest
import torch
from conftest import build_model, family
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
    T5Config,
    T5ForConditionalGeneration,
)

from distill import make_student
from distill.models.students import block_influence, choose_layers

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "mistral": MistralConfig(**SMALL, sliding_window=8),
    "mixtral": MixtralConfig(**SMALL, num_local_experts=2),
    "qwen2": Qwen2Config(**SMALL),
    "qwen3": Qwen3Config(**SMALL, head_dim=8),
    "gemma3": Gemma3TextConfig(**SMALL, head_dim=8, sliding_window=8),
    "phi3": Phi3Config(**SMALL),
    "olmo2": Olmo2Config(**SMALL),
    "smollm3": SmolLM3Config(**SMALL),
    "gpt2": GPT2Config(vocab_size=64, n_embd=32, n_layer=6, n_head=4, n_positions=64),
    "gpt_neox": GPTNeoXConfig(**{k: v for k, v in SMALL.items() if k != "num_key_value_heads"}),
    "opt": OPTConfig(
        vocab_size=64, hidden_size=32, ffn_dim=48, num_hidden_layers=6, num_attention_heads=4, word_embed_proj_dim=32
    ),
    "falcon": FalconConfig(vocab_size=64, hidden_size=32, num_hidden_layers=6, num_attention_heads=4),
    "bloom": BloomConfig(vocab_size=64, hidden_size=32, n_layer=6, n_head=4),
}
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]])


@pytest.mark.parametrize("family", FAMILIES)
def test_families_can_be_cut(family):
    """All layers kept: the same logits. Some kept: the logits of the teacher with the others skipped."""
    torch.manual_seed(0)
    teacher = AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
    with torch.no_grad():
        expected = teacher(IDS).logits
        assert torch.equal(make_student(teacher, 6)(IDS).logits, expected)
        student = make_student(teacher, [0, 2, 5])
        assert student.config.num_hidden_layers == 3
        skipped = _with_layers_skipped(teacher, {1, 3, 4})(IDS).logits
        torch.testing.assert_close(student(IDS).logits, skipped, rtol=1e-5, atol=1e-6)
        assert torch.equal(teacher(IDS).logits, expected), "the teacher was changed"


def _with_layers_skipped(model, skipped):
    """The naive twin: the layers stay where they are and give back what they get."""
    from distill.models.students import find_layers

    _, layers = find_layers(model)

    class Skip(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def __getattr__(self, name):
            return super().__getattr__(name) if name == "layer" else getattr(self.layer, name)

        def forward(self, *args, **kwargs):
            before = args[0] if args else kwargs["hidden_states"]
            output = self.layer(*args, **kwargs)
            return (before, *output[1:]) if isinstance(output, tuple) else before

    def call(ids):
        kept = {i: layers[i] for i in skipped}
        for i in skipped:
            layers[i] = Skip(layers[i])
        try:
            return model(ids, use_cache=False)
        finally:
            for i, layer in kept.items():
                layers[i] = layer

    return call


def test_nothing_is_shared_and_the_kept_layers_are_recorded(tmp_path):
    teacher = build_model(layers=4)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student = make_student(teacher, [0, 3])
    for parameter in student.parameters():
        parameter.data.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    student.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.distill_kept_layers == [0, 3]
    assert again.config.num_hidden_layers == 2


def test_tied_embeddings_stay_tied():
    student = make_student(build_model(layers=4, tie_word_embeddings=True), 2)
    assert student.get_input_embeddings().weight is student.get_output_embeddings().weight


def test_a_low_precision_student_keeps_exact_rotary_frequencies():
    """`model.to(bfloat16)` would round them; every position would be a little wrong."""
    teacher = build_model(layers=4)
    student = make_student(teacher, 2, dtype=torch.bfloat16)
    assert student.dtype == torch.bfloat16
    assert torch.equal(student.model.rotary_emb.inv_freq, teacher.model.rotary_emb.inv_freq)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "phi", "mamba"])
def test_no_weight_is_drawn_and_none_is_left_empty(name):
    """A random start, of which not one weight was used, took nine tenths of the time. Empty memory is filled with NaN here."""
    teacher = build_model(layers=2, tie_word_embeddings=True) if name == "llama" else family(name)
    state = torch.get_rng_state()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    try:
        student = make_student(teacher, [0, 1])
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(torch.get_rng_state(), state)
    for ours, theirs in (
        (student.named_parameters(), teacher.named_parameters()),
        (student.named_buffers(), teacher.named_buffers()),
    ):
        found, wanted = dict(ours), dict(theirs)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_which_layers():
    teacher = build_model(layers=9)
    assert choose_layers(teacher, 3, "even") == [0, 4, 8]
    assert choose_layers(teacher, 1, "even") == [0]
    assert choose_layers(teacher, 5, "first_last") == [0, 1, 2, 7, 8]
    for strategy in ("even", "first_last"):
        for count in range(1, 10):
            assert len(set(choose_layers(teacher, count, strategy))) == count


def test_block_influence_finds_the_layer_that_does_nothing():
    teacher = build_model(layers=5)
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        teacher.get_submodule(f"model.layers.2.{name}").weight.data.zero_()
    sample = [[5, 6, 7, 8], [9, 10, 11]]
    influence = block_influence(teacher, sample)
    assert influence[2] == pytest.approx(0, abs=1e-6)
    assert min(influence[:2] + influence[3:]) > 1e-3
    assert choose_layers(teacher, 4, "block_influence", sample) == [0, 1, 3, 4]


@pytest.mark.parametrize(
    ("layers", "strategy", "words"),
    [
        (0, "even", "layers is 0, but the teacher has 4"),
        (5, "even", "layers is 5, but the teacher has 4"),
        ([], "even", "layers is"),
        ([1, 1], "even", "each once, in order"),
        ([2, 1], "even", "each once, in order"),
        ([0, 4], "even", "between 0 and 3"),
        (2, "best", "strategy is 'best'"),
        (2, "block_influence", "give sample="),
    ],
)
def test_bad_layers(layers, strategy, words):
    with pytest.raises(ValueError, match=words):
        make_student(build_model(layers=4), layers, strategy=strategy)


def test_what_cannot_be_cut_is_refused():
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4))
    with pytest.raises(ValueError, match="encoder-decoder"):
        make_student(t5, 1)
