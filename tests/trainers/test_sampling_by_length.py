"""`train_sampling_strategy`: Trainer looks for a column that pairs never have; the lengths are handed to it."""

import pytest
import torch
from conftest import build_pairs
from process_runs import in_folder
from processes import run_processes
from resume_runs import Halt, log
from white_box_runs import black_box_trainer, gradient_of_one_step, trainer, weights_of

from distill import Logits
from distill.trainers.length_order import LengthOrder

STRATEGIES = ("group_by_length", "batch_rebalance")


def white(arguments, **changes):
    return trainer(arguments, [Logits()], **changes)


def rows_of(run):
    """Lengths of the rows of each batch of an epoch."""
    return [batch["attention_mask"].sum(1).tolist() for batch in run.get_train_dataloader()]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("as_list", [False, True], ids=["dataset", "list"])
def test_like_lengths_stand_together_and_every_row_comes_once(arguments, strategy, as_list):
    pairs = build_pairs(80)
    pairs = pairs.to_list() if as_list else pairs
    changes = {"per_device_train_batch_size": 4, "pairs": pairs}
    found = rows_of(black_box_trainer(arguments, train_sampling_strategy=strategy, **changes))
    plain = rows_of(black_box_trainer(arguments, **changes))
    assert sorted(length for rows in found for length in rows) == sorted(length for rows in plain for length in rows)
    padding = [sum(max(rows) * len(rows) - sum(rows) for rows in batches) for batches in (found, plain)]
    assert padding[0] < padding[1] or strategy == "batch_rebalance"


@pytest.mark.parametrize("build", [black_box_trainer, white])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_both_trainers_train_and_evaluate(arguments, build, strategy):
    run = build(arguments, train_sampling_strategy=strategy, gradient_accumulation_steps=2)
    run.train()
    assert run.state.global_step == 4
    found = run.evaluate(build_pairs(9, seed=5))["eval_loss"]
    assert found == pytest.approx(build(arguments, student=run.model).evaluate(build_pairs(9, seed=5))["eval_loss"])


def test_each_epoch_is_shuffled_anew_and_a_resumed_one_as_the_unbroken(arguments, tmp_path):
    """Trainer's own sampler draws from a state that is gone when a run is resumed in the middle of an epoch."""
    order = LengthOrder([*range(1, 41)], 4, seed=1)
    first = list(order)
    assert first == list(order)
    order.set_epoch(1)
    assert first != list(order)

    def make(folder, halt=None):
        run = black_box_trainer(
            arguments, pairs=build_pairs(10), train_sampling_strategy="group_by_length", max_steps=12, save_strategy="steps",
            save_steps=100, output_dir=str(tmp_path / folder),
        )  # fmt: skip
        if halt:
            run.add_callback(Halt(halt))
        return run

    unbroken, resumed = make("a"), make("b")
    unbroken.train()
    make("b", 7).train()
    resumed.train(resume_from_checkpoint=True)
    assert log(resumed) == log(unbroken)
    for name, tensor in weights_of(unbroken).items():
        assert torch.equal(tensor, weights_of(resumed)[name]), name


def gradients_by_length(settings):
    """The gradient of one step over all of 7 rows; and over two epochs the losses."""
    found = {}
    for name, objectives in (("black box", None), ("white box", [Logits()])):
        found[name] = in_folder(
            lambda arguments, o=objectives: gradient_of_one_step(
                arguments, o, pairs=build_pairs(7), train_sampling_strategy="group_by_length", **settings
            )
        )
    return found


def test_two_processes_give_the_gradient_of_one():
    alone = gradients_by_length({"per_device_train_batch_size": 8})
    for rank in run_processes(2, gradients_by_length, {"per_device_train_batch_size": 4}):
        for name, wanted in alone.items():
            for key, gradient in wanted.items():
                torch.testing.assert_close(rank[name][key], gradient, rtol=1e-4, atol=1e-6, msg=f"{name} {key}")


def test_rows_that_do_not_say_their_lengths_are_refused(arguments):
    class Texts(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return {"text": "a"}

    run = black_box_trainer(arguments, pairs=Texts(), train_sampling_strategy="group_by_length")
    with pytest.raises(ValueError, match="rows of this Texts do not say them"):
        run.train()
