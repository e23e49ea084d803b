"""A training step does not wait for the device at every layer, row or chunk. Counted by operator, which a CPU can do too."""

from collections import Counter

import pytest
import torch
from conftest import build_model, build_pairs
from host_waits import HostWaits, waits_of_a_step
from white_box_runs import black_box_trainer, trainer

from distill import AttentionMaps, HiddenStates, Logits
from distill.signals import SupervisedRows

STEP = {"max_steps": 2, "per_device_train_batch_size": 16, "max_grad_norm": 0.0, "logging_strategy": "no"}
OWN = {"to host": 2, "nonzero": 1}  # where the supervised rows are (looked up on the host), and which keys masks show
LOOK = {"_local_scalar_dense": 1}  # at the loss, when the backward pass is on its way: whether it is finite
OBJECTIVES = {
    "logits": ([Logits()], {"to host": 1, "nonzero": 1}),
    "logits and labels": ([Logits(cross_entropy=0.5)], {"to host": 1, "nonzero": 1}),
    "all": ([Logits(), HiddenStates(weight=0.3), AttentionMaps(weight=0.2)], OWN),
    "all, relations": ([Logits("generalized_jsd"), HiddenStates(), AttentionMaps(relations=("query", "value"))], OWN),
}


def looks_of(run):
    """What the look before the optimiser's step waits for."""
    found, original = Counter(), run.finite.on_pre_optimizer_step

    def counted(*args, **kwargs):
        with HostWaits() as waits:
            result = original(*args, **kwargs)
        found.update(waits.found)
        return result

    run.finite.on_pre_optimizer_step = counted
    return found


@pytest.mark.parametrize("layers", [1, 8, 16])
@pytest.mark.parametrize("objectives", OBJECTIVES)
def test_waits_do_not_grow_with_layers_or_rows(arguments, layers, objectives):
    """16 rows of unequal length, and not one wait more than is named. It was 934 with 8 layers, against 2 of the black box."""
    students = [build_model(layers=layers, seed=7) for _ in range(2)]
    pairs = build_pairs(32)
    plain, _ = waits_of_a_step(black_box_trainer(arguments, student=students[0], pairs=pairs, **STEP))
    assert +plain == {"_local_scalar_dense": 2}, "transformers looks whether a batch is padded, twice a forward pass"
    terms, own = OBJECTIVES[objectives]
    teacher = build_model(layers=layers, seed=1)
    run = trainer(arguments, terms, student=students[1], teacher=teacher, pairs=pairs, **STEP)
    looks = looks_of(run)
    found, _ = waits_of_a_step(run)
    assert +found == Counter(own) + plain + plain, found
    assert +looks == {name: count * run.state.global_step for name, count in LOOK.items()}
    assert sum(own.values()) + sum(LOOK.values()) <= 4


@pytest.mark.parametrize("has_gpu", [False, True])
def test_what_is_counted_is_what_a_gpu_waits_for(monkeypatch, has_gpu):
    """Each kind once; a place, or a dtype, that is no host costs nothing. On a machine with a GPU copies on the CPU were not counted."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    numbers = torch.arange(6.0)
    with HostWaits() as waits:
        numbers.to(torch.float64).to(numbers.device).to(device=numbers.device, dtype=torch.float32)
        assert not waits.total()
        numbers.to("cpu")
        numbers.cpu()
        numbers.sum().item()
        numbers.tolist()
        numbers[numbers > 2]
        (numbers > 2).nonzero()
    assert +waits.found == {"to host": 2, "_local_scalar_dense": 1, "tolist": 1, "index[bool]": 1, "nonzero": 1}


def test_supervised_rows_are_what_a_boolean_index_gives():
    mask = torch.rand(5, 9, generator=torch.Generator().manual_seed(0)) < 0.4
    mask[:, -1] = mask[2] = False
    rows, states = SupervisedRows.of(mask), torch.randn(5, 9, 3, requires_grad=True)
    labels = torch.arange(45).view(5, 9)
    assert torch.equal(rows.take(states), states[mask])
    assert torch.equal(rows.next_tokens(labels), labels[:, 1:][mask[:, :-1]])
    assert rows.counts() == mask.sum(1).tolist()
    assert len(rows) == int(mask.sum())
    weights = torch.randn(len(rows), 3)
    found = torch.autograd.grad((rows.take(states) * weights).sum(), states)[0]
    assert torch.equal(found, torch.autograd.grad((states[mask] * weights).sum(), states)[0])


def test_places_are_sent_to_another_device_once_and_not_once_a_layer():
    """A teacher may be spread over several; "meta" stands for another one."""
    rows, other = SupervisedRows.of(torch.ones(2, 3, dtype=torch.bool)), torch.empty(2, 3, 4, device="meta")
    assert rows.take(other).shape == (6, 4)
    sent = rows.index_on(other.device)
    assert sent.device == other.device
    rows.take(other)
    assert rows.index_on(other.device) is sent
    assert rows.index_on(torch.device("cpu")) is rows.index
