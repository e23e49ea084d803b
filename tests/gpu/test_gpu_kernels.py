"""Kernels and precisions that a CPU has not: flash and flex attention under the taps, float16 with its scaler, heads that see the supervised rows alone."""

import copy
import importlib.util

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from gpu_runs import GPU, cuda_arguments, relative  # noqa: F401  (a fixture)
from transformers.utils import is_flash_attn_2_available
from white_box_runs import black_box_trainer, step_of, trainer

from distill import AttentionMaps, BlackBoxTrainer, HiddenStates, Logits, WhiteBoxTrainer

pytestmark = GPU
WIDE = {
    "hidden_size": 128,
    "intermediate_size": 128,
}  # 4 heads of 32: fewer than 16 numbers a head are too few for flex attention
KERNELS = [
    pytest.param(
        "flex_attention", torch.float32,
        marks=pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton compiles it, and is not there"),
    ),
    pytest.param(
        "flash_attention_2", torch.bfloat16,
        marks=pytest.mark.skipif(not is_flash_attn_2_available(), reason="the package flash-attn is not installed"),
    ),
]  # fmt: skip


@pytest.fixture
def arguments(cuda_arguments):  # noqa: F811
    return cuda_arguments


def three():
    return [Logits(), HiddenStates(weight=0.3), AttentionMaps(weight=0.2)]


def under(implementation, dtype, seed):
    """Weights that bfloat16 holds, whatever `dtype` they are in."""
    model = build_model(seed=seed, **WIDE).to(torch.bfloat16).to(dtype)
    model.set_attn_implementation(implementation)
    return model


def assert_as_exact_as_sdpa(found, plain, exact):
    """Loss and gradient under a kernel are as near to those of sdpa in float32 as sdpa's own in the kernel's precision."""
    assert exact[1].norm() > 1e-3
    for ours, theirs, right in zip(found, plain, exact, strict=True):
        assert relative(ours, right) < 1.5 * relative(theirs, right) + 2e-3


@pytest.mark.parametrize(("implementation", "dtype"), KERNELS)
@pytest.mark.parametrize("whose", ["student", "teacher", "both"])
def test_a_white_box_under_flash_and_flex_attention_is_that_of_sdpa(arguments, implementation, dtype, whose):
    """Rows of unequal length. The taps see the same queries and keys; masks are rules made of what the kernel was given."""

    def step(kernel, dtype):
        student = under(kernel if whose != "teacher" else "sdpa", dtype, 7)
        teacher = under(kernel if whose != "student" else "sdpa", dtype, 1)
        return step_of(trainer(arguments, three(), student=student, teacher=teacher), 8)

    assert_as_exact_as_sdpa(step(implementation, dtype), step("sdpa", dtype), step("sdpa", torch.float32))


@pytest.mark.parametrize(("implementation", "dtype"), KERNELS)
@pytest.mark.parametrize("way", ["black box", "white box"])
def test_packed_rows_under_flash_and_flex_attention_are_those_of_single_ones_under_sdpa(
    arguments, implementation, dtype, way
):
    """Where the documents of a packed row begin is read from positions; of flash kernels in a single row alone."""

    def step(kernel, dtype, packing):
        settings = {
            "model": under(kernel, dtype, 7), "args": arguments(), "train_dataset": build_pairs(14), "processing_class": build_tokenizer(),
            "max_length": 48, "packing": packing,
        }  # fmt: skip
        if way == "black box":
            run = BlackBoxTrainer(**settings)
        else:
            run = WhiteBoxTrainer(**settings, teacher=under(kernel, dtype, 1), objectives=three())
        assert run.data_collator.flatten_bins == (packing and "flash" in kernel)
        return step_of(run, len(run.train_dataset))

    found, plain = step(implementation, dtype, packing=True), step("sdpa", dtype, packing=False)
    assert_as_exact_as_sdpa(found, plain, step("sdpa", torch.float32, packing=False))


@pytest.mark.parametrize("settings", [{}, {"bf16": True}, {"fp16": True}], ids=["float32", "bf16", "fp16"])
@pytest.mark.parametrize("packing", [False, True])
def test_supervised_rows_alone_give_the_gradient_of_all(arguments, settings, packing):
    found = []
    for only, how in ((False, {}), (False, settings), (True, settings)):
        run = BlackBoxTrainer(
            model=build_model(seed=7), args=arguments(**how), train_dataset=build_pairs(14), processing_class=build_tokenizer(),
            supervised_only=only, packing=packing, max_length=48,
        )  # fmt: skip
        found.append(step_of(run, len(run.train_dataset), scale=128.0 if "fp16" in how else 1.0))
    single, (expected, plain), (loss, gradient) = found
    assert plain.norm() > 1e-3
    assert not settings or relative(single[1], plain) > 2e-5, "autocast was not on"
    bound = 5e-2 if settings else 2e-5
    assert relative(loss, expected) < bound
    assert relative(gradient, plain) < bound


@pytest.mark.parametrize("way", ["black box", "white box"])
@pytest.mark.parametrize("half", ["fp16", "bf16"])
def test_a_step_in_sixteen_bits_is_the_step_in_float32(arguments, way, half):
    """Autocast: weights stay in float32, products are in 16 bits, and the objectives are in float32 again."""
    found = []
    for settings in ({}, {half: True}):
        student = build_model(seed=7)
        run = black_box_trainer(arguments, student=student, **settings) if way == "black box" else trainer(arguments, three(), student=student, **settings)  # fmt: skip
        found.append(step_of(run, 8, scale=128.0))
    (loss, gradient), (expected, plain) = found[1], found[0]
    assert loss.dtype == torch.float32
    assert relative(gradient, plain) > 2e-5, "autocast was not on"
    assert relative(loss, expected) < (1e-2 if half == "fp16" else 5e-2)
    assert relative(gradient, plain) < (2e-2 if half == "fp16" else 5e-2)


@pytest.mark.parametrize("way", ["black box", "white box", "projections"])
def test_a_training_in_float16_goes_on_behind_steps_that_its_scaler_leaves_out(arguments, way):
    """The first scale, 65,536, may be too large: the scaler then leaves steps out. It knows of the projections, which stand beside the model."""
    settings = {"fp16": True, "max_steps": 12, "logging_steps": 1, "pairs": build_pairs(16)}
    if way == "black box":
        run = black_box_trainer(arguments, student=build_model(seed=7), **settings)
    else:
        shape = {"hidden_size": 64, "num_attention_heads": 4} if way == "projections" else {}
        objectives = [Logits(), HiddenStates(weight=0.3)] if way == "projections" else three()
        run = trainer(arguments, objectives, student=build_model(seed=7, **shape), **settings)
    learned = [*run.model.parameters(), *(run.terms.parameters() if way == "projections" else [])]
    before = [copy.deepcopy(p.detach()) for p in learned]
    run.train()
    assert run.accelerator.scaler is not None
    assert run.state.global_step == 12
    for parameter, start in zip(learned, before, strict=True):
        assert parameter.isfinite().all()
        assert not torch.equal(parameter.cpu(), start.cpu())
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert len(losses) == 12
    assert all(0 < loss < float("inf") for loss in losses)
