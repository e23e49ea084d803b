"""A model in evaluation mode for a while."""

import pytest
import torch
from conftest import build_model, build_tokenizer
from transformers import PreTrainedModel

from distill.evaluation import HeldOut
from distill.models.evaluating import evaluating
from distill.models.students import block_influence
from distill.signals import probe_attention, probe_head, probe_hidden
from distill.teachers import LocalTeacher, Sampling


def partly_training() -> PreTrainedModel:
    """In training, but for a part that somebody keeps out of it."""
    model = build_model().train()
    model.model.layers[0].mlp.eval()
    return model


def modes(model):
    return {name: module.training for name, module in model.named_modules()}


def test_every_part_comes_back_as_it_was():
    for model in (partly_training(), build_model().eval()):
        before = modes(model)
        with evaluating(model):
            assert not any(modes(model).values())
        assert modes(model) == before
    model = partly_training()
    before = modes(model)
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert modes(model) == before
    with evaluating(model), evaluating(model):  # the inner one gives back evaluation mode
        pass
    assert modes(model) == before


LOOKS = {
    "the head's probe": probe_head,
    "the attention's probe": lambda model: probe_attention(model, frozenset({0})),
    "the hidden states' probe": lambda model: probe_hidden(model, frozenset({0})),
    "the influence of blocks": lambda model: block_influence(model, [[1, 2, 3]]),
    "a completion": lambda model: LocalTeacher(model, build_tokenizer()).complete([[1, 2]], Sampling(2), seed=0),
}


@pytest.mark.parametrize("look", LOOKS)
def test_whoever_looks_at_a_model_leaves_its_parts_as_they_were(look):
    model = partly_training()
    before = modes(model)
    LOOKS[look](model)
    assert modes(model) == before


def test_measuring_during_a_training_leaves_its_parts_as_they_were(pairs):
    model = partly_training()
    before = modes(model)
    HeldOut(build_model(seed=1), pairs, build_tokenizer()).measure(model)
    assert modes(model) == before
    assert torch.is_grad_enabled()
