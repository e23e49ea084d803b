"""WhiteBoxTrainer gives the right gradient: for any split, under checkpointing, autocast and a wrapper."""

import copy

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from white_box_runs import OBJECTIVES, gradient_of_one_step, trainer

from distill import AttentionMaps, HiddenStates, Logits
from distill.objectives.attention import AttentionMapsTerm
from distill.objectives.divergences import forward_kl
from distill.objectives.logits import LogitsTerm
from distill.pairs.collate import PairCollator, supervised_rows
from distill.planning.live_tensors import LiveBytes
from distill.signals import SignalRequest


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
        def bind(self, student, teacher, **how):
            return CertainTerm(self)

    class CertainTerm(LogitsTerm):
        def forward(self, student, teacher):
            one_hot = torch.full_like(student.logits, float("-inf")).scatter(1, student.labels[:, None], 0.0)
            return self.divergence(student.logits, one_hot)

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


@pytest.mark.parametrize("find_unused", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["logits", "hidden", "attention", "all", "logits looked at"])
def test_the_wrapper_around_the_student_is_called(arguments, name, tied, find_unused):
    """Bug 10: gradients of several processes only meet in the wrapper's own forward; taps must go through it.

    Two steps, with both settings of find_unused_parameters that Trainer may choose: DDP must see every parameter used.
    """
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        looked_at = [Logits(weight=0.0), HiddenStates()]  # the head is in the graph, and nothing gives it a gradient
        objectives = looked_at if name == "logits looked at" else OBJECTIVES[name]()
        run = trainer(arguments, objectives, student=build_model(seed=7, tie_word_embeddings=tied))
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


class Around(torch.nn.Module):
    """Any wrapper."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, **inputs):
        return self.model(**inputs)


def test_a_wrapper_costs_no_second_gradient_as_large_as_the_head(arguments):
    """2.5 GB for a head of 151,936 x 4,096 in float32; counted here in bytes."""
    head, most = 4000 * 32 * 4, []
    for wrap in (False, True):
        model = build_model(seed=7, vocab_size=4000)
        run = trainer(arguments, [Logits()], student=model, teacher=build_model(seed=1, vocab_size=4000))
        batch = run.data_collator(list(build_pairs(3)))
        live = LiveBytes(model, 0)
        with live:
            loss = run.compute_loss(Around(model) if wrap else model, batch)
            with live.moment("backward", "gradients"):
                loss.backward()
        most.append(sum(live.highest["backward"].values()))
        assert most[-1] > head
    assert most[1] < most[0] + head / 10


def test_autocast_trains_float32_weights(arguments):
    run = trainer(arguments, OBJECTIVES["all"](), bf16=True, max_steps=2)
    run.train()
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert all(torch.isfinite(torch.tensor(e["loss"])) for e in run.state.log_history if "loss" in e)


def test_autocast_streams_what_the_models_own_logits_give(arguments):
    """Under bf16=True the head computes in bfloat16 either way."""
    gradients = []
    for streams in (True, False):
        run = trainer(arguments, [Logits()], bf16=True)
        if not streams:
            run.terms[0].student_request = run.terms[0].teacher_request = SignalRequest(logits=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            run.compute_loss(run.model, run.data_collator(list(build_pairs(6)))).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in run.model.parameters()]))
    assert (gradients[0] - gradients[1]).norm() < 2e-2 * gradients[1].norm()


def test_objectives_are_computed_in_float32_whatever_the_student_runs_in(arguments):
    """Under bf16=True the scores of the maps must not be rounded, and a float32 teacher stays one."""
    seen = {}

    class Watch(AttentionMaps):
        def bind(self, student, teacher, **how):
            return WatchTerm(self, super().bind(student, teacher).pairs)

    class WatchTerm(AttentionMapsTerm):
        def __init__(self, objective, pairs):
            super().__init__(objective, pairs)
            self.teacher_request |= SignalRequest(hidden=frozenset({0}))

        def forward(self, student, teacher):
            q, k = student.attention[0].query.float(), student.attention[0].key.float()
            seen["scores"] = (q @ k.repeat_interleave(2, dim=1).transpose(2, 3)).dtype
            seen["teacher"] = teacher.hidden[0].dtype
            return super().forward(student, teacher)

    run = trainer(arguments, [Watch()])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run.compute_loss(run.model, run.data_collator(list(build_pairs(2))))
    assert seen == {"scores": torch.float32, "teacher": torch.float32}
