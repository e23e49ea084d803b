"""WhiteBoxTrainer: the right gradient for any split, terms logged by themselves, resumed runs equal to unbroken ones."""

import copy

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback

from distill import AttentionMaps, HiddenStates, Logits, Schedule, WhiteBoxTrainer, make_student
from distill.collate import PairCollator, supervised_rows
from distill.divergences import forward_kl
from distill.taps import Wants
from distill.teachers import LocalTeacher
from distill.trainers.white_box import OBJECTIVES_FILE

OBJECTIVES = {
    "logits": lambda: [Logits()],
    "logits_t": lambda: [Logits("generalized_jsd", temperature=2.0, weight=0.7)],
    "logits_and_labels": lambda: [Logits("skew_reverse_kl", cross_entropy=0.5)],
    "hidden": lambda: [HiddenStates()],
    "cka": lambda: [HiddenStates(distance="cka")],
    "attention": lambda: [AttentionMaps()],
    "relations": lambda: [AttentionMaps(relations=("query", "key", "value"))],
    "all": lambda: [Logits(), HiddenStates(distance="cosine", weight=0.3), AttentionMaps(weight=0.2)],
}


def trainer(arguments, objectives, student=None, teacher=None, pairs=None, collator=None, **changes):
    return WhiteBoxTrainer(
        model=student or build_model(seed=7),
        teacher=teacher or build_model(seed=1),
        objectives=objectives,
        args=arguments(**changes),
        train_dataset=pairs or build_pairs(8),
        processing_class=build_tokenizer(),
        data_collator=collator,
    )


def gradient_of_one_step(arguments, objectives, collator=None, **split):
    """SGD with rate 1: the change of the parameters is the gradient itself, at its true scale."""
    run = trainer(
        arguments, objectives, max_steps=1, learning_rate=1.0, optim="sgd", lr_scheduler_type="constant", max_grad_norm=0.0,
        collator=collator, **split,
    )  # fmt: skip
    before = copy.deepcopy(run.model.state_dict())
    run.train()
    return {name: before[name] - tensor for name, tensor in run.model.state_dict().items()}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_any_split_gives_the_same_gradient(arguments, name):
    """One batch of 8 unequal rows as 1x8, 2x4, 4x2, 8x1; and with left padding."""
    whole = gradient_of_one_step(arguments, OBJECTIVES[name](), per_device_train_batch_size=8)
    assert max(g.abs().max() for g in whole.values()) > 1e-3
    left = PairCollator(build_tokenizer(), padding_side="left")
    others = [
        gradient_of_one_step(
            arguments, OBJECTIVES[name](), per_device_train_batch_size=8 // k, gradient_accumulation_steps=k
        )
        for k in (2, 4, 8)
    ] + [gradient_of_one_step(arguments, OBJECTIVES[name](), collator=left, per_device_train_batch_size=8)]
    for other in others:
        for key, gradient in whole.items():
            torch.testing.assert_close(other[key], gradient, rtol=1e-3, atol=2e-5, msg=f"{name} {key}")


@pytest.mark.parametrize("name", ["all", "attention"])
def test_gradient_checkpointing_gives_the_same_gradient(arguments, name):
    plain = gradient_of_one_step(arguments, OBJECTIVES[name](), per_device_train_batch_size=8)
    checkpointed = gradient_of_one_step(
        arguments, OBJECTIVES[name](), per_device_train_batch_size=8, gradient_checkpointing=True
    )
    for key, gradient in plain.items():
        torch.testing.assert_close(checkpointed[key], gradient, rtol=1e-4, atol=1e-6, msg=key)


