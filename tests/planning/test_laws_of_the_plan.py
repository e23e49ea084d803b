"""Laws of a plan, against what torch and the formulas of rings say, and not against what it said before."""

import pytest
import torch
from conftest import build_model
from peft import LoraConfig, get_peft_model

from distill import Logits
from distill.planning import Setting, plan, shape_of, traffic
from distill.planning.plan import BUCKETS, UPDATE

SIZES = {"hidden_size": 64, "intermediate_size": 160, "vocab_size": 1000}
SHORT = {"batch": 4, "length": 24}


@pytest.fixture(scope="module")
def shape():
    return shape_of(build_model(2, **SIZES).config, torch.float32)


def gradient_bytes(lora_r=None):
    """Of a real model, after a real backward pass."""
    model = build_model(2, **SIZES)
    if lora_r:
        model = get_peft_model(model, LoraConfig(r=lora_r, target_modules="all-linear"))
    ids = torch.zeros((2, 8), dtype=torch.long)
    model(input_ids=ids, labels=ids).loss.backward()
    return sum(p.grad.numel() * p.grad.element_size() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("lora_r", [None, 4])
@pytest.mark.parametrize("processes", [2, 4])
def test_ddps_buckets_are_as_large_as_the_gradients(shape, processes, lora_r):
    """A copy of every gradient that is there after a backward pass, in every process, however many there are."""
    planned = plan(Setting(**SHORT, processes=processes, lora_r=lora_r), shape)
    assert planned.always[BUCKETS] == planned.moments[UPDATE]["gradients"] == gradient_bytes(lora_r)


@pytest.mark.parametrize("more", [{}, {"processes": 2, "sharding": "fsdp"}])
def test_there_are_no_buckets_without_ddp(shape, more):
    assert BUCKETS not in plan(Setting(**SHORT, **more), shape).always


def test_what_ddp_sends_is_a_ring_over_the_gradients(shape):
    """An all-reduce of n bytes over P processes: 2 n (P - 1) / P; the teacher is whole everywhere and sent nowhere."""
    for processes in (2, 4):
        sent = traffic(plan(Setting(**SHORT, processes=processes, objectives=[Logits()]), shape, shape))
        assert list(sent.values()) == [2 * gradient_bytes() * (processes - 1) // processes]
