"""Self-distillation: the teacher is the student with its adapter off. As a second copy of the base would be, without one."""

import copy
import gc
import warnings
from dataclasses import replace

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from white_box_runs import OBJECTIVES, fill

from distill import Logits, WhiteBoxTrainer
from distill.models.adapters import adapter_off, base_of, lora_config
from distill.signals.sources import SelfTeacher
from distill.teachers import LocalTeacher

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
    objectives = [replace(o, cross_entropy=0.0) if isinstance(o, Logits) else o for o in OBJECTIVES[name]()]
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
    assert isinstance(given.source, SelfTeacher)
    assert loss_and_gradients(given)[0] > 1e-2


def test_there_is_no_second_copy(arguments):
    """Tensors counted by their storage: at rest, within the teacher's pass, and after a step."""

    def held():
        gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            storages = {t.untyped_storage() for t in gc.get_objects() if isinstance(t, torch.Tensor)}
        return {s.data_ptr(): s.nbytes() for s in storages}

    wide = {"hidden_size": 256, "intermediate_size": 1024}
    student = build_model(seed=7, **wide)
    size = sum(p.numel() * p.element_size() for p in student.parameters())
    before = held()
    run = WhiteBoxTrainer(
        model=student, teacher="self", objectives=OBJECTIVES["all"](), args=arguments(optim="sgd"), peft_config=lora_config(2),
        train_dataset=build_pairs(8), processing_class=build_tokenizer(),
    )  # fmt: skip
    adapter = sum(p.numel() * p.element_size() for p in run.model.parameters() if p.requires_grad)
    assert adapter < size / 20
    inside = []

    def look(*_):
        new = held()
        inside.append(sum(n for place, n in new.items() if place not in before))

    handle = base_of(run.model).model.layers[1].register_forward_hook(look)
    run.compute_loss(run.model, run.data_collator(list(build_pairs(2)))).backward()
    handle.remove()
    after = sum(n for place, n in held().items() if place not in before)
    assert len(inside) == 2, "one pass of the teacher, one of the student"
    assert max(inside) < size / 2, "activations of a few tokens and the adapter, no copy of the base"
    assert after < 4 * adapter
    own = WhiteBoxTrainer(
        model=run.model, teacher=build_model(seed=7, **wide), objectives=OBJECTIVES["all"](), args=arguments(),
        train_dataset=build_pairs(8), processing_class=build_tokenizer(),
    )  # fmt: skip
    assert sum(n for place, n in held().items() if place not in before) > size, "the count would have seen it"
    del own


@pytest.mark.filterwarnings("ignore:.*checkpoint")
def test_checkpointed_activations_change_nothing(arguments):
    (loss, plain), (other, checkpointed) = (
        loss_and_gradients(build(arguments, OBJECTIVES["all"](), activation_checkpointing=on)) for on in (False, True)
    )
    assert torch.equal(loss, other)
    for key, gradient in plain.items():
        torch.testing.assert_close(checkpointed[key], gradient, rtol=1e-4, atol=1e-6, msg=key)


def test_what_is_trained_and_in_training_stays_so(arguments):
    """peft would set every weight of the adapter to be trained; here its A is frozen in one layer (LoRA-FA)."""
    student = fill(peft.get_peft_model(build_model(seed=7), lora_config(4, dropout=0.5)))
    layer = base_of(student).model.layers[0]
    layer.self_attn.q_proj.lora_A["default"].weight.requires_grad_(False)
    run = build(arguments, [Logits()], student=student)
    run.model.train()
    layer.mlp.eval()  # somebody's choice
    trained = {name: p.requires_grad for name, p in run.model.named_parameters()}
    training = {name: module.training for name, module in run.model.named_modules()}
    assert set(training.values()) == {True, False}

    def break_off():
        with run.source.forward_pass() as forward:
            assert not any(module.training for module in forward.modules())
            assert not torch.is_grad_enabled()
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert {name: p.requires_grad for name, p in run.model.named_parameters()} == trained
    assert {name: module.training for name, module in run.model.named_modules()} == training


