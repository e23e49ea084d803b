"""What a white box learns beside its student: whoever makes the optimiser, clips, or saves."""

import pytest
import torch
from conftest import build_arguments, build_model, build_pairs, build_tokenizer
from processes import run_processes
from transformers.trainer_pt_utils import LayerWiseDummyOptimizer
from transformers.training_args import OptimizerNames
from white_box_runs import trainer, weights_of

from distill import HiddenStates, Logits, WhiteBoxTrainer

NARROW = {"hidden_size": 16, "num_attention_heads": 2}


def run_of(arguments, **changes):
    return trainer(arguments, [Logits(), HiddenStates(weight=0.5)], student=build_model(seed=7, **NARROW), **changes)


def moved(run, start):
    return [not torch.equal(a, b) for a, b in zip(start, run.terms.parameters(), strict=True)]


def start_of(run):
    return [p.detach().clone() for p in run.terms.parameters()]


def with_own(arguments, optimizer, scheduler=None):
    """Given as users of Trainer give them: to the constructor."""
    student = build_model(seed=7, **NARROW)
    own = optimizer(student.parameters())
    return WhiteBoxTrainer(
        model=student, teacher=build_model(seed=1), objectives=[Logits(), HiddenStates(weight=0.5)], args=arguments(),
        train_dataset=build_pairs(8), processing_class=build_tokenizer(), optimizers=(own, scheduler and scheduler(own)),
    )  # fmt: skip


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_own_optimiser_trains_projections_too(arguments, kind):
    run = with_own(arguments, lambda parameters: kind(parameters, lr=0.1))
    groups = run.optimizer.param_groups
    assert len(groups) == 2
    assert groups[-1]["weight_decay"] == 0
    assert groups[-1]["lr"] == 0.1
    assert [id(p) for p in groups[-1]["params"]] == [id(p) for p in run.terms.parameters()]
    start, student = start_of(run), [p.detach().clone() for p in run.model.parameters()]
    run.train()
    assert all(moved(run, start))
    assert not any(torch.equal(a, b) for a, b in zip(student, run.model.parameters(), strict=True))


def test_an_optimiser_that_is_put_in_later_trains_them_too(arguments):
    run = run_of(arguments)
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=0.1)
    start = start_of(run)
    run.train()
    assert all(moved(run, start))


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
    with pytest.raises(ValueError, match=r"no group for the 2 projections.*optimizers=\(optimizer, None\)"):
        with_own(arguments, torch.optim.SGD, torch.optim.lr_scheduler.ConstantLR)


LAYERWISE = [name for name in OptimizerNames if "layerwise" in name.value or "lomo" in name.value]


@pytest.mark.parametrize("name", LAYERWISE)
def test_an_optimiser_that_steps_in_the_backward_pass_is_refused_by_name(arguments, name):
    """Its steps are the student's own; a group that is added to it is never looked at."""
    with pytest.raises(ValueError, match=f"optim='{name.value}' takes its steps layer by layer"):
        run_of(arguments, optim=name.value)
    trainer(arguments, [Logits(), HiddenStates()], optim=name.value)  # widths are equal: there is nothing to project


def test_every_such_optimiser_is_known():
    assert len(LAYERWISE) == 6


def test_an_own_optimiser_that_steps_in_the_backward_pass_is_refused_by_its_class(arguments):
    def layer_by_layer(parameters):
        return LayerWiseDummyOptimizer({p: torch.optim.SGD([p], lr=0.1) for p in parameters})

    with pytest.raises(ValueError, match="An optimiser of LayerWiseDummyOptimizer takes its steps layer by layer"):
        with_own(arguments, layer_by_layer)

    class Lomo(torch.optim.SGD):  # as much of it as tells it
        def fused_backward(self, loss, lr):
            loss.backward()

    with pytest.raises(ValueError, match="An optimiser of Lomo takes its steps layer by layer"):
        with_own(arguments, Lomo)
    run = run_of(arguments)
    run.optimizer_cls_and_kwargs = Lomo, {"lr": 0.1}
    with pytest.raises(ValueError, match="An optimiser of Lomo takes its steps layer by layer"):
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


@pytest.mark.parametrize("save_only_model", [True, False])
def test_the_best_of_checkpoints_brings_its_projections(arguments, tmp_path, save_only_model):
    """The first step is the best: later ones climb. Student and projections are those of that step, as its checkpoint and a run of one step have them."""
    settings = {
        "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "save_only_model": save_only_model,
        "learning_rate": 0.3, "optim": "sgd", "lr_scheduler_type": "constant", "train_sampling_strategy": "sequential",
    }  # fmt: skip
    run = run_of(arguments, max_steps=3, load_best_model_at_end=True, eval_pairs=build_pairs(4, seed=3), **settings)
    losses, seen, evaluate = [1.0, 2.0, 3.0], [], run.evaluate

    def judged(*args, **kwargs):
        seen.append(weights_of(run))
        return {**evaluate(*args, **kwargs), "eval_loss": losses.pop(0)}

    run.evaluate = judged
    run.train()
    assert run.state.best_model_checkpoint.endswith("checkpoint-1")
    assert len(seen) == 3
    found = weights_of(run)
    assert any(name.startswith("objectives.") for name in found)
    for name, tensor in seen[0].items():
        assert torch.equal(found[name], tensor), name
        assert not torch.equal(tensor, seen[2][name]), f"{name} did not move, so nothing is shown"
