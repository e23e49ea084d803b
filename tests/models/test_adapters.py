"""LoRA students: the base never moves, the gradients are those of W + BA, and what is saved loads anywhere."""

import copy
import json
import sys

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from safetensors.torch import load_file
from torch.func import functional_call
from transformers import AutoModelForCausalLM
from white_box_runs import fill

from distill import AttentionMaps, BlackBoxTrainer, HiddenStates, Logits, WhiteBoxTrainer
from distill.models.adapters import base_of, load_in_4bit, lora_config, merged, save_model
from distill.pairs.collate import PairCollator

peft = pytest.importorskip("peft", reason="the extra peft is not installed")


def build(arguments, model=None, trainer=BlackBoxTrainer, **changes):
    own = {name: changes.pop(name) for name in ("packing", "max_length", "teacher", "objectives") if name in changes}
    config = changes.pop("peft_config", lora_config(4))
    return trainer(
        model=model or build_model(), args=arguments(**changes), train_dataset=build_pairs(16), peft_config=config,
        eval_dataset=build_pairs(5, seed=1), processing_class=build_tokenizer(), **own,
    )  # fmt: skip


def adapter_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def test_gradients_are_those_of_w_plus_ba():
    """Autograd through the plain model with weights W + scale * B A, written out."""
    plain = build_model().double()
    adapted = fill(
        peft.get_peft_model(copy.deepcopy(plain), lora_config(3, alpha=5, targets="q_proj,down_proj"))
    ).double()
    batch = PairCollator(build_tokenizer())(list(build_pairs(6)))
    adapted(**batch).loss.backward()
    factors = {name: p.detach().clone().requires_grad_() for name, p in adapted.named_parameters() if p.requires_grad}
    weights = dict(plain.named_parameters())
    for name, a in factors.items():
        if "lora_A" in name:
            b = factors[name.replace("lora_A", "lora_B")]
            target = name.removeprefix("base_model.model.").replace(".lora_A.default", "")
            weights[target] = weights[target].detach() + 5 / 3 * b @ a
    functional_call(plain, weights, kwargs=batch).loss.backward()
    seen = {name: p.grad for name, p in adapted.named_parameters() if p.requires_grad}
    assert len(seen) == 8  # A and B of two layers' two targets
    for name, factor in factors.items():
        torch.testing.assert_close(seen[name], factor.grad, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("packing", [False, True])
def test_the_base_stays_and_a_resumed_run_equals_the_unbroken_one(arguments, tmp_path, packing):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "packing": packing, "max_length": 48}
    start = build_model()
    whole = build(arguments, **settings)
    fresh = adapter_of(whole.model)
    whole.train()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    assert sorted(p.name for p in checkpoint.glob("*.safetensors")) == ["adapter_model.safetensors"]
    assert all("lora" in name for name in load_file(checkpoint / "adapter_model.safetensors"))
    trained = adapter_of(whole.model)
    assert all(not torch.equal(trained[name], fresh[name]) for name in fresh if "lora_B" in name)
    frozen = {n.replace(".base_layer", ""): p for n, p in base_of(whole.model).named_parameters() if "lora" not in n}
    assert frozen.keys() == dict(start.named_parameters()).keys()
    assert all(torch.equal(frozen[name], p) and not frozen[name].requires_grad for name, p in start.named_parameters())
    again = build(arguments, **settings)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert all(torch.equal(p, trained[name]) for name, p in adapter_of(again.model).items())


def test_a_ready_adapter_is_the_same_training(arguments):
    """An own PeftModel passes all our checks, and the adapter we make is drawn from the seed."""
    base = build_model()
    torch.manual_seed(3)  # the seed of the arguments
    ready = peft.get_peft_model(base, lora_config(4))
    settings = {"gradient_accumulation_steps": 2}
    torch.manual_seed(99)
    ours, theirs = build(arguments, **settings), build(arguments, model=ready, peft_config=None, **settings)
    for trainer in (ours, theirs):
        assert trainer.model_accepts_loss_kwargs
        trainer.train()
        assert trainer.evaluate()["eval_loss"] > 0
    one, other = adapter_of(ours.model), adapter_of(theirs.model)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    small = peft.get_peft_model(build_model(vocab_size=200), lora_config(4))
    with pytest.raises(ValueError, match=r"token id 29\d"):
        build(arguments, model=small, peft_config=None)


@pytest.mark.filterwarnings("ignore:.*checkpoint")
def test_checkpointed_activations_change_no_gradient(arguments):
    found = []
    for checkpointing in (False, True):
        trainer = build(arguments, activation_checkpointing=checkpointing, max_steps=1)
        fill(trainer.model)
        trainer.train()
        found.append(adapter_of(trainer.model))
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-6) for name in found[0])
    assert any(not torch.equal(p, adapter_of(fill(build(arguments).model))[name]) for name, p in found[1].items())


@pytest.mark.parametrize("objective", [Logits("forward_kl"), HiddenStates(), AttentionMaps()])
def test_white_box_objectives_reach_the_adapter(arguments, objective):
    """A fresh adapter on the teacher's own weights is the teacher: 0 at the start; then the value falls."""
    teacher = build_model()
    trainer = build(
        arguments, model=copy.deepcopy(teacher), trainer=WhiteBoxTrainer, teacher=teacher, objectives=[objective],
        max_steps=12, learning_rate=5e-3,
    )  # fmt: skip
    assert trainer.evaluate()["eval_loss"] == pytest.approx(0, abs=1e-6)
    fill(trainer.model)
    before = trainer.evaluate()["eval_loss"]
    assert before > 1e-4
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.8 * before
    assert all(p.grad is None for name, p in trainer.model.named_parameters() if "lora" not in name)


def test_the_saved_student_is_merged_and_its_adapter_beside_it(tmp_path):
    build_model().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    adapted = fill(peft.get_peft_model(base, lora_config(4))).eval()
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected = adapted(ids).logits
        save_model(adapted, tmp_path / "student")
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "student").eval()
        again = peft.PeftModel.from_pretrained(build_model(), tmp_path / "student" / "adapter").eval()
        assert torch.equal(again(ids).logits, expected)
        torch.testing.assert_close(plain(ids).logits, expected, rtol=1e-4, atol=1e-4)
        assert (plain(ids).logits - build_model()(ids).logits).abs().max() > 0.1
    assert type(merged(build_model())) is type(plain)
    config = (tmp_path / "student" / "adapter" / "adapter_config.json").read_text()
    assert json.loads(config)["r"] == 4
    assert json.loads(config)["base_model_name_or_path"] == "base", "peft writes down the whole path"


def test_bad_calls(arguments, monkeypatch):
    with pytest.raises(ValueError, match="have none; give one of"):
        build(arguments, model=peft.get_peft_model(build_model(), lora_config(4)))
    with pytest.raises(ValueError, match="peft_config is a dict"):
        build(arguments, peft_config={"r": 4})
    with pytest.raises(ValueError, match="rank of 1 or more"):
        lora_config(0)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="needs an NVIDIA GPU and the package bitsandbytes"):
            load_in_4bit()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"pip install 'distill\[peft\]'"):
        lora_config(4)
