"""Curves of over-fitting and forgetting over a run, the best steps, and a stop by them; the KL to the start as an objective."""

import copy
import json

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from transformers import EarlyStoppingCallback

from distill import BlackBoxTrainer, WhiteBoxTrainer
from distill.evaluation import HeldOut, OverfittingCurve, best_steps, overfitting_table
from distill.evaluation.forgetting import Before, ForgettingCurve
from distill.objectives.keeping import kept_near
from distill.pairs.replay import replayed


def trainer_of(arguments, callbacks, train, held_out, kind=BlackBoxTrainer, **changes):
    settings = {"max_steps": -1, "num_train_epochs": 6, "learning_rate": 3e-2, "eval_strategy": "epoch", "save_strategy": "no"}  # fmt: skip
    more = changes.pop("more", {})
    return kind(
        model=build_model(seed=1), args=arguments(**{**settings, **changes}), train_dataset=train, eval_dataset=held_out,
        processing_class=build_tokenizer(), callbacks=callbacks, **more,
    )  # fmt: skip


def test_what_is_learned_by_heart_shows_as_a_gap(arguments):
    """Random tokens: nothing can be learned but by heart. The figures are those of `HeldOut` on either side."""
    pairs = build_pairs(14)
    train, held_out, teacher = pairs.select(range(6)), pairs.select(range(6, 14)), build_model()
    curve = OverfittingCurve(train, held_out, build_tokenizer(), teacher=teacher, accuracy=lambda model: 0.5)
    trainer = trainer_of(arguments, [curve], train, held_out)
    trainer.train()
    points = [entry for entry in trainer.state.log_history if "overfitting" in entry]
    assert [entry["epoch"] for entry in points] == [1, 2, 3, 4, 5, 6]
    gaps = [entry["overfitting"]["gap"]["loss"] for entry in points]
    assert gaps[-1] > gaps[0] + 1
    last = points[-1]["overfitting"]
    for side, rows in (("trained", train), ("held_out", held_out)):
        found = HeldOut(teacher, rows, build_tokenizer()).measure(trainer.model)
        assert (last[side]["loss"], last[side]["kl"]) == (found.loss, found.kl)
    assert best_steps(trainer.state.log_history)["accuracy"] == points[0]["step"]
    table = overfitting_table(trainer.state.log_history)
    assert table.count("*") == 3
    assert len(table.splitlines()) == 8
    json.dumps(trainer.state.log_history)


def test_the_best_step_by_one_figure_need_not_be_that_by_another():
    told = [(10, 2.0, 0.1), (20, 1.5, 0.3), (30, 1.7, 0.6), (40, 1.5, 0.6)]
    history = [{"step": s, "epoch": s / 10, "overfitting": {"held_out": {"kl": kl, "accuracy": a}}} for s, kl, a in told]  # fmt: skip
    assert best_steps([{"loss": 1.0}, *history]) == {"kl": 20, "accuracy": 30}
    assert best_steps([]) == {}
    broken = {"step": 5, "epoch": 0.5, "overfitting": {"held_out": {"kl": float("nan"), "accuracy": float("nan")}}}
    assert best_steps([broken, *history]) == {"kl": 20, "accuracy": 30}
    with pytest.raises(ValueError, match="no points"):
        overfitting_table([])


@pytest.mark.parametrize(("by", "larger"), [("held_out_kl", False), ("held_out_accuracy", True)])
def test_trainers_own_switches_stop_by_it_and_keep_the_best(arguments, by, larger):
    """The KL to another random model gets worse from some step on; an accuracy that is given has its peak at the second evaluation."""
    pairs, told = build_pairs(14), iter([0.1, 0.9, 0.2, 0.1, 0.1, 0.1, 0.1])
    train, held_out = pairs.select(range(6)), pairs.select(range(6, 14))
    curve = OverfittingCurve(
        train, held_out, build_tokenizer(), teacher=build_model(), accuracy=lambda model: next(told)
    )
    trainer = trainer_of(
        arguments, [curve, EarlyStoppingCallback(1)], train, held_out, save_strategy="epoch", load_best_model_at_end=True,
        metric_for_best_model=f"eval_{by}", greater_is_better=larger,
    )  # fmt: skip
    trainer.train()
    name, points = by.removeprefix("held_out_"), [e for e in trainer.state.log_history if "overfitting" in e]
    best = best_steps(trainer.state.log_history)[name]
    values = {entry["step"]: entry["overfitting"]["held_out"][name] for entry in points}
    assert trainer.state.best_metric == values[best]
    assert trainer.state.global_step < 18, "it went on to the end"
    if name == "kl":
        assert HeldOut(build_model(), held_out, build_tokenizer()).measure(trainer.model).kl == pytest.approx(values[best], rel=1e-5)  # fmt: skip


def test_a_prompt_on_both_sides_is_refused():
    pairs = build_pairs(6)
    with pytest.raises(ValueError, match="2 of 3 held-out pairs"):
        OverfittingCurve(pairs.select(range(4)), pairs.select([2, 3, 5]), build_tokenizer())
    with pytest.raises(ValueError, match="0 trained"):
        OverfittingCurve(pairs.select([]), pairs, build_tokenizer())


def test_the_curve_of_forgetting_begins_at_nothing_and_ends_at_the_student(arguments):
    pairs, start = build_pairs(14), build_model(seed=1)
    before = Before(start, pairs.select(range(6, 10)), pairs.select(range(10, 14)), build_tokenizer(), draws=50, max_new_tokens=4)  # fmt: skip
    trainer = trainer_of(
        arguments, [ForgettingCurve(before, points=2)], pairs.select(range(6)), None, eval_strategy="no"
    )
    trainer.train()
    points = [entry for entry in trainer.state.log_history if "forgetting" in entry]
    assert [entry["step"] for entry in points] == [0, 9, 18]
    kls = [entry["forgetting"]["measures"]["kl_old"]["after"] for entry in points]
    assert kls[0] == 0 < kls[1] < kls[2]
    assert kls[2] == before.measure(trainer.model)["kl_old"].after


def test_the_kl_to_the_start_has_no_gradient_at_the_start(arguments):
    """There it is cross-entropy alone; a step later it is not."""
    pairs = build_pairs(6)
    start = build_model(seed=1)
    white = trainer_of(
        arguments, [], pairs, None, WhiteBoxTrainer, eval_strategy="no", more={"teacher": copy.deepcopy(start), "objectives": [kept_near(0.5)]},
    )  # fmt: skip
    black = trainer_of(arguments, [], pairs, None, eval_strategy="no")
    gradients = []
    for trainer in (white, black):
        batch = trainer.data_collator(list(pairs))
        trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(sum(map(len, pairs["completion_ids"])))).backward()  # fmt: skip
        gradients.append([parameter.grad.clone() for parameter in trainer.model.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    white.train()
    black.train()
    kl = [HeldOut(start, pairs, build_tokenizer()).measure(trainer.model, torch.float32).kl for trainer in (white, black)]  # fmt: skip
    assert kl[0] < 0.8 * kl[1]
    with pytest.raises(ValueError, match="keep_kl is 0"):
        kept_near(0)


def test_replay_share_0_is_the_training_without_it_to_the_bit(arguments):
    pairs, own, ends = build_pairs(6), build_pairs(4, seed=5), []
    for rows in (pairs, replayed(pairs, own, 0.0), replayed(pairs, own, 0.25)):
        trainer = trainer_of(arguments, [], rows, None, eval_strategy="no", num_train_epochs=1)
        trainer.train()
        ends.append([parameter.detach().clone() for parameter in trainer.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(ends[0], ends[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(ends[0], ends[2], strict=True))