def test_the_gradient_is_that_of_the_definition(arguments):
    """Full [B, T, V] logits, shifted by hand, summed over completion tokens, divided by their number."""
    student, teacher, pairs = build_model(seed=7), build_model(seed=1), build_pairs(8)
    batch = PairCollator(build_tokenizer())(list(pairs))
    rows = torch.zeros_like(batch["labels"], dtype=torch.bool)
    for i, pair in enumerate(pairs):
        first = len(pair["prompt_ids"]) - 1
        rows[i, first : first + len(pair["completion_ids"])] = True
    assert torch.equal(rows, supervised_rows(batch["labels"]))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    divergence = forward_kl(student(**inputs).logits, teacher(**inputs).logits.detach())
    (divergence[rows].sum() / rows.sum()).backward()
    ours = gradient_of_one_step(arguments, [Logits()], per_device_train_batch_size=8)
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_with_a_certain_teacher_white_box_is_black_box(arguments):
    """Hard-label limit: a teacher that gives all probability to the label turns forward KL into cross-entropy."""
    from distill import BlackBoxTrainer

    pairs, student = build_pairs(8), build_model(seed=7)

    class Certain(Logits):
        def forward(self, student, teacher):
            one_hot = torch.full_like(student.logits, float("-inf")).scatter(1, student.labels[:, None], 0.0)
            return self.divergence(student.logits, one_hot)

        def student_wants(self):
            return Wants(logits=True)

    objective = Certain()
    settings = {"max_steps": 3, "per_device_train_batch_size": 8, "optim": "sgd", "learning_rate": 0.1}
    white = trainer(arguments, [objective], student=copy.deepcopy(student), pairs=pairs, **settings)
    black = BlackBoxTrainer(
        model=copy.deepcopy(student),
        args=arguments(**settings),
        train_dataset=pairs,
        processing_class=build_tokenizer(),
    )
    white.train()
    black.train()
    for a, b in zip(white.model.parameters(), black.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


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
    start = [p.clone() for p in unbroken.objectives[1].parameters()]
    unbroken.train()
    first.train()
    second.train(resume_from_checkpoint=True)
    pairs = [
        *zip(unbroken.model.parameters(), second.model.parameters(), strict=True),
        *zip(unbroken.objectives[1].parameters(), second.objectives[1].parameters(), strict=True),
    ]
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not any(torch.equal(a, b) for a, b in zip(start, unbroken.objectives[1].parameters(), strict=True))
    checkpoint = tmp_path / "b" / "checkpoint-3"
    assert load_file(checkpoint / OBJECTIVES_FILE).keys() == unbroken._learned.state_dict().keys()
    assert not any("project" in name for name in load_file(checkpoint / "model.safetensors"))
    AutoModelForCausalLM.from_pretrained(checkpoint)
    (checkpoint / OBJECTIVES_FILE).unlink()
    with pytest.raises(ValueError, match="saved with other objectives"):
        build("b").train(resume_from_checkpoint=str(checkpoint))


def test_autocast_trains_float32_weights(arguments):
    run = trainer(arguments, OBJECTIVES["all"](), bf16=True, max_steps=2)
    run.train()
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert all(torch.isfinite(torch.tensor(e["loss"])) for e in run.state.log_history if "loss" in e)


def test_objectives_are_computed_in_float32_whatever_the_student_runs_in(arguments):
    """Under bf16=True the scores of the maps must not be rounded, and a float32 teacher stays one."""
    seen = {}

    class Watch(AttentionMaps):
        def teacher_wants(self):
            return super().teacher_wants() | Wants(hidden=frozenset({0}))

        def forward(self, student, teacher):
            q, k = student.attention[0].query.float(), student.attention[0].key.float()
            seen["scores"] = (q @ k.repeat_interleave(2, dim=1).transpose(2, 3)).dtype
            seen["teacher"] = teacher.hidden[0].dtype
            return super().forward(student, teacher)

    run = trainer(arguments, [Watch()])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run.compute_loss(run.model, run.data_collator(list(build_pairs(2))))
    assert seen == {"scores": torch.float32, "teacher": torch.float32}


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
        ({"objectives": [Logits(), Logits("reverse_kl")]}, "each kind at most once"),
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


@pytest.mark.parametrize("find_unused", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["logits", "hidden", "attention", "all"])
def test_the_wrapper_around_the_student_is_called(arguments, name, tied, find_unused):
    """Bug 10: gradients of several processes only meet in the wrapper's own forward; taps must go through it.

    Two steps, with both settings of find_unused_parameters that Trainer may choose: DDP must see every parameter used.
    """
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        run = trainer(arguments, OBJECTIVES[name](), student=build_model(seed=7, tie_word_embeddings=tied))
        wrapped, calls = DistributedDataParallel(run.model, find_unused_parameters=find_unused), []
        wrapped.register_forward_hook(lambda *_: calls.append(1))
        batch = run.data_collator(list(build_pairs(3)))
        for _ in range(2):
            run.model.zero_grad()
            run.compute_loss(wrapped, batch).backward()
        seen = {key: p.grad.clone() for key, p in run.model.named_parameters() if p.grad is not None}
        run.model.zero_grad()
        run.compute_loss(run.model, batch).backward()
    finally:
        distributed.destroy_process_group()
    assert calls == [1, 1]
    for key, parameter in run.model.named_parameters():
        alone = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(seen.get(key, torch.zeros_like(parameter)), alone, msg=key)


def test_autocast_streams_what_the_models_own_logits_give(arguments):
    """Under bf16=True the head computes in bfloat16 either way."""
    gradients = []
    for streams in (True, False):
        run = trainer(arguments, [Logits()], bf16=True)
        if not streams:
            run._student_wants = run._teacher_wants = Wants(logits=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            run.compute_loss(run.model, run.data_collator(list(build_pairs(6)))).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in run.model.parameters()]))
    assert (gradients[0] - gradients[1]).norm() < 2e-2 * gradients[1].norm()


def test_without_any_weight_there_is_still_a_step(arguments):
    run = trainer(arguments, [Logits(weight=Schedule(1.0, 0.0, steps=1)), AttentionMaps(weight=0)], max_steps=2)
    run.train()
    last = [entry for entry in run.state.log_history if "loss" in entry][-1]
    assert last["loss"] == 0
    assert last["logits"] > 0
    assert last["attention"] > 0
