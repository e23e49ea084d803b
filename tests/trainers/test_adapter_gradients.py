"""LoRA students in both trainers: gradients are those of the merged student by the chain rule, and the head is streamed."""

import copy

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from white_box_runs import OBJECTIVES, fill, trainer

from distill import BlackBoxTrainer, Logits
from distill.models.adapters import lora_config, merged

peft = pytest.importorskip("peft", reason="the extra peft is not installed")
TRAINED = {
    "all": lambda: lora_config(3, alpha=5),
    "head": lambda: lora_config(3, alpha=5, targets="q_proj,lm_head"),
    "head alone": lambda: lora_config(3, alpha=5, targets="lm_head"),
    "trained copy of the head": lambda: peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=["q_proj"], modules_to_save=["lm_head"]
    ),
}


def build(arguments, objectives, student):
    if objectives is None:
        return BlackBoxTrainer(
            model=student, args=arguments(), train_dataset=build_pairs(8), processing_class=build_tokenizer()
        )
    return trainer(arguments, objectives, student=student, teacher=build_model(seed=1).double())


def gradients(run):
    run.compute_loss(run.model, run.data_collator(list(build_pairs(5)))).backward()
    return {name: p.grad for name, p in run.model.named_parameters() if p.requires_grad}


def by_chain_rule(adapted, plain):
    """Of W + s B A: dA = s B' dW and dB = s dW A'; of a trained copy: dW."""
    found = {}
    for name, p in adapted.named_parameters():
        if not p.requires_grad:
            continue
        layer = name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")
        if "lora_" not in name:
            found[name] = plain[layer]
            continue
        kind = "lora_A" if "lora_A" in name else "lora_B"
        slope = plain[layer.replace(f".{kind}.default", "")]
        other = adapted.get_parameter(name.replace(kind, "lora_B" if kind == "lora_A" else "lora_A")).detach()
        if slope is None:  # nothing that the objective sees comes after this layer
            found[name] = None
            continue
        found[name] = 5 / 3 * (other.t() @ slope if kind == "lora_A" else slope @ other.t())
    return found


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.parametrize("name", ["black box", *OBJECTIVES])
def test_gradients_are_those_of_the_merged_student(arguments, name, kind, tied):
    if kind == "head alone" and name not in ("black box", "logits"):
        pytest.skip("no adapter before what these objectives see")
    objectives = None if name == "black box" else OBJECTIVES[name]
    start = build_model(seed=7, tie_word_embeddings=tied)
    adapted = fill(peft.get_peft_model(start, TRAINED[kind]())).double()
    whole = merged(copy.deepcopy(adapted)).requires_grad_(True)
    run = build(arguments, objectives and objectives(), adapted)
    twin = build(arguments, objectives and objectives(), whole)
    seen, expected = gradients(run), by_chain_rule(adapted, gradients(twin))
    assert seen.keys() == expected.keys()
    assert len(seen) > 0
    reached = 0
    for key, gradient in seen.items():
        if gradient is None or expected[key] is None:
            assert gradient is None or not gradient.any(), key
            assert expected[key] is None or not expected[key].any(), key
            continue
        reached += bool(gradient.abs().max() > 1e-6)
        torch.testing.assert_close(gradient, expected[key], rtol=1e-6, atol=1e-10, msg=key)
    assert reached > 0


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", TRAINED)
def test_the_head_is_streamed_unless_it_has_an_adapter(arguments, kind, tied):
    """No [N, V] logits of the model's own are asked for: the streaming path does not fall back without a word."""
    adapted = peft.get_peft_model(build_model(seed=7, tie_word_embeddings=tied), TRAINED[kind]())
    for teacher in (build_model(seed=1), "self"):
        run = trainer(arguments, [Logits()], student=adapted, teacher=teacher)
        assert (run.terms[0].transforms is None) == ("head" in kind and "copy" not in kind)
        term = run.terms[0]
        assert term.student_request.logits == term.teacher_request.logits == (term.transforms is None)
