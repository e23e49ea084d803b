"""A training step does not wait for the device at every layer, row or chunk. Counted by operator, which a CPU can do too."""

import pytest
import torch
from conftest import build_model, build_pairs
from host_waits import waits_of_a_step
from white_box_runs import black_box_trainer, trainer

from distill import AttentionMaps, HiddenStates, Logits
from distill.signals import SupervisedRows

STEP = {"max_steps": 2, "per_device_train_batch_size": 16, "max_grad_norm": 0.0, "logging_strategy": "no"}
OWN = (
    4  # waits that are ours, at most: where the supervised rows are, which keys masks show, whether the loss is finite
)


@pytest.mark.parametrize("layers", [1, 8, 16])
def test_waits_do_not_grow_with_layers_or_rows(arguments, layers):
    """16 rows of unequal length. It was 934 with 8 layers, against 2 of the black box."""
    students = [build_model(layers=layers, seed=7) for _ in range(2)]
    pairs = build_pairs(32)
    # a forward pass of transformers looks whether a batch is padded
    plain, _ = waits_of_a_step(black_box_trainer(arguments, student=students[0], pairs=pairs, **STEP))
    objectives = [Logits(), HiddenStates(weight=0.3), AttentionMaps(weight=0.2)]
    teacher = build_model(layers=layers, seed=1)
    run = trainer(arguments, objectives, student=students[1], teacher=teacher, pairs=pairs, **STEP)
    found, _ = waits_of_a_step(run)
    own = 1  # whether the loss is finite, which the black box asks, too
    assert sum(found.values()) <= OWN + 2 * (sum(plain.values()) - own), found


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
