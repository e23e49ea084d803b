"""Any split of a batch over processes, micro-batches and padding gives the gradient of one process."""

import os
import shutil
import signal

import pytest
import torch
from conftest import build_arguments, build_model, build_pairs, wait_until
from process_runs import (
    CASES,
    FSDP,
    endless,
    evaluated_apart,
    exported,
    gathers_of_a_step,
    gradients,
    gradients_with,
    saving,
    training,
)
from processes import run_processes, start_processes
from transformers import AutoModelForCausalLM
from white_box_runs import black_box_trainer, trainer

from distill import HiddenStates
from distill.trainers.checkpoints import last_complete_checkpoint

SHARDED = {"fsdp": True, "fsdp_config": {"version": 2, "state_dict_type": "SHARDED_STATE_DICT"}}


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
                    found[key], gradient, rtol=1e-4, atol=1e-6, msg=lambda said, place=place: place + said
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


@pytest.mark.parametrize("settings", [{}, FSDP], ids=["ddp", "fsdp2"])
def test_a_sharded_teacher_and_a_student_that_teaches_itself(settings):
    wanted = gradients_with({"per_device_train_batch_size": 8})
    found = run_processes(2, gradients_with, {"per_device_train_batch_size": 4, "shard_teacher": True, **settings})
    for result in found:
        for name, whole in wanted.items():
            assert max(g.abs().max() for g in whole.values()) > 1e-3, name
            assert result[name].keys() == whole.keys()
            for key, gradient in whole.items():
                torch.testing.assert_close(result[name][key], gradient, rtol=1e-4, atol=1e-6, msg=f"{name} {key}")


@pytest.mark.parametrize(
    ("settings", "gathers"),
    [
        # forward: embeddings, 2 layers, norm and head together; backward: the first three again
        (FSDP, 4 + 3),
        # the teacher of a replicated student: the same four, once
        ({"shard_teacher": True}, 4),
    ],
    ids=["student", "teacher"],
)
def test_a_head_is_gathered_once_a_step_and_not_once_a_chunk(settings, gathers):
    for chunk in (256, 2):
        assert run_processes(2, gathers_of_a_step, chunk, settings) == [gathers, gathers]


@pytest.mark.parametrize("settings", [{}, FSDP, SHARDED], ids=["ddp", "fsdp2", "fsdp2 saved in shards"])
def test_a_checkpoint_resumes_and_loads_into_one_process(tmp_path, settings):
    unbroken = run_processes(2, saving, str(tmp_path), settings)
    shutil.rmtree(tmp_path / "checkpoint-4")
    resumed = run_processes(2, saving, str(tmp_path), settings, True)
    for one, other in zip(unbroken, resumed, strict=True):
        assert one[4].keys() == other[4].keys()
        for name in one[4]:
            assert torch.equal(one[4][name], other[4][name]), name
    assert all(torch.equal(tensor, unbroken[0][4][name]) for name, tensor in unbroken[0]["whole"].items())
    if settings is not SHARDED:  # those are read by FSDP only, and merged by `accelerate merge-weights`
        alone = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-2").state_dict()
        assert all(torch.equal(tensor, unbroken[0][2][name]) for name, tensor in alone.items())


def test_a_process_without_rows_of_any_teacher_evaluates_and_trains_with_the_others():
    """Its sums have the same names: those of a batch that fills up, through several teachers."""
    wanted = evaluated_apart(3)
    for found in run_processes(2, evaluated_apart, 3):
        assert found.keys() == wanted.keys()
        assert found == pytest.approx(wanted, rel=1e-5)


def test_an_adapter_trained_in_shards_is_merged_whole():
    alone = exported({"per_device_train_batch_size": 4})
    sharded = run_processes(2, exported, {"per_device_train_batch_size": 2, **FSDP})[0]
    assert alone.keys() == sharded.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(sharded[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("ending", "status", "words"),
    [
        (signal.SIGKILL, 1, "Another process of this run has ended, so this one stops too"),
        (signal.SIGINT, 130, "the same command goes on from there"),
    ],
    ids=["killed", "interrupted"],
)
def test_when_one_process_ends_the_others_stop_with_a_sentence(tmp_path, ending, status, words):
    _, started = start_processes(2, endless, str(tmp_path))
    try:
        wait_until(lambda: last_complete_checkpoint(tmp_path) is not None)
        os.kill(started[1].pid, ending)
        started[0].join(60)
        assert started[0].exitcode == status
        assert words in (tmp_path / "said0").read_text()
        assert last_complete_checkpoint(tmp_path) is not None
        if ending == signal.SIGINT:  # told to one of them, heard by both
            started[1].join(60)
            assert started[1].exitcode == status
    finally:
        for process in started:
            process.kill()


def test_more_processes_than_rows_are_refused():
    with pytest.raises(AssertionError, match="train_dataset has 3 rows, too few for 4 processes"):
        run_processes(4, training_of_three_rows)


def training_of_three_rows():
    trainer(lambda **changes: build_arguments("unused", **changes), CASES["logits"](), pairs=build_pairs(3))


def test_a_teacher_that_only_the_first_process_would_load_is_refused():
    with pytest.raises(AssertionError, match="fsdp_cpu_ram_efficient_loading is on"):
        run_processes(2, trainer_that_loads_little)


def trainer_that_loads_little():
    config = {"version": 2, "cpu_ram_efficient_loading": True}
    trainer(lambda **changes: build_arguments("unused", **changes), CASES["logits"](), fsdp=True, fsdp_config=config)


def test_a_loss_that_depends_on_the_processes_is_refused():
    with pytest.raises(AssertionError, match="average_tokens_across_devices=False"):
        run_processes(2, black_box_of_means)


def black_box_of_means():
    black_box_trainer(lambda **changes: build_arguments("unused", **changes), average_tokens_across_devices=False)


def test_a_teacher_is_not_sharded_over_one_process(arguments):
    with pytest.raises(ValueError, match="there is one; start several with accelerate launch"):
        trainer(arguments, CASES["logits"](), shard_teacher=True)


def test_a_learned_projection_is_refused_where_the_optimiser_would_not_take_it():
    with pytest.raises(AssertionError, match="needs a learned projection .* use DDP"):
        run_processes(2, projection_under_fsdp)


def projection_under_fsdp():
    trainer(
        lambda **changes: build_arguments("unused", **changes), [HiddenStates()], teacher=build_model(seed=1, hidden_size=48),
        **FSDP,
    )  # fmt: skip
