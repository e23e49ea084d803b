"""The log says how fast a training is, and what it counted is exact."""

import time
from types import SimpleNamespace

import pytest
import torch
from conftest import build_pairs
from process_runs import in_folder
from processes import run_processes
from white_box_runs import OBJECTIVES, black_box_trainer, trainer

from distill.trainers.throughput import Rates


def logged(run):
    return [entry for entry in run.state.log_history if "loss" in entry]


def share_of(pairs):
    tokens = sum(len(row["prompt_ids"]) + len(row["completion_ids"]) for row in pairs)
    return sum(len(row["completion_ids"]) for row in pairs) / tokens


def test_the_share_is_exact_and_the_teacher_is_counted_where_there_is_one(arguments):
    pairs = build_pairs(8)
    whole = {"per_device_train_batch_size": 4, "max_steps": 2, "logging_steps": 2, "pairs": pairs}
    for build in (black_box_trainer, lambda a, **more: trainer(a, OBJECTIVES["logits"](), **more)):
        run = build(arguments, **whole)
        run.train()
        (entry,) = logged(run)
        assert entry["supervised_share"] == pytest.approx(share_of(pairs))
        assert entry["student_tokens_per_second"] > 0
        assert ("teacher_tokens_per_second" in entry) == (build is not black_box_trainer)


def test_the_share_of_two_processes_is_that_of_one():
    (alone,), together = shares(4), run_processes(2, shares, 2)
    assert together == [pytest.approx([alone])] * 2


def shares(batch):
    def run(arguments):
        it = black_box_trainer(arguments, per_device_train_batch_size=batch, max_steps=2, logging_steps=2)
        it.train()
        return [entry["supervised_share"] for entry in logged(it)]

    return in_folder(run)


def test_evaluation_is_in_no_window(monkeypatch):
    """100 tokens in 2 s of training, 0.5 s of them the teacher's; the 30 s of an evaluation in between count nowhere."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    rates = Rates(SimpleNamespace(num_processes=1), torch.device("cpu"))
    batch = {"attention_mask": torch.ones(4, 25), "labels": torch.full((4, 25), -100)}
    batch["labels"][:, -5:] = 1
    rates.begin()
    rates.count(batch)
    with rates.teacher():
        now[0] += 0.5
    now[0] += 0.5
    with rates.pause(), rates.teacher():
        now[0] += 30
    now[0] += 1
    assert rates.close() == {
        "student_tokens_per_second": pytest.approx(100 / 1.5),
        "teacher_tokens_per_second": pytest.approx(100 / 0.5),
        "supervised_share": pytest.approx(0.2),
    }
    assert rates.close() == {}  # until the next step begins


def test_a_resumed_window_keeps_its_share_and_not_its_speed():
    rates = Rates(SimpleNamespace(num_processes=1), torch.device("cpu"))
    batch = {"attention_mask": torch.ones(1, 10), "labels": torch.full((1, 10), -100)}
    rates.take_up_window([90, 50])
    rates.begin()
    rates.count(batch)
    assert rates.open_window() == [100, 50]
    assert rates.close()["supervised_share"] == pytest.approx(0.5)


def test_batches_of_an_own_collator_stop_no_training():
    rates = Rates(SimpleNamespace(num_processes=1), torch.device("cpu"))
    rates.begin()
    rates.count({"labels": torch.tensor([[-100, 1, 2, 3]])})  # neither mask nor positions: all tokens count
    rates.count({"input_ids": torch.zeros(1, 4)})
    assert rates.close()["supervised_share"] == pytest.approx(0.75)
