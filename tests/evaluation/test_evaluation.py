"""Held-out figures: zero for the teacher itself, means over tokens, and the same as by definition."""

import copy

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer

from distill import BlackBoxTrainer
from distill.basics.progress import Stages
from distill.evaluation import AgreementCurve, HeldOut

FP32 = torch.float32


def test_the_teacher_agrees_with_itself():
    teacher = build_model()
    figures = HeldOut(teacher, build_pairs(), build_tokenizer(), batch_size=4).measure(copy.deepcopy(teacher), FP32)
    assert figures.kl == pytest.approx(0, abs=1e-7)
    assert figures.top1 == 1
    assert figures.loss == figures.teacher_loss


def test_figures_are_those_of_the_definition_whatever_the_batch():
    teacher, student, pairs = build_model(), build_model(seed=1), build_pairs()
    kls, losses, same = [], [], []
    for pair in pairs:
        ids = torch.tensor([pair["prompt_ids"] + pair["completion_ids"]])
        first = len(pair["prompt_ids"])
        with torch.no_grad():
            q, p = (m(ids).logits[0, first - 1 : -1].log_softmax(-1) for m in (student, teacher))
        kls.append((p.exp() * (p - q)).sum(-1))
        losses.append(-q.gather(1, ids[0, first:, None])[:, 0])
        same.append((q.argmax(-1) == p.argmax(-1)).float())
    for size in (1, 5, 12):
        figures = HeldOut(teacher, pairs, build_tokenizer(), batch_size=size).measure(student, FP32)
        assert figures.kl == pytest.approx(torch.cat(kls).mean().item(), rel=1e-5)
        assert figures.loss == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
        assert figures.top1 == pytest.approx(torch.cat(same).mean().item(), rel=1e-6)
        assert figures.tokens == sum(map(len, pairs["completion_ids"]))
        assert 0 < figures.kl_error < figures.kl


def test_too_many_held_out_pairs_are_refused():
    teacher = build_model()
    teacher.lm_head = torch.nn.Linear(32, 50_000_000, bias=False, device="meta")
    with pytest.raises(ValueError, match="the limit is 4. Hold out fewer pairs"):
        HeldOut(teacher, build_pairs(), build_tokenizer())


def test_the_curve_is_in_the_log_history_and_survives_resuming(arguments, tmp_path):
    teacher, tokenizer, pairs = build_model(), build_tokenizer(), build_pairs(16)
    held_out = HeldOut(teacher, build_pairs(4, seed=9), tokenizer)

    def build(folder):
        return BlackBoxTrainer(
            model=build_model(seed=1),
            args=arguments(max_steps=6, output_dir=str(tmp_path / folder), save_strategy="steps", save_steps=3),
            train_dataset=pairs,
            processing_class=tokenizer,
            callbacks=[AgreementCurve(held_out, points=3)],
        )

    def points(trainer):
        return [(e["step"], e["held_out"]["kl"]) for e in trainer.state.log_history if "held_out" in e]

    whole, resumed = build("a"), build("b")
    whole.train()
    build("b").train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-3"))
    assert [step for step, _ in points(whole)] == [0, 2, 4, 6]
    assert points(whole) == points(resumed)
    seconds = [e["seconds"] for e in resumed.state.log_history if "seconds" in e]
    assert seconds == sorted(seconds)
    assert seconds[-1] > 0


def test_time_left_follows_the_finished_stages(capsys):
    stages = Stages([("a", 1e-9), ("b", 2e-9), ("c", 3e-9)])
    with stages.stage("a"):
        sum(range(100_000))
    assert stages.left() == pytest.approx(5 * stages.finished[0].seconds, rel=1e-6)
    assert stages.finished[0].peak_memory_gib > 0.01
    assert "[1/3] a" in capsys.readouterr().out


def test_the_clock_of_a_curve_is_one_entry_however_long_the_run(arguments):
    """There was one a step, so each checkpoint's state was longer than the last."""
    from white_box_runs import black_box_trainer

    sizes = []
    for steps in (6, 18):
        run = black_box_trainer(arguments, max_steps=steps, logging_strategy="no")
        curve = AgreementCurve(HeldOut(build_model(seed=1), build_pairs(3), build_tokenizer()), points=2)
        run.add_callback(curve)
        run.train()
        history = run.state.log_history
        assert [entry["step"] for entry in history if "held_out" in entry] == [0, steps // 2, steps]
        clock = [entry for entry in history if entry.keys() == {"step", "seconds"}]
        assert [entry["step"] for entry in clock] == [steps - 1]
        sizes.append(len(history))
    assert sizes[0] == sizes[1]
