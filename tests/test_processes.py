"""Any split of a batch over processes, micro-batches and padding gives the gradient of one process."""

import pytest
import torch
from conftest import build_arguments, build_model, build_pairs
from process_runs import CASES, FSDP, gathers_of_a_step, gradients, training
from processes import run_processes
from white_box_runs import trainer

from distill import HiddenStates


def split(batch, accumulation=1, left=False, rows=8, **more):
    return (
        {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, **more},
        left,
        rows,
    )


@pytest.fixture(scope="module")
def alone():
    """Gradients of one process that sees 8 rows at once, and 7."""
    found = gradients([split(8), split(8, rows=7)])
    return {(name, rows): found[name, number] for name in CASES for number, rows in enumerate((8, 7))}


SPLITS = {
    "ddp of 2": (2, [split(2, 2), split(1, 4, left=True), split(4, rows=7)]),
    "ddp of 4": (4, [split(2), split(1, 2, rows=7)]),
    "fsdp2 of 2": (2, [split(4, **FSDP), split(2, 2, rows=7, **FSDP)]),
}


@pytest.mark.parametrize("name", SPLITS)
def test_any_split_over_processes_gives_the_same_gradient(alone, name):
    """Black box, every objective, and a learned projection; with 7 rows one process gets one row less."""
    processes, splits = SPLITS[name]
    for rank, result in enumerate(run_processes(processes, gradients, splits)):
        for (case, number), found in result.items():
            wanted = alone[case, splits[number][2]]
            assert max(g.abs().max() for g in wanted.values()) > 1e-3
            assert found.keys() == wanted.keys()
            for key, gradient in wanted.items():
                place = f"{case}, split {splits[number]}, rank {rank}, {key}: "
                torch.testing.assert_close(
                    found[key], gradient, rtol=1e-3, atol=2e-5, msg=lambda said, place=place: place + said
                )


@pytest.mark.parametrize("name", ["black_box", "white_box"])
@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp2"])
def test_a_training_of_two_processes_ends_where_that_of_one_does(name, sharded):
    """AdamW, shuffling, accumulation, clipping, a last step with fewer rows, tied embeddings, a schedule; and evaluation."""
    wanted, losses, evaluated = training(name, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2})
    settings = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, **(FSDP if sharded else {})}
    for weights, logged, terms in run_processes(2, training, name, settings):
        assert max((weights[key] - wanted[key]).abs().max().item() for key in wanted) < 1e-5
        assert logged == pytest.approx(losses, rel=1e-5)
        assert terms == pytest.approx(evaluated, rel=1e-5)


def test_the_head_is_gathered_once_a_step_and_not_once_a_chunk():
    few, many = ({**run_processes(2, gathers_of_a_step, chunk)[0]} for chunk in (256, 2))
    assert few == many
    assert sum(few.values()) > 0


def test_more_processes_than_rows_are_refused():
    with pytest.raises(AssertionError, match="train_dataset has 3 rows, too few for 4 processes"):
        run_processes(4, training_of_three_rows)


def training_of_three_rows():
    trainer(lambda **changes: build_arguments("unused", **changes), CASES["logits"](), pairs=build_pairs(3))


def test_a_learned_projection_is_refused_where_the_optimiser_would_not_take_it():
    with pytest.raises(AssertionError, match="needs a learned projection .* use DDP"):
        run_processes(2, projection_under_fsdp)


def projection_under_fsdp():
    trainer(
        lambda **changes: build_arguments("unused", **changes), [HiddenStates()], teacher=build_model(seed=1, hidden_size=48),
        **FSDP,
    )  # fmt: skip
