"""A mixture of experts that asks for its router's loss gets it in the white box as in the black box."""

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM
from white_box_runs import black_box_trainer, gradient_of_one_step, trainer

from distill import AttentionMaps, HiddenStates, Logits
from distill.pairs.collate import PairCollator
from distill.trainers.router_loss import router_coefficient

COEFFICIENT = 10.0


def moe(coefficient, seed=7):
    torch.manual_seed(seed)
    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=320, hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            num_local_experts=4, max_position_embeddings=128, initializer_range=0.2,
            output_router_logits=coefficient is not None, router_aux_loss_coef=coefficient or 0.0,
        )
    ).eval()  # fmt: skip


OBJECTIVES = {
    "black box": None,
    "streamed": [Logits()],
    "whole logits": [Logits(cross_entropy=0.5, temperature=2.0)],
    "hidden": [HiddenStates()],
    "attention": [AttentionMaps(divergence="generalized_jsd")],
    "weight 0": [Logits(weight=0.0), HiddenStates(weight=0.5)],
}


def by_hand():
    """The gradient of coefficient times aux_loss of the one batch, by autograd."""
    model, batch = moe(COEFFICIENT), PairCollator(build_tokenizer())(build_pairs(8).to_list())
    model.train()
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    (COEFFICIENT * output.aux_loss).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_differs_by_that_of_the_routers_loss(arguments, name):
    """Before, the white box's gradient did not change at all."""
    settings = {"per_device_train_batch_size": 8, "pairs": build_pairs(8)}
    if OBJECTIVES[name]:
        settings["teacher"] = build_model(seed=1)
    with_it, without = (
        gradient_of_one_step(arguments, OBJECTIVES[name], student=moe(coefficient), **settings)
        for coefficient in (COEFFICIENT, None)
    )
    wanted = by_hand()
    assert max(float(g.abs().max()) for key, g in wanted.items() if "gate" in key) > 0.1
    for key, gradient in wanted.items():
        torch.testing.assert_close(with_it[key] - without[key], gradient, rtol=1e-3, atol=1e-5, msg=f"{name} {key}")


@pytest.mark.parametrize("objectives", [None, [Logits()]], ids=["black box", "white box"])
def test_the_last_batch_of_a_stream_is_that_of_the_dataset(arguments, objectives):
    """Before, it was filled up with rows without loss, which the router saw."""
    wanted, found = (
        gradient_of_one_step(
            arguments, objectives, per_device_train_batch_size=8, pairs=pairs, student=moe(COEFFICIENT)
        )
        for pairs in (build_pairs(7), build_pairs(7).to_iterable_dataset())
    )
    assert max(float(g.abs().max()) for key, g in wanted.items() if "gate" in key) > 0.1
    for key, gradient in wanted.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-5, msg=key)


def test_it_is_logged_as_a_term_of_its_own_and_is_a_part_of_the_loss(arguments):
    run = trainer(arguments, [Logits(weight=0.5)], student=moe(0.25), eval_pairs=build_pairs(5, seed=4))
    run.train()
    for entry in run.state.log_history[:-1]:
        assert entry["router_loss"] > 0.5
        assert entry["loss"] == pytest.approx(0.5 * entry["logits"] + 0.25 * entry["router_loss"], rel=1e-5)
    found = run.evaluate()
    assert found["eval_loss"] == pytest.approx(0.5 * found["eval_logits"] + 0.25 * found["eval_router_loss"], rel=1e-5)
    plain = trainer(arguments, [Logits(weight=0.5)], student=moe(None))
    plain.train()
    assert "router_loss" not in plain.state.log_history[0]


def test_in_evaluation_it_counts_by_the_tokens_as_in_the_black_box(arguments):
    """Both `eval_loss`es without what is compared differ by the same."""
    pairs = build_pairs(7, seed=4)
    found = []
    for build, objectives in ((black_box_trainer, None), (trainer, [Logits()])):
        sides = []
        for coefficient in (COEFFICIENT, None):
            args = (arguments,) if objectives is None else (arguments, objectives)
            run = build(*args, student=moe(coefficient), per_device_eval_batch_size=3)
            sides.append(run.evaluate(pairs)["eval_loss"])
        found.append(sides[0] - sides[1])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize("objectives", [None, [Logits()]], ids=["black box", "white box"])
def test_steps_of_several_batches_are_refused_in_both(arguments, objectives):
    build = black_box_trainer if objectives is None else lambda *args, **kwargs: trainer(args[0], objectives, **kwargs)
    with pytest.raises(
        ValueError, match="MixtralForCausalLM has output_router_logits=True.*gradient_accumulation_steps=1"
    ):
        build(arguments, student=moe(0.1), gradient_accumulation_steps=2)
    assert build(arguments, student=moe(None), gradient_accumulation_steps=2)


def test_a_loss_of_all_logits_is_refused(arguments):
    """Bamba adds one; the white box makes no logits of all tokens."""
    config = AutoConfig.for_model(
        "bamba", vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        attn_layer_indices=[1], mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_n_groups=2, z_loss_coefficient=0.1,
    )  # fmt: skip
    with pytest.raises(ValueError, match="BambaForCausalLM has z_loss_coefficient=0.1"):
        trainer(arguments, [Logits()], student=AutoModelForCausalLM.from_config(config))


def test_a_router_whose_coefficient_is_not_known_is_refused():
    """A class of somebody's own, that calls it otherwise."""
    model = torch.nn.Linear(2, 2)
    model.config = AutoConfig.for_model("llama", output_router_logits=True)
    with pytest.raises(ValueError, match="by what it multiplies its router's loss is not known"):
        router_coefficient(model)
    model.aux_loss_coef = 0.3  # as JetMoe calls it
    assert router_coefficient(model) == 0.3
