"""Ctrl-C in a training, whenever it comes: heard by all processes at one step, counted once, and given back afterwards."""

import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import build_model
from white_box_runs import black_box_trainer

from distill.basics import processes
from distill.running import folder
from distill.running.folder import _StopOnInterrupt, train_or_resume


@pytest.fixture
def stop():
    """Listening, as in a training."""
    before = signal.getsignal(signal.SIGINT)
    it = _StopOnInterrupt(torch.device("cpu"))
    it.on_train_begin(None, None, None)
    yield it
    it.let_go()
    assert signal.getsignal(signal.SIGINT) is before


def step(stop):
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    stop.on_step_end(None, None, control)
    assert control.should_save == control.should_training_stop
    return control.should_training_stop


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_while_the_processes_tell_each_other_is_not_forgotten(stop, monkeypatch):
    """Most of a fast step is spent there. It was overwritten by what the others had said, and the run went on for ever."""

    def others_say(flag, device):
        monkeypatch.undo()
        interrupt()
        return flag

    assert not step(stop)
    monkeypatch.setattr(processes, "any_of_them", others_say)
    assert not step(stop), "no other process has heard of it: all stop after the same step"
    assert stop.asked
    assert step(stop)


def test_ones_own_signal_behind_that_of_another_is_no_second_one(stop, monkeypatch):
    """A terminal tells every process; a second one would stop in the middle of the checkpoint."""
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "any_of_them", lambda flag, device: True)
    assert step(stop)
    interrupt()
    assert stop.asked
    stop.when = time.monotonic() - 3
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_the_second_one_stops_at_once_and_the_third_too(stop):
    before = stop.before
    interrupt()
    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_training_that_begins_again_gives_the_signal_back(stop):
    """`auto_find_batch_size` begins twice; the handler took itself for what was there before."""
    before = stop.before
    stop.on_train_begin(None, None, None)
    stop.on_train_end(None, None, None)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("ends", ["well", "with an error"])
def test_the_signal_is_given_back_however_a_training_ends(arguments, ends, monkeypatch):
    before, run = signal.getsignal(signal.SIGINT), black_box_trainer(arguments, student=build_model(seed=7))
    inside = []
    training_step = run.training_step

    def counted(*args, **kwargs):
        inside.append(signal.getsignal(signal.SIGINT))
        if ends == "with an error":
            raise RuntimeError("no")
        return training_step(*args, **kwargs)

    run.training_step = counted
    if ends == "well":
        train_or_resume(run)
    else:
        with pytest.raises(RuntimeError, match="no"):
            train_or_resume(run)
    assert all(one is not before for one in inside)
    assert inside
    assert signal.getsignal(signal.SIGINT) is before
    assert not any(isinstance(callback, folder._StopOnInterrupt) for callback in run.callback_handler.callbacks)
