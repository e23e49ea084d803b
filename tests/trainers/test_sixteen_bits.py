"""A step in bfloat16 on a CPU, as `tests/gpu` takes one on a GPU: by the same function, which has to put autocast on."""

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from white_box_runs import black_box_trainer, step_of, trainer

from distill import AttentionMaps, BlackBoxTrainer, HiddenStates, Logits


def relative(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("way", ["black box", "white box"])
def test_a_step_in_bfloat16_is_the_step_in_float32(arguments, way):
    """To what 8 bits leave, and not to the bit: there autocast was off, and two steps in float32 were compared."""
    objectives = [Logits(), HiddenStates(weight=0.3), AttentionMaps(weight=0.2)]
    build = (
        black_box_trainer if way == "black box" else lambda *args, **changes: trainer(args[0], objectives, **changes)
    )
    (expected, plain), (loss, gradient) = (step_of(build(arguments, bf16=bf16), 8) for bf16 in (False, True))
    assert loss.dtype == torch.float32
    assert plain.norm() > 1e-3
    assert relative(gradient, plain) > 2e-5
    assert relative(loss, expected) < 5e-2
    assert relative(gradient, plain) < 5e-2


@pytest.mark.parametrize("packing", [False, True])
def test_supervised_rows_alone_give_the_gradient_of_all_in_bfloat16(arguments, packing):
    single, plain, found = (
        step_of(
            BlackBoxTrainer(
                model=build_model(seed=7), args=arguments(bf16=bf16), train_dataset=build_pairs(14), processing_class=build_tokenizer(),
                supervised_only=only, packing=packing, max_length=48,
            ),
            5 if packing else 14,
        )
        for only, bf16 in ((False, False), (False, True), (True, True))
    )  # fmt: skip
    assert plain[1].norm() > 1e-3
    assert relative(single[1], plain[1]) > 2e-5
    for ours, theirs in zip(found, plain, strict=True):
        assert relative(ours, theirs) < 5e-2
