"""Self-distillation: the teacher is the student with its adapter off. As a second copy of the base would be, without one."""

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from white_box_runs import OBJECTIVES

from distill import WhiteBoxTrainer
from distill.adapters import lora_config
from distill.teachers import LocalTeacher
from distill.trainers.teacher_side import AdapterOff

peft = pytest.importorskip("peft", reason="the extra peft is not installed")


def build(arguments, objectives, *, student=None, teacher="self", config=None, **changes):
    """A trainer on an adapter that is filled: a fresh one would be its teacher."""
    student = student or build_model(seed=7)
    if not hasattr(student, "peft_config"):
        student = fill(peft.get_peft_model(student, config or lora_config(4)))
    return WhiteBoxTrainer(
        model=student, teacher=student if teacher == "student" else teacher, objectives=objectives,
        args=arguments(**changes), train_dataset=build_pairs(8), processing_class=build_tokenizer(),
    )  # fmt: skip


def fill(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.1)
            elif "modules_to_save" in name:
                p.add_(torch.randn(p.shape, generator=generator) * 0.02)
    return model


def loss_and_gradients(run, model=None):
    batch = run.data_collator(list(build_pairs(5)))
    run.model.train()
    run.model.zero_grad()
    torch.manual_seed(0)  # of dropout
    loss = run.compute_loss(model or run.model, batch)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in run.model.named_parameters() if p.requires_grad}


CONFIGS = {
    "lora": lambda: lora_config(4, dropout=0.3),
    "head": lambda: lora_config(4, targets="q_proj,lm_head"),
    "trained head": lambda: peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "trained embeddings": lambda: peft.LoraConfig(r=4, target_modules=["v_proj"], modules_to_save=["embed_tokens"]),
    "dora": lambda: peft.LoraConfig(r=4, target_modules="all-linear", use_dora=True),
}


EACH = [*((name, "lora") for name in OBJECTIVES), *(("all", kind) for kind in CONFIGS if kind != "lora")]


@pytest.mark.parametrize(("name", "kind"), EACH)
def test_it_is_the_training_with_a_copy_of_the_base(arguments, name, kind):
    """The same bits in the loss, its gradients and the adapter after three steps."""
    one = build(arguments, OBJECTIVES[name](), config=CONFIGS[kind](), max_steps=3)
    two = build(arguments, OBJECTIVES[name](), config=CONFIGS[kind](), max_steps=3, teacher=build_model(seed=7))
    (loss, gradients), (expected, wanted) = loss_and_gradients(one), loss_and_gradients(two)
    assert torch.equal(loss, expected)
    assert loss > 1e-4
    assert gradients.keys() == wanted.keys()
    assert any(g is not None and g.abs().max() > 1e-5 for g in gradients.values())
    for key, gradient in wanted.items():
        assert (gradient is None and gradients[key] is None) or torch.equal(gradients[key], gradient), key
    for run in (one, two):
        run.model.zero_grad()
        torch.manual_seed(1)
        run.train()
    for (key, a), b in zip(one.model.named_parameters(), two.model.parameters(), strict=True):
        assert torch.equal(a, b), key


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(("name", "kind"), [*EACH, *(("logits", kind) for kind in CONFIGS if kind != "lora")])
def test_a_fresh_adapter_is_at_exactly_nothing(arguments, name, kind, bf16):
    """B = 0: loss and gradients are 0, under autocast and with dropout too. (1 - cosine and 1 - CKA round.)"""
    config = CONFIGS[kind]()
    config.lora_dropout = 0.3
    objectives = OBJECTIVES[name]()
    for objective in objectives:
        objective.cross_entropy = 0.0
    run = build(arguments, objectives, student=peft.get_peft_model(build_model(seed=7), config), bf16=bf16)
    run.model = run.accelerator.prepare(run.model)  # Trainer's own way to autocast
    loss, gradients = loss_and_gradients(run)
    allowed = 1e-6 if name in ("cka", "all") else 0
    assert abs(loss) <= allowed
    assert all(g.abs().max() <= allowed for g in gradients.values() if g is not None)


def test_the_same_object_is_the_same_word(arguments):
    base = build_model(seed=7)
    teacher = LocalTeacher(base, build_tokenizer())
    ready = build(arguments, OBJECTIVES["all"](), teacher="student")
    expected = loss_and_gradients(build(arguments, OBJECTIVES["all"]()))[0]
    assert torch.equal(loss_and_gradients(ready)[0], expected)
    given = WhiteBoxTrainer(
        model=base, teacher=teacher, objectives=OBJECTIVES["all"](), args=arguments(), peft_config=lora_config(4),
        train_dataset=build_pairs(8), processing_class=build_tokenizer(),
    )  # fmt: skip
    fill(given.model)
    assert isinstance(given.teacher_side, AdapterOff)
    assert loss_and_gradients(given)[0] > 1e-2
