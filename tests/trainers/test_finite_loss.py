"""A loss that is not finite stops both trainers before the optimiser's step, in every process; nothing bad is written."""

import os
from types import SimpleNamespace

import pytest
import torch
from conftest import build_arguments, build_model, build_pairs
from processes import run_processes
from transformers import TrainerCallback
from white_box_runs import black_box_trainer, trainer, weights_of

from distill import HiddenStates, Logits
from distill.trainers.finite_loss import FiniteLoss


class Spoil(TrainerCallback):
    """Before a step, one weight of the student becomes NaN; what the weights were then is kept."""

    def __init__(self, step):
        self.step, self.before = step, None

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            with torch.no_grad():
                model.lm_head.weight[5, 0] = float("nan")
            self.before = {name: tensor.clone() for name, tensor in model.state_dict().items()}


def white(arguments, **changes):
    return trainer(arguments, [Logits()], **changes)


@pytest.mark.parametrize("build", [black_box_trainer, white])
def test_no_step_is_taken_and_the_last_good_checkpoint_stays(arguments, tmp_path, build):
    """Trainer logs such a loss as 0.0, trains on, and saves the ruins over the last good checkpoint."""
    run = build(
        arguments, max_steps=6, gradient_accumulation_steps=2, save_strategy="steps", save_steps=1, save_total_limit=1,
        output_dir=str(tmp_path / "out"),
    )  # fmt: skip
    spoil = Spoil(2)
    run.add_callback(spoil)
    with pytest.raises(FloatingPointError, match="at step 2 is not finite"):
        run.train()
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor.nan_to_num(), spoil.before[name].nan_to_num()), name
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-2"]


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("build", [black_box_trainer, white])
def test_no_step_is_taken_with_a_gradient_that_is_no_number(arguments, tmp_path, build, clip):
    """Under a loss that is one: its step would spoil the weights, and they were saved over the last good ones."""
    run = build(
        arguments, max_steps=6, save_strategy="steps", save_steps=1, save_total_limit=1, max_grad_norm=clip,
        output_dir=str(tmp_path / "out"),
    )  # fmt: skip
    before = {}

    def spoiled(gradient):
        if run.state.global_step != 2:
            return gradient
        before.update({name: tensor.clone() for name, tensor in run.model.state_dict().items()})
        return torch.full_like(gradient, float("inf"))

    run.model.model.layers[0].mlp.down_proj.weight.register_hook(spoiled)
    with pytest.raises(
        FloatingPointError,
        match=r"The gradient at step 2 is not finite \(its norm is (inf|nan)\), while the loss is \(",
    ):
        run.train()
    assert before
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.model.state_dict().items())
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_run_that_failed_can_be_tried_again_by_the_same_trainer(arguments):
    """Nothing of the failed step is left: neither gradients of projections nor sums for the log."""
    student = build_model(seed=7, hidden_size=16, num_attention_heads=2)
    run = trainer(arguments, [Logits(), HiddenStates(weight=0.5)], student=student, logging_steps=3, max_steps=3)
    good = [p.detach().clone() for p in run.terms.parameters()]
    spoil = Spoil(1)
    run.add_callback(spoil)
    with pytest.raises(FloatingPointError):
        run.train()
    run.remove_callback(spoil)
    with torch.no_grad():
        student.lm_head.weight.nan_to_num_(0.0)
        for parameter, start in zip(run.terms.parameters(), good, strict=True):
            parameter.copy_(start)
    run.train()
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(run).values())
    logged = [entry for entry in run.state.log_history if "hidden" in entry]
    assert all(0 < entry[name] < 1e6 for entry in logged for name in ("loss", "hidden", "logits"))


def _spoiled_in_one_process(folder, kind):
    run = kind(lambda **changes: build_arguments(folder, **changes), max_steps=3, gradient_accumulation_steps=2)
    plain = run.compute_loss

    def compute_loss(*args, **kwargs):
        loss = plain(*args, **kwargs)
        return loss * float("nan") if os.environ["RANK"] == "1" and run.state.global_step == 1 else loss

    run.compute_loss = compute_loss
    seen = {}

    class Keep(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            seen.update(weights_of(run))

    run.add_callback(Keep())
    try:
        run.train()
    except FloatingPointError as error:
        return str(error), run.state.global_step, all(torch.equal(seen[n], t) for n, t in weights_of(run).items())
    return "no error", run.state.global_step, False


@pytest.mark.parametrize("kind", [black_box_trainer, white])
def test_where_one_process_finds_it_all_stop_before_the_step(tmp_path, kind):
    found = run_processes(2, _spoiled_in_one_process, tmp_path, kind)
    assert "another process" in found[0][0]
    assert "at step 1 is not finite" in found[1][0]
    for _, step, unchanged in found:
        assert step == 1
        assert unchanged


def test_what_is_kept_for_the_message_does_not_grow_with_the_length_of_rows():
    """Of every micro-batch of a step: which rows, and a sum; the message names the row and the term."""
    run = SimpleNamespace(add_callback=lambda callback: None, state=SimpleNamespace(global_step=4))
    finite, rows = FiniteLoss(run), torch.ones(3, 4000, dtype=torch.bool)
    rows[:, ::2] = False
    for micro in range(8):
        values = torch.ones(6000)
        values[2500] = float("nan") if micro == 5 else 1.0
        finite.remember({"logits": values, "hidden": torch.ones(6000)}, rows, [f"pair {micro}.{i}" for i in range(3)])
    kept = sum(tensor.nbytes for values, _ in finite._details for found in values.values() for tensor in found)
    assert kept <= 8 * 2 * (3 + 4)
    with pytest.raises(FloatingPointError, match=r"step 4 is not finite: logits of 'pair 5.1' \(sums .*hidden 6000"):
        finite.check(torch.tensor(float("nan")))


def test_a_term_that_is_only_looked_at_may_be_infinite_in_evaluation(arguments):
    run = trainer(arguments, [Logits(), HiddenStates(weight=0.0)])
    term = run.terms[1]
    forward = term.forward
    term.forward = lambda student, teacher: torch.full_like(forward(student, teacher), float("inf"))
    found = run.evaluate(build_pairs(5, seed=4))
    assert found["eval_hidden"] == float("inf")
    assert found["eval_loss"] == pytest.approx(found["eval_logits"])
