"""Averages of a student and its start: the two themselves at the ends, to the bit, and the middle between."""

import copy

import pytest
import torch
from conftest import build_model
from peft import LoraConfig, get_peft_model

from distill.models.averaging import average
from distill.models.precision import weights_in


def same(one, other):
    return all(
        torch.equal(a.view(torch.int32), b.view(torch.int32)) for a, b in zip(one.parameters(), other.parameters(), strict=True)
    )  # fmt: skip


def test_at_the_ends_it_is_the_two_models_to_the_bit():
    """Also where a weight is -0, which sums would make 0."""
    student, start = build_model(seed=1), build_model()
    with torch.no_grad():
        start.model.layers[0].mlp.up_proj.weight.fill_(-0.0)
    assert same(average(student, start, 0), start)
    assert same(average(student, start, 1), student)
    assert not same(average(student, start, 0.999), student)


def test_between_it_is_the_mean_and_neither_model_is_changed():
    student, start = build_model(seed=1), build_model()
    before = copy.deepcopy(student), copy.deepcopy(start)
    found = average(student, start, 0.25)
    for made, ours, theirs in zip(found.parameters(), student.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(made, 0.25 * ours + 0.75 * theirs)
    assert same(student, before[0])
    assert same(start, before[1])


def test_an_adapter_is_merged_and_a_start_in_bfloat16_widened():
    start = build_model(dtype=torch.bfloat16)
    adapted = get_peft_model(weights_in(start, torch.float32), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))  # fmt: skip
    whole, none = average(adapted, start, 1.0), average(adapted, start, 0.0)
    assert same(none, weights_in(start, torch.float32))
    ids = torch.arange(8)[None]
    torch.testing.assert_close(whole(ids).logits, adapted.eval()(ids).logits, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_averaged_is_refused():
    with pytest.raises(ValueError, match="alpha is 1.5"):
        average(build_model(), build_model(), 1.5)
    with pytest.raises(ValueError, match="the first is model.layers.1"):
        average(build_model(layers=1), build_model(layers=2), 0.5)
