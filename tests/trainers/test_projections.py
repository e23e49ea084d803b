"""What a white box learns beside its student: whoever makes the optimiser, clips, or saves."""

import pytest
import torch
from conftest import build_arguments, build_model, build_pairs
from processes import run_processes
from white_box_runs import trainer, weights_of

from distill import HiddenStates, Logits

NARROW = {"hidden_size": 16, "num_attention_heads": 2}


def run_of(arguments, **changes):
    return trainer(arguments, [Logits(), HiddenStates(weight=0.5)], student=build_model(seed=7, **NARROW), **changes)


def moved(run, start):
    return [not torch.equal(a, b) for a, b in zip(start, run.terms.parameters(), strict=True)]


def start_of(run):
    return [p.detach().clone() for p in run.terms.parameters()]


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_own_optimiser_trains_projections_too(arguments, kind):
    run = run_of(arguments)
    run.optimizer = kind(run.model.parameters(), lr=0.1)  # as optimizers=(own, None) leaves it
    start = start_of(run)
    run.train()
    assert all(moved(run, start))
    assert run.optimizer.param_groups[-1]["weight_decay"] == 0


def test_an_own_optimiser_that_has_them_already_is_left_alone(arguments):
    run = run_of(arguments)
    run.optimizer = torch.optim.SGD([*run.model.parameters(), *run.terms.parameters()], lr=0.1)
    start = start_of(run)
    run.train()
    assert all(moved(run, start))
    assert len(run.optimizer.param_groups) == 1


def test_an_own_scheduler_knows_no_group_for_them(arguments):
    run = run_of(arguments)
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=0.1)
    run.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(run.optimizer)
    with pytest.raises(ValueError, match=r"no group for the 2 projections.*optimizers=\(optimizer, None\)"):
        run.train()


def test_clipping_sees_one_norm_of_student_and_projections(arguments):
    """With SGD of rate 1, a step is the gradient as clipped: all of it together has the norm that was asked for."""
    settings = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant"}
    sizes = {}
    for bound in (0.0, 1e-3):
        run = run_of(arguments, max_grad_norm=bound, **settings)
        before = weights_of(run)
        run.train()
        steps = [(after - before[name]).flatten() for name, after in weights_of(run).items()]
        sizes[bound] = float(torch.cat(steps).norm())
    assert sizes[0.0] > 1e-2
    assert sizes[1e-3] == pytest.approx(1e-3, rel=1e-2)


def _clipped_run(folder, per_device):
    run = run_of(
        lambda **changes: build_arguments(folder, **changes), per_device_train_batch_size=per_device, max_steps=2,
        optim="sgd", learning_rate=1.0, lr_scheduler_type="constant", max_grad_norm=1e-2, pairs=build_pairs(8),
    )  # fmt: skip
    run.train()
    return weights_of(run)


def test_two_processes_clip_as_one_does(tmp_path):
    one = _clipped_run(tmp_path / "one", 4)
    for two in run_processes(2, _clipped_run, tmp_path / "two", 2):
        for name, weight in one.items():
            torch.testing.assert_close(two[name], weight, rtol=1e-4, atol=1e-6, msg=name)


def test_the_best_of_checkpoints_without_optimiser_brings_its_projections(arguments, tmp_path):
    run = run_of(
        arguments, max_steps=3, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1, save_only_model=True,
        load_best_model_at_end=True, output_dir=str(tmp_path / "out"), pairs=build_pairs(8), eval_pairs=build_pairs(4, seed=3),
    )  # fmt: skip
    run.train()
    best = run.state.best_model_checkpoint
    found = start_of(run)
    for parameter in run.terms.parameters():
        parameter.data.zero_()
    run.projections.load(tmp_path / "out" / best.rpartition("/")[2])
    assert all(torch.equal(a, b) for a, b in zip(found, run.terms.parameters(), strict=True))
