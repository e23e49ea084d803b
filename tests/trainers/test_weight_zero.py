"""A term of weight 0 is looked at, and only when somebody will see it."""

import pytest
import torch
from conftest import build_model, build_pairs
from transformers import TrainerCallback
from white_box_runs import trainer, weights_of

from distill import AttentionMaps, HiddenStates, Logits, Schedule
from distill.signals import sources
from distill.trainers.term_sums import TermSums


def requests_of(monkeypatch):
    """What the teacher was asked for, pass by pass."""
    asked, plain = [], sources.run_with_taps

    def kept(forward, model, inputs, rows, request, *rest):
        if forward.config.num_hidden_layers == 3:
            asked.append(request)
        return plain(forward, model, inputs, rows, request, *rest)

    monkeypatch.setattr(sources, "run_with_taps", kept)
    return asked


def run_of(arguments, objectives, **changes):
    settings = {
        "max_steps": 7,
        "logging_steps": 3,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        **changes,
    }
    return trainer(arguments, objectives, teacher=build_model(3, seed=1), eval_pairs=build_pairs(4, seed=5), **settings)


def test_it_is_computed_in_the_steps_that_are_logged_and_asks_for_nothing_in_the_others(arguments, monkeypatch):
    asked = requests_of(monkeypatch)
    run = run_of(arguments, [Logits(), HiddenStates(weight=0.0), AttentionMaps(weight=0.0)])
    run.train()
    with_signals = [bool(request.hidden) and bool(request.attention) for request in asked]
    # two micro-batches a step; logged after steps 3 and 6, and the last one, 7
    assert with_signals == [step in (3, 6, 7) for step in range(1, 8) for _ in range(2)]
    assert all(request.head is not None for request in asked)
    logs = [entry for entry in run.state.log_history if "loss" in entry]
    assert len(logs) == 2
    assert all(
        entry["hidden"] > 0 and entry["attention"] > 0 and entry["logits"] == pytest.approx(entry["loss"])
        for entry in logs
    )
    assert run.evaluate()["eval_hidden"] > 0


def test_what_is_logged_is_the_value_of_that_step(arguments):
    """With the student held still (rate 0) the mean over the steps of one batch each is that batch's value, so look at batches."""
    values = {}
    for objectives in ([Logits(), HiddenStates(weight=0.0)], [Logits(), HiddenStates(weight=1e-12)]):
        run = run_of(arguments, objectives, learning_rate=0.0, logging_steps=1, max_steps=4)
        run.train()
        values[objectives[1].weight] = [entry["hidden"] for entry in run.state.log_history if "loss" in entry]
    assert values[0.0] == pytest.approx(values[1e-12], rel=1e-9)
    every_second = run_of(
        arguments, [Logits(), HiddenStates(weight=0.0)], learning_rate=0.0, logging_steps=2, max_steps=4
    )
    every_second.train()
    logged = [entry["hidden"] for entry in every_second.state.log_history if "loss" in entry]
    assert logged == pytest.approx(values[0.0][1::2], rel=1e-9)


def test_training_is_the_same_bits_whether_it_is_looked_at_or_not(arguments):
    found = []
    for steps in (1, 50):
        run = run_of(arguments, [Logits(), HiddenStates(weight=0.0), AttentionMaps(weight=0.0)], logging_steps=steps)
        run.train()
        found.append(weights_of(run))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


class SecondHalf(Schedule):
    """0 in the first half of a run."""

    def __call__(self, step, max_steps):
        return float(step >= max_steps / 2)


def test_a_schedule_that_leaves_zero_counts_the_steps_it_was_there(arguments):
    """Weight 0 in steps 1 to 3 of a window of 6: of these the term has none, and its mean is over the other three."""
    counted = []

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            counted.append(dict(run._sums._steps))

    run = run_of(arguments, [Logits(), HiddenStates(weight=SecondHalf(0.0, 1.0))], max_steps=6, logging_steps=6)
    run.add_callback(Count())
    run.train()
    assert counted[2] == {"logits": 3}
    assert counted[4] == {"logits": 5, "hidden": 2}


def test_the_window_of_an_older_checkpoint_is_taken_up():
    class OneProcess:
        sync_gradients = True

        def reduce(self, values, _):
            return values

    sums = TermSums(OneProcess(), torch.device("cpu"))
    sums.take_up_window({"terms": {"logits": 3.0, "hidden": 6.0}, "steps": 3})
    sums.keep_training({"logits": torch.tensor(2.0)}, torch.tensor(2.0))
    assert sums.open_window() == {"terms": {"logits": 4.0, "hidden": 6.0}, "steps": {"logits": 4, "hidden": 3}}
    assert sums.training_means() == {"logits": 1.0, "hidden": 2.0}
