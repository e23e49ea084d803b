"""A student that sees the tokens it is to predict is refused when a trainer is made, by both trainers; any causal one is not."""

import copy

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer, family
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertLMHeadModel,
    RobertaConfig,
    RobertaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from white_box_runs import black_box_trainer, trainer

from distill import Logits
from distill.models.adapters import lora_config
from distill.trainers.causality import check_causal

SMALL = {
    "vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 64, "pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2,
}  # fmt: skip
LOOKING = {
    "bert": lambda: BertLMHeadModel(BertConfig(**SMALL)),
    "roberta": lambda: RobertaForCausalLM(RobertaConfig(**SMALL)),
    "bert, hardly trained": lambda: BertLMHeadModel(BertConfig(**{**SMALL, "initializer_range": 0.02})),
}
BOTH_WAYS = {
    "t5": lambda: T5ForConditionalGeneration(T5Config(vocab_size=320, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)),
    "bart": lambda: BartForConditionalGeneration(
        BartConfig(vocab_size=320, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4)
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("build", LOOKING.values(), ids=LOOKING)
def test_a_model_that_looks_ahead_is_refused_by_its_class(arguments, build, dtype):
    torch.manual_seed(0)
    model = build().to(dtype)
    with pytest.raises(ValueError, match=f"{type(model).__name__} sees the tokens it is to predict"):
        black_box_trainer(arguments, student=model)


@pytest.mark.parametrize("build", BOTH_WAYS.values(), ids=BOTH_WAYS)
def test_an_encoder_decoder_is_refused(arguments, build):
    model = build()
    with pytest.raises(ValueError, match=f"{type(model).__name__} is an encoder-decoder"):
        black_box_trainer(arguments, student=model)


def test_the_white_box_refuses_it_too(arguments):
    with pytest.raises(ValueError, match="BertLMHeadModel sees the tokens"):
        trainer(arguments, [Logits()], student=LOOKING["bert"]())


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2", "gemma2", "cohere", "granite", "phi", "mamba"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_causal_families_pass_and_are_left_as_they_were(name, dtype):
    model = copy.deepcopy(family(name)).to(dtype).train()
    model.get_input_embeddings().eval()
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    check_causal(model)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_a_bert_that_is_a_decoder_passes():
    check_causal(BertLMHeadModel(BertConfig(**SMALL, is_decoder=True)))


def test_a_student_with_an_adapter_is_asked_with_it(arguments):
    from distill import BlackBoxTrainer

    run = BlackBoxTrainer(
        model=build_model(), args=arguments(), train_dataset=build_pairs(4), processing_class=build_tokenizer(),
        peft_config=lora_config(2),
    )  # fmt: skip
    check_causal(run.model)


def test_a_model_that_is_called_otherwise_or_has_few_positions_or_tokens_is_no_crash():
    check_causal(build_model(max_position_embeddings=4))
    check_causal(build_model(vocab_size=8))
    plain = build_model()
    forward = plain.forward
    plain.forward = lambda input_ids, attention_mask=None: {"logits": forward(input_ids=input_ids).logits}
    check_causal(plain)
    plain.forward = lambda input_ids, attention_mask=None: (forward(input_ids=input_ids).logits,)
    check_causal(plain)


def test_a_class_that_does_not_say_where_its_embeddings_are_is_not_asked(monkeypatch):
    def nowhere(self):
        raise NotImplementedError

    model = build_model()
    monkeypatch.setattr(type(model), "get_input_embeddings", nowhere)
    check_causal(model)
