"""Models that are asked something before a training: wherever they lie, whatever they say about themselves."""

import copy
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import build_model, build_tokenizer
from transformers import BertConfig, BertLMHeadModel, GemmaConfig, GemmaForCausalLM

from distill.models import probing
from distill.models.probing import place_of, probed, probed_before
from distill.pairs.collate import PairCollator
from distill.signals import ModelFacts
from distill.trainers.causality import check_causal
from distill.trainers.packing_check import check_keeps_documents_apart
from distill.trainers.supervised_only import check_supervised_only

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from plain_kernels import FLASH

CUDA = torch.device("cuda", 0)  # where training would run; nothing is ever put there


def nowhere(self):
    raise NotImplementedError


@pytest.fixture
def silent(monkeypatch):
    """A class that does not say where its embeddings are."""
    model = build_model()
    monkeypatch.setattr(type(model), "get_input_embeddings", nowhere)
    return model


def looking_ahead():
    torch.manual_seed(0)
    return BertLMHeadModel(
        BertConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, initializer_range=0.2)
    )  # fmt: skip


def ask(question, model, device):
    """Each of the three checks that run a student."""
    if question == "causal":
        check_causal(model, device)
    elif question == "packed":
        collator = PairCollator(build_tokenizer(), 64)
        check_keeps_documents_apart(model, collator, device=device)
    else:
        args = Arguments(device or torch.device("cpu"))
        check_supervised_only(model, args, PairCollator(build_tokenizer()), {}, True)


class Arguments:
    """As much of `TrainingArguments` as is asked."""

    label_smoothing_factor, use_liger_kernel, n_gpu, world_size = 0.0, False, 1, 1
    accelerator_config = None

    def __init__(self, device):
        self.device = device


QUESTIONS = ["causal", "packed", "supervised_only"]


def test_where_a_model_takes_tokens_is_told_by_its_embeddings_or_its_config(silent):
    assert place_of(build_model()) == (320, torch.device("cpu"))
    assert place_of(silent) == (320, torch.device("cpu"))
    silent.config = SimpleNamespace(get_text_config=lambda decoder: SimpleNamespace())
    assert place_of(silent) is None


def test_a_model_without_weights_has_no_place():
    assert place_of(build_model().to("meta")) is None
    model = build_model()
    model.model.embed_tokens.weight = torch.nn.Parameter(torch.empty(0))  # as ZeRO 3 leaves it
    assert place_of(model) is None


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_class_that_does_not_say_where_its_embeddings_are_is_asked_all_the_same(silent, question, caplog):
    """It was a bare NotImplementedError."""
    ask(question, silent, None)
    assert not caplog.messages


def test_and_is_refused_for_what_it_does(monkeypatch):
    model = looking_ahead()
    monkeypatch.setattr(type(model), "get_input_embeddings", nowhere)
    with pytest.raises(ValueError, match="BertLMHeadModel sees the tokens it is to predict"):
        check_causal(model)


def test_a_model_that_lies_elsewhere_than_training_runs_is_asked_where_it_lies():
    """Under FSDP on GPUs every student does when a trainer is made; a BERT passed."""
    with pytest.raises(ValueError, match="BertLMHeadModel sees the tokens it is to predict"):
        check_causal(looking_ahead(), CUDA)
    check_causal(build_model(), CUDA)


@pytest.mark.parametrize("question", QUESTIONS)
def test_one_that_cannot_be_run_there_is_passed_with_a_warning(question, caplog, monkeypatch):
    model = build_model()

    def only_on_gpus(*args, **kwargs):
        raise RuntimeError("this kernel is for GPUs\nand more")

    monkeypatch.setattr(type(model.model), "forward", only_on_gpus)
    ask(question, model, CUDA)
    assert len(caplog.messages) == 1
    assert "LlamaForCausalLM was not asked whether it" in caplog.text
    assert (
        "its weights lie on cpu now, and it cannot be run there (RuntimeError: this kernel is for GPUs)." in caplog.text
    )
    with pytest.raises(RuntimeError, match="this kernel is for GPUs"):  # where training runs it would fail there, too
        ask(question, model, torch.device("cpu"))


@pytest.mark.parametrize("question", QUESTIONS)
def test_one_whose_weights_are_not_there_is_passed_with_a_warning(question, caplog):
    ask(question, build_model().to("meta"), CUDA)
    assert [message.count("its weights are not there yet") for message in caplog.messages] == [1]


def flash(model):
    """As from_pretrained(attn_implementation="flash_attention_2") leaves it; no such kernel is installed here."""
    model = copy.deepcopy(model)
    model.config._attn_implementation = FLASH
    return model


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_flash_student_on_the_host_is_asked_with_plain_attention(question, caplog):
    model = flash(build_model())
    with pytest.raises((ImportError, RuntimeError, TypeError, ValueError)):
        model(input_ids=torch.ones(1, 3, dtype=torch.long))
    ask(question, model, CUDA)
    assert not caplog.messages
    assert model.config._attn_implementation == FLASH
    with pytest.raises((ImportError, RuntimeError, TypeError, ValueError)):  # and so will training on a CPU
        ask(question, model, torch.device("cpu"))
    assert model.config._attn_implementation == FLASH


def test_facts_of_a_flash_student_on_the_host_are_those_of_sdpa():
    """The head's transform and what can be tapped: asked by the white box when a trainer is made."""
    for plain in (build_model(), GemmaForCausalLM(GemmaConfig(**{**SMALL, "head_dim": 8})).eval()):
        ours, expected = ModelFacts(flash(plain)), ModelFacts(plain)
        assert ours.transform() == expected.transform()
        layers = frozenset({0, 1})
        assert ours.widths(layers) == expected.widths(layers)
        assert ours.attention_layers() == [0, 1]
        for layer in layers:
            assert torch.equal(ours.attention(layers)[0][layer].query, expected.attention(layers)[0][layer].query)


SMALL = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip


def test_what_fails_under_other_attention_is_not_run_twice():
    runs = []

    def fails():
        runs.append(True)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        probed(build_model(), fails)
    assert len(runs) == 1
    with pytest.raises(RuntimeError, match="no"):
        probed(flash(build_model()), fails)
    assert len(runs) == 3


def test_what_is_not_asked_is_said(caplog):
    """Small vocabularies and block-sparse attention: passed, and no longer in silence."""
    with caplog.at_level(logging.WARNING, probing.__name__):
        check_causal(build_model(vocab_size=8))
        model = build_model()
        model.config.attention_type = "block_sparse"
        check_causal(model)
        model = build_model()
        forward = model.forward
        model.forward = lambda input_ids, attention_mask=None: (forward(input_ids=input_ids).logits,)
        check_causal(model)
    assert [
        "too few" in caplog.messages[0],
        "block-sparse" in caplog.messages[1],
        "no logits" in caplog.messages[2],
    ] == [True] * 3


def test_what_is_found_is_handed_on():
    assert probed_before(build_model(), None, "it counts", lambda: 3) == 3
    assert probed_before(build_model(), CUDA, "it counts", lambda: 3) == 3
