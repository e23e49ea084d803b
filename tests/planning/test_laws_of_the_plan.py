"""Laws of a plan, against what torch and the formulas of rings say, and not against what it said before."""

import pytest
import torch
from conftest import build_model
from peft import LoraConfig, get_peft_model

from distill import Logits
from distill.objectives import attention_divergence
from distill.objectives.divergences import by_name
from distill.planning import Setting, plan, shape_of, traffic
from distill.planning.live_tensors import LiveBytes
from distill.planning.loss_buffers import attention_buffers
from distill.planning.plan import BUCKETS, UPDATE
from distill.signals import AttentionTap

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


SHAPE = (2, 4, 96, 64)  # rows, heads, positions, width
LAYER = 2 * 2 * 4 * 96 * 64  # numbers in the queries and keys of a layer


def held_by_the_maps(layers, device=None):
    """Most bytes alive while the maps of bfloat16 layers are compared; with a device, of the plan's stand-in for it."""

    given = torch.nn.ParameterList(torch.randn(SHAPE).bfloat16() for _ in range(4 * layers))
    taps = [AttentionTap(query, key, None, None, 0.125) for query, key in zip(given[::2], given[1::2], strict=True)]
    pairs, rows = list(zip(taps[::2], taps[1::2], strict=True)), torch.ones(2, 96, dtype=torch.bool)
    with LiveBytes(given, rows.numel()) as live, live.moment("maps", "all"):
        if device is None:
            attention_divergence(*zip(*pairs, strict=True), rows)
        else:
            attention_buffers(pairs, rows.numel(), by_name("forward_kl"), live, device)
    return live.highest["maps"].total()


def test_sums_of_the_maps_gradients_live_in_float32_for_one_layer_at_a_time():
    """On a CPU each further layer adds its gradients in the model's precision and nothing else."""
    more = held_by_the_maps(9) - held_by_the_maps(2)
    assert more == pytest.approx(7 * LAYER * 2, rel=0.02)


def test_the_plan_counts_the_maps_gradients_as_they_are_held():
    """On a GPU layers are computed side by side, so all their sums live at once."""
    assert held_by_the_maps(9, "cpu") - held_by_the_maps(2, "cpu") == held_by_the_maps(9) - held_by_the_maps(2)
    assert held_by_the_maps(9, "cuda") - held_by_the_maps(2, "cuda") >= 7 * LAYER * 4
