"""Laws of what a setting decides: the seed of the data decides the packing, and a teacher's dropout decides nothing."""

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from white_box_runs import OBJECTIVES, trainer

from distill import BlackBoxTrainer

DROPOUT = {"attention_dropout": 0.5}


@pytest.mark.parametrize("name", ["logits", "hidden", "attention"])
def test_a_teacher_in_training_mode_gives_the_loss_of_evaluation_mode(arguments, name):
    losses = {}
    for mode in (False, True):
        teacher = build_model(seed=1, **DROPOUT).train(mode)
        run = trainer(arguments, OBJECTIVES[name](), teacher=teacher, max_steps=2)
        run.train()
        losses[mode] = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert losses[True] == losses[False]


def test_the_dropout_of_that_teacher_would_have_been_seen():
    ids = torch.arange(3, 40)[None]
    teacher = build_model(seed=1, **DROPOUT)
    assert not torch.equal(teacher.train()(ids).logits, teacher.eval()(ids).logits)


def bins_of(arguments, **seeds):
    """Rows of equal length, whose places among the bins are drawn."""
    rows = build_pairs(24).map(lambda row: {"prompt_ids": [5] * 4, "completion_ids": [6] * 4})
    run = BlackBoxTrainer(
        model=build_model(),
        args=arguments(**seeds),
        train_dataset=rows,
        processing_class=build_tokenizer(),
        max_length=16,
        packing=True,
    )
    return run.train_dataset.bins


def test_the_seed_of_the_data_decides_which_pairs_share_a_row(arguments):
    """`data_seed` where it is given, 0 too, and `seed` else: then a seed of the weights does not change the data."""
    one = bins_of(arguments, seed=1, data_seed=5)
    assert bins_of(arguments, seed=2, data_seed=5) == one
    assert bins_of(arguments, seed=1, data_seed=6) != one
    assert bins_of(arguments, seed=5) == one
    assert bins_of(arguments, seed=5, data_seed=0) == bins_of(arguments, seed=0) != one
