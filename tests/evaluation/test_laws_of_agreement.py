"""Laws of held-out figures: dropout decides none of them, their error shrinks as it should, the last point is the end."""

import itertools

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer

from distill import BlackBoxTrainer
from distill.evaluation import AgreementCurve, HeldOut
from distill.pairs.schema import pairs_from_rows

FP32 = torch.float32


def test_a_model_in_training_mode_has_the_figures_of_evaluation_mode_and_stays_in_it():
    """Teacher and student."""
    pairs, tokenizer = build_pairs(4), build_tokenizer()
    build = lambda seed, training: build_model(seed=seed, attention_dropout=0.5).train(training)  # noqa: E731
    figures = set()
    for teaching, learning in itertools.product([False, True], repeat=2):
        teacher, student = build(1, teaching), build(2, learning)
        figures.add(HeldOut(teacher, pairs, tokenizer).measure(student, FP32))
        assert (teacher.training, student.training) == (teaching, learning)
    assert len(figures) == 1


def test_the_teacher_speaks_behind_what_it_was_shown():
    """Held-out pairs with a teacher's prompt: its logits are those behind that prompt, the student's behind its own."""
    rows, tokenizer = build_pairs(6).to_list(), build_tokenizer()
    same = [{**row, "teacher_prompt": row["prompt"], "teacher_prompt_ids": row["prompt_ids"]} for row in rows]
    more = [{**row, "teacher_prompt": "more", "teacher_prompt_ids": [7, 8, 9, *row["prompt_ids"]]} for row in rows]
    teacher, student = build_model(seed=1), build_model(seed=2)
    bare, equal, other = (HeldOut(teacher, pairs_from_rows(r, where="test"), tokenizer) for r in (rows, same, more))
    assert equal.measure(student, FP32) == bare.measure(student, FP32)
    found = other.measure(student, FP32)
    kl = 0.0
    for row in more:
        logits = []
        for model, prompt in ((student, row["prompt_ids"]), (teacher, row["teacher_prompt_ids"])):
            with torch.no_grad():
                all_of_it = model(torch.tensor([prompt + row["completion_ids"]])).logits[0]
            logits.append(all_of_it[len(prompt) - 1 : -1].log_softmax(-1))
        kl += float((logits[1].exp() * (logits[1] - logits[0])).sum())
    assert found.kl == pytest.approx(kl / found.tokens, rel=1e-4)
    assert found.loss == pytest.approx(bare.measure(student, FP32).loss, rel=1e-5), (
        "the student sees no more than before"
    )
    assert other.measure(teacher, FP32).kl > 0.01, "not told so, the teacher itself is another"


def test_what_the_teacher_is_shown_fits_its_positions():
    """As in a training; the student's row may be short. No position is read beyond those that were trained."""
    rows, tokenizer = build_pairs(3).to_list(), build_tokenizer()
    rows[1] |= {"teacher_prompt": "more", "teacher_prompt_ids": [7] * 40}
    pairs = pairs_from_rows(rows, where="test")
    HeldOut(build_model(max_position_embeddings=80), pairs, tokenizer)
    with pytest.raises(ValueError, match="row1.*teacher"):
        HeldOut(build_model(max_position_embeddings=40), pairs, tokenizer)


def test_the_error_of_four_times_as_many_pairs_is_half_as_large():
    """The same pairs again: the mean stays, and its error goes with one over the root of their number."""
    rows = build_pairs(12).to_list()
    errors = {}
    for times in (1, 4):
        again = [{**row, "id": f"{row['id']}.{i}"} for i in range(times) for row in rows]
        held_out = HeldOut(build_model(), pairs_from_rows(again, where="test"), build_tokenizer())
        found = held_out.measure(build_model(seed=1), FP32)
        errors[times] = found.kl, found.kl_error
    assert errors[4][0] == pytest.approx(errors[1][0], rel=1e-4)
    assert errors[4][1] == pytest.approx(errors[1][1] / 2 * (11 / 12 * 48 / 47) ** 0.5, rel=1e-3)


@pytest.mark.parametrize(("steps", "points"), [(4, 1), (4, 2), (5, 3)])
def test_a_curve_has_its_points_after_the_start_and_the_last_at_the_end(arguments, steps, points):
    held_out = HeldOut(build_model(), build_pairs(2, seed=9), build_tokenizer())
    run = BlackBoxTrainer(
        model=build_model(seed=1),
        args=arguments(max_steps=steps),
        train_dataset=build_pairs(8),
        processing_class=build_tokenizer(),
        callbacks=[AgreementCurve(held_out, points=points)],
    )
    run.train()
    measured = [entry["step"] for entry in run.state.log_history if "held_out" in entry]
    assert len(measured) == points + 1
    assert (measured[0], measured[-1]) == (0, steps)
