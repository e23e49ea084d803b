"""WhiteBoxTrainer: terms logged by themselves, schedules, resumed runs equal to unbroken ones, refusals."""

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback
from white_box_runs import OBJECTIVES, trainer

from distill import AttentionMaps, HiddenStates, Logits, Schedule, make_student
from distill.teachers import LocalTeacher
from distill.trainers.projections import OBJECTIVES_FILE


def test_a_student_that_is_the_teacher_stays_put(arguments):
    teacher = build_model()
    run = trainer(
        arguments, OBJECTIVES["all"](), student=make_student(teacher, 2), teacher=teacher, optim="sgd", max_steps=3
    )
    run.train()
    assert abs(run.state.log_history[-2]["loss"]) < 1e-6
    for a, b in zip(run.model.parameters(), teacher.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_every_term_is_logged_and_falls(arguments):
    teacher = build_model(layers=4, seed=1)
    run = trainer(
        arguments, OBJECTIVES["all"](), student=make_student(teacher, 2), teacher=teacher, max_steps=40,
        per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=5e-3,
    )  # fmt: skip
    run.train()
    logs = [entry for entry in run.state.log_history if "loss" in entry]
    for entry in logs:
        total = entry["logits"] + 0.3 * entry["hidden"] + 0.2 * entry["attention"]
        assert entry["loss"] == pytest.approx(total, rel=1e-4)
    for name in ("logits", "hidden", "attention"):
        assert logs[-1][name] < 0.8 * logs[0][name], name


def test_logged_terms_are_means_over_steps(arguments):
    every, each_second = (trainer(arguments, [Logits()], logging_steps=k, max_steps=4) for k in (1, 2))
    for run in (every, each_second):
        run.train()
    ones, twos = ([e["logits"] for e in run.state.log_history if "loss" in e] for run in (every, each_second))
    assert twos == pytest.approx([(ones[0] + ones[1]) / 2, (ones[2] + ones[3]) / 2])


def test_weights_may_be_schedules(arguments):
    """The loss is made of the weights of its step, and the log shows them."""
    objectives = [Logits(weight=Schedule(1.0, 0.0, steps=2)), HiddenStates(weight=Schedule(0.0, 0.4, shape="cosine"))]
    run = trainer(arguments, objectives, max_steps=4, gradient_accumulation_steps=2)
    run.train()
    logs = [entry for entry in run.state.log_history if "loss" in entry]
    assert [entry["logits_weight"] for entry in logs] == [1, 0.5, 0, 0]
    assert [entry["hidden_weight"] for entry in logs] == pytest.approx([0, 0.0585786, 0.2, 0.3414214])
    for entry in logs:
        total = entry["logits_weight"] * entry["logits"] + entry["hidden_weight"] * entry["hidden"]
        assert entry["loss"] == pytest.approx(total, rel=1e-4)


def test_what_an_objective_shows_beside_its_term_is_logged(arguments):
    run = trainer(arguments, [Logits(cross_entropy=0.5)], max_steps=2)
    run.train()
    logs = [entry for entry in run.state.log_history if "loss" in entry]
    for entry in logs:
        assert entry["logits"] == pytest.approx(entry["divergence"] + 0.5 * entry["cross_entropy"], rel=1e-5)
    found = run.evaluate(build_pairs(9))
    assert found["eval_logits"] == pytest.approx(found["eval_divergence"] + 0.5 * found["eval_cross_entropy"], rel=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_batch_without_supervised_positions_is_a_zero(arguments, name):
    """With a valid backward."""
    run = trainer(arguments, OBJECTIVES[name]())
    empty = run.data_collator(list(build_pairs(2)))
    empty["labels"][:] = -100
    loss = run.compute_loss(run.model, empty, num_items_in_batch=torch.tensor(0))
    assert float(loss.detach()) == 0
    loss.backward()
    assert not any(p.grad.any() for p in run.model.parameters() if p.grad is not None)


def test_evaluation_is_a_mean_over_tokens(arguments):
    """Whatever the batch size; Trainer's own eval_loss averages the means of batches."""
    student, teacher, pairs = build_model(seed=7), build_model(seed=1), build_pairs(9)
    values = []
    for size in (1, 4, 9):
        run = trainer(arguments, OBJECTIVES["all"](), student=student, teacher=teacher, per_device_eval_batch_size=size)
        values.append(run.evaluate(pairs))
    for name in ("eval_loss", "eval_logits", "eval_hidden", "eval_attention"):
        assert values[0][name] == pytest.approx(values[1][name], rel=1e-4) == pytest.approx(values[2][name], rel=1e-4)


class Halt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


def test_a_resumed_run_equals_an_unbroken_one(arguments, tmp_path):
    """With a learned projection, whose weights and optimiser state come back too."""
    teacher = build_model(layers=3, seed=1)

    def build(folder, halt=None):
        run = trainer(
            arguments, [Logits(weight=Schedule(1.0, 0.2)), HiddenStates(weight=0.5)], student=build_model(hidden_size=16, num_attention_heads=2, seed=7),
            teacher=teacher, pairs=build_pairs(14), max_steps=6, gradient_accumulation_steps=2,
            output_dir=str(tmp_path / folder), lr_scheduler_type="cosine", warmup_steps=2,
        )  # fmt: skip
        if halt:
            run.add_callback(Halt(halt))
        return run

    unbroken, first, second = build("a"), build("b", halt=3), build("b")
    start = [p.clone() for p in unbroken.terms.parameters()]
    unbroken.train()
    first.train()
    second.train(resume_from_checkpoint=True)
    pairs = [
        *zip(unbroken.model.parameters(), second.model.parameters(), strict=True),
        *zip(unbroken.terms.parameters(), second.terms.parameters(), strict=True),
    ]
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not any(torch.equal(a, b) for a, b in zip(start, unbroken.terms.parameters(), strict=True))
    checkpoint = tmp_path / "b" / "checkpoint-3"
    assert load_file(checkpoint / OBJECTIVES_FILE).keys() == unbroken.terms.state_dict().keys()
    assert not any("project" in name for name in load_file(checkpoint / "model.safetensors"))
    AutoModelForCausalLM.from_pretrained(checkpoint)
    (checkpoint / OBJECTIVES_FILE).unlink()
    with pytest.raises(ValueError, match="objectives.safetensors is missing"):
        build("b").train(resume_from_checkpoint=str(checkpoint))


def test_a_loss_that_is_not_finite_stops_the_run(arguments):
    teacher = build_model(seed=1)
    teacher.lm_head.weight.data[0, 0] = float("nan")
    with pytest.raises(
        FloatingPointError, match="at step 0 is not finite: logits of 'row2', 'row4' .sums of this batch: logits nan"
    ):
        trainer(arguments, [Logits()], teacher=teacher).train()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objectives": []}, "give at least one"),
        ({"objectives": [Logits(), Logits("reverse_kl")]}, "a name= of its own to each"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
    ],
)
def test_bad_calls(arguments, change, words):
    objectives = change.pop("objectives", [Logits()])
    with pytest.raises(ValueError, match=words):
        trainer(arguments, objectives, **change)


def test_student_and_teacher_must_be_two(arguments):
    model = build_model()
    with pytest.raises(ValueError, match="the same object"):
        trainer(arguments, [Logits()], student=model, teacher=model)


def test_a_teacher_of_other_tokens_is_refused(arguments):
    other = build_tokenizer()
    other.add_tokens(["<think>"])
    with pytest.raises(ValueError, match="different vocabularies: 1 tokens differ"):
        trainer(arguments, [Logits()], teacher=LocalTeacher(build_model(seed=1), other))


def test_the_warning_about_nothing_to_learn_comes_once(arguments, monkeypatch):
    from distill.trainers import white_box

    said = []
    monkeypatch.setattr(white_box.logger, "warning_once", lambda text: said.append(text))
    run = trainer(arguments, [Logits()])
    empty = run.data_collator(list(build_pairs(2)))
    empty["labels"][:] = -100
    run.compute_loss(run.model, empty)
    assert said == ["A batch has no supervised position: it adds nothing. Is max_length shorter than prompts?"]


def test_reentrant_checkpointing_is_refused_for_attention(arguments):
    """Its layers give no gradient to what is tapped inside them: the objective would silently teach nothing."""
    run = trainer(
        arguments, [AttentionMaps()], gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": True},
    )  # fmt: skip
    with pytest.raises(ValueError, match="No gradient reaches the student's attention"):
        run.train()


def test_without_any_weight_there_is_still_a_step(arguments):
    run = trainer(arguments, [Logits(weight=Schedule(1.0, 0.0, steps=1)), AttentionMaps(weight=0)], max_steps=2)
    run.train()
    last = [entry for entry in run.state.log_history if "loss" in entry][-1]
    assert last["loss"] == 0
    assert last["logits"] > 0
    assert last["attention"] > 0