@pytest.mark.parametrize("find_unused", [True, False])
def test_the_wrapper_around_the_student_is_called_once(arguments, find_unused):
    """DDP sees the student's pass only, and every trained weight used."""
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        run = build(arguments, OBJECTIVES["all"]())
        expected, alone = loss_and_gradients(run)
        alone = {name: g.clone() for name, g in alone.items()}
        wrapped, calls = DistributedDataParallel(run.model, find_unused_parameters=find_unused), []
        wrapped.register_forward_hook(lambda *_: calls.append(1))
        for _ in range(2):
            loss, gradients = loss_and_gradients(run, wrapped)
    finally:
        distributed.destroy_process_group()
    assert calls == [1, 1]
    assert torch.equal(loss, expected)
    assert all(torch.equal(gradients[name], g) for name, g in alone.items())


def test_with_several_adapters_all_are_off(arguments):
    """The one that is trained stays active; the teacher has none of them."""
    student = fill(peft.get_peft_model(build_model(seed=7), lora_config(4)))
    student.add_adapter("other", lora_config(2, targets="v_proj"))
    student.set_adapter("other")
    fill(student, seed=5)
    twin = copy.deepcopy(student)
    (loss, gradients), (expected, wanted) = (
        loss_and_gradients(build(arguments, OBJECTIVES["all"](), student=model, teacher=teacher))
        for model, teacher in ((student, "self"), (twin, build_model(seed=7)))
    )
    assert torch.equal(loss, expected)
    assert loss > 1e-4
    assert gradients.keys() == wanted.keys()
    assert all(".other." in name and torch.equal(g, wanted[name]) for name, g in gradients.items())
    assert student.active_adapters == ["other"]


def test_cross_entropy_beside_it_learns(arguments):
    """KL alone has nothing to learn from a fresh adapter; with labels it does, and the teacher does not move."""
    found = []
    for weight in (0.0, 1.0):
        student = peft.get_peft_model(build_model(seed=7), lora_config(4))
        run = build(
            arguments, [Logits(cross_entropy=weight)], student=student, max_steps=15, learning_rate=3e-2,
            per_device_train_batch_size=8,
        )  # fmt: skip
        before = run.evaluate(build_pairs(8))
        run.train()
        found.append((before, run.evaluate(build_pairs(8))))
        ids = torch.arange(3, 30)[None]
        with torch.no_grad(), adapter_off(run.model):
            assert torch.equal(run.model.eval()(ids).logits, build_model(seed=7)(ids).logits)
    assert found[0][1]["eval_loss"] == 0
    before, after = found[1]
    assert before["eval_divergence"] == 0
    assert after["eval_cross_entropy"] < 0.9 * before["eval_cross_entropy"]
    assert after["eval_divergence"] > 0.01


def unfrozen():
    student = peft.get_peft_model(build_model(seed=7), lora_config(4))
    base_of(student).model.norm.weight.requires_grad_(True)
    return student


def put_together():
    student = fill(peft.get_peft_model(build_model(seed=7), lora_config(4)))
    student.merge_adapter()
    return student


