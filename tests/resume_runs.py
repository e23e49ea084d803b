"""Small trainings of both trainers, for the tests of resuming."""

import torch
from conftest import build_model, build_pairs, build_tokenizer
from transformers import TrainerCallback

from distill import BlackBoxTrainer, HiddenStates, Logits, WhiteBoxTrainer
from distill.objectives import Schedule

TIMES = ("_runtime", "_per_second")


class Halt(TrainerCallback):
    """Save and stop at a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


def black(arguments, halt=None, pairs=None, model=None, **changes):
    own = {
        name: changes.pop(name) for name in ("max_length", "packing", "peft_config", "eval_dataset") if name in changes
    }
    return BlackBoxTrainer(
        model=model or build_model(seed=7, attention_dropout=0.1),
        args=arguments(**{"save_strategy": "steps", "save_steps": 2, "max_steps": 6, **changes}),
        train_dataset=pairs or build_pairs(14),
        processing_class=build_tokenizer(),
        callbacks=[Halt(halt)] if halt else None,
        **own,
    )


def white(arguments, objectives=None, teacher=None, halt=None, **changes):
    return WhiteBoxTrainer(
        model=build_model(hidden_size=16, num_attention_heads=2, seed=7, attention_dropout=0.1),
        teacher=teacher or build_model(layers=3, seed=1),
        objectives=objectives or [Logits(weight=Schedule(1.0, 0.2)), HiddenStates(weight=0.5)],
        args=arguments(**{"save_strategy": "steps", "save_steps": 2, "max_steps": 6, **changes}),
        train_dataset=build_pairs(14),
        processing_class=build_tokenizer(),
        callbacks=[Halt(halt)] if halt else None,
    )


def log(trainer):
    """What was logged, but for times and the summary of a call."""
    return [
        {name: value for name, value in entry.items() if not name.endswith(TIMES)}
        for entry in trainer.state.log_history
        if "train_runtime" not in entry
    ]


def weights(trainer):
    own = trainer.terms.state_dict() if isinstance(trainer, WhiteBoxTrainer) else {}
    return {**trainer.model.state_dict(), **own}


def assert_same_end(one, other):
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    states = [run.optimizer.state_dict()["state"] for run in (one, other)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][i][name], states[1][i][name]) for i in states[0] for name in states[0][i])
    assert log(one) == log(other)
