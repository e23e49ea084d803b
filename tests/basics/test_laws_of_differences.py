"""Laws of settings: what is allowed to differ is what was named and its parts, and nothing that only begins alike."""

import pytest
from conftest import build_arguments

from distill.basics.settings import differences, plain
from distill.reports.provenance import describe_training

THERE = {"training": {"max_steps": 4, "max_steps_a_day": 1}, "train": 1, "seed": 0}
NOW = {"training": {"max_steps": 8, "max_steps_a_day": 2}, "train": 2, "seed": 1}


@pytest.mark.parametrize(
    ("allowed", "named"),
    [
        ((), ["training.max_steps", "training.max_steps_a_day", "train", "seed"]),
        (["training.max_steps"], ["training.max_steps_a_day", "train", "seed"]),
        (["train"], ["training.max_steps", "training.max_steps_a_day", "seed"]),
        (["training"], ["train", "seed"]),
        (["training.max"], ["training.max_steps", "training.max_steps_a_day", "train", "seed"]),
    ],
)
def test_only_what_was_named_may_differ(allowed, named):
    assert [one.partition(":")[0] for one in differences(THERE, NOW, allowed)] == named


@pytest.mark.parametrize(("batch", "accumulation", "processes"), [(2, 1, 1), (2, 3, 1), (2, 3, 4)])
def test_the_rows_of_a_step_are_those_of_all_its_batches_and_processes(
    tmp_path, monkeypatch, batch, accumulation, processes
):
    training = build_arguments(tmp_path, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
    monkeypatch.setattr(type(training), "world_size", processes)
    assert describe_training(training)["rows_in_a_step"] == batch * accumulation * processes


def test_any_value_is_plain_and_no_address_is_written():
    """An array's text is its values; an object that only says where it lies is told by its class."""
    import numpy as np
    import torch

    for value in (np.ones(4), np.float32(1.5), torch.ones(2), torch.float32, float("nan"), object):
        assert plain({"a": value}) == plain({"a": value}) or value != value
    assert plain(np.array([1.0, 2.0])) == "[1. 2.]"
    assert plain(object()) == "object"
    assert plain("here at 0x12") == "here at 0x12"