REFUSED = {
    "no adapter": (lambda: build_model(seed=7), "same object. Give the student an adapter"),
    "prompt tuning": (
        lambda: peft.get_peft_model(build_model(), peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")),
        "'default' .PROMPT_TUNING. puts virtual tokens before the text",
    ),
    "prefix tuning": (
        lambda: peft.get_peft_model(build_model(), peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")),
        "puts virtual tokens before the text",
    ),
    "biases": (
        lambda: peft.get_peft_model(
            build_model(attention_bias=True), peft.LoraConfig(r=4, target_modules="all-linear", bias="all")
        ),
        "8 weights of the base are trained beside the adapter, the first is base_model.*bias, so the teacher",
    ),
    "unfrozen": (unfrozen, "1 weights of the base are trained beside the adapter, .*norm.weight"),
    "merged": (put_together, "call unmerge_adapter"),
    "pissa": (
        lambda: peft.get_peft_model(build_model(), peft.LoraConfig(target_modules="all-linear", init_lora_weights="pissa")),
        "init_lora_weights='pissa' takes part of the base",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Careful, disabling adapter layers")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_base_to_go_back_to_is_refused(arguments, kind):
    student, words = REFUSED[kind][0](), REFUSED[kind][1]
    with pytest.raises(ValueError, match=words):
        WhiteBoxTrainer(
            model=student, teacher="self", objectives=[Logits()], args=arguments(), train_dataset=build_pairs(8),
            processing_class=build_tokenizer(),
        )  # fmt: skip


def test_another_adapter_on_the_same_weights_is_no_teacher(arguments):
    base = build_model(seed=7)
    one = peft.get_peft_model(base, lora_config(4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own
        other = peft.get_peft_model(base, lora_config(4), adapter_name="other")
    with pytest.raises(ValueError, match="another adapter on the student's own weights"):
        build(arguments, [Logits()], student=one, teacher=other)


def test_prompt_tuning_is_refused_with_any_teacher(arguments):
    with pytest.raises(ValueError, match="virtual tokens"):
        build(arguments, [Logits()], student=REFUSED["prompt tuning"][0](), teacher=build_model(seed=1))


KINDS = {
    "lora": lambda: peft.LoraConfig(target_modules="all-linear"),
    "a copy of the head": lambda: peft.LoraConfig(
        target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"]
    ),
    "dora": lambda: peft.LoraConfig(target_modules=["q_proj"], use_dora=True),
    "trained tokens": lambda: peft.LoraConfig(target_modules=["q_proj"], trainable_token_indices=[3, 4]),
    "ia3": lambda: peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "loha": lambda: peft.LoHaConfig(r=4, target_modules=["q_proj"]),
    "oft": lambda: peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"]),
    "vera": lambda: peft.VeraConfig(r=4, target_modules=["q_proj"]),
    "norms": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"]),
    "osf": lambda: peft.OSFConfig(target_modules=["q_proj"]),
    "llama adapter": lambda: peft.AdaptionPromptConfig(adapter_len=4, adapter_layers=1, task_type="CAUSAL_LM"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_off_is_the_base_whatever_the_kind(kind):
    """Bit for bit; and on again it is what it was."""
    base = build_model()
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        expected = base(ids).logits
        student = peft.get_peft_model(base, KINDS[kind]()).eval()
        torch.manual_seed(0)
        for p in student.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * 0.1)
        moved, side = student(ids).logits, SelfTeacher()
        side.prepare(student, student.device)
        for _ in range(2):
            with side.forward_pass() as forward:
                assert torch.equal(forward(ids).logits, expected)
            assert torch.equal(student(ids).logits, moved)
        assert (moved - expected).abs().max() > 1e-2


def test_modules_are_looked_for_once_and_not_in_every_pass(monkeypatch):
    """It took 49 ms a micro-batch with 32 layers; again when another adapter is there."""
    student = peft.get_peft_model(build_model(seed=7), lora_config(4)).train()
    side, looked = SelfTeacher(), []
    side.prepare(student, student.device)
    plain = torch.nn.Module.named_modules

    def counted(self, *args, **kwargs):
        looked.append(type(self).__name__)
        return plain(self, *args, **kwargs)

    ids = torch.arange(3, 30)[None]
    with side.forward_pass() as forward:
        first = forward(ids).logits
    monkeypatch.setattr(torch.nn.Module, "named_modules", counted)
    with side.forward_pass():
        assert not any(module.training for module in side._modules)
    assert not looked
    student.add_adapter("second", peft.LoraConfig(r=2, target_modules=["gate_proj"], init_lora_weights=False))
    student.set_adapter("second")
    with side.forward_pass() as forward:
        assert torch.equal(forward(ids).logits, first)
    assert looked
    assert not torch.equal(student.eval()(ids).logits, first)


def test_a_resumed_run_equals_the_unbroken_one(arguments, tmp_path):
    """A checkpoint holds the adapter only; the teacher comes back with the base."""
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "output_dir": str(tmp_path / "run")}
    whole, again = (
        build(arguments, OBJECTIVES["all"](), config=lora_config(4, dropout=0.3), **settings) for _ in range(2)
    )
    whole.train()
    assert not (tmp_path / "run" / "checkpoint-2" / "model.safetensors").exists()
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))
