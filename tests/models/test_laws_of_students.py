"""Laws of what a student takes over from its teacher, and of what an adapter is by default."""

import pytest
import torch
from conftest import build_model
from transformers import GenerationConfig

from distill import make_student
from distill.models.adapters import adapter_off, add_adapter, lora_config


@pytest.mark.parametrize("strategy", ["even", "first_last"])
def test_a_student_ends_its_answers_with_its_teachers_tokens(strategy):
    """The ends are in the generation settings and not in the config: without them a student never stops. A copy of its own."""
    teacher = build_model(layers=4)
    teacher.generation_config = GenerationConfig(eos_token_id=[2, 7], pad_token_id=2)
    student = make_student(teacher, 2, strategy=strategy)
    assert student.generation_config.eos_token_id == [2, 7]
    student.generation_config.eos_token_id = 3
    assert teacher.generation_config.eos_token_id == [2, 7]


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_the_update_of_an_adapter_is_scaled_alike_for_every_rank(rank):
    """B A times alpha / rank, which is 2 where nothing is said, so that a rate that is right for one rank is for another."""
    pytest.importorskip("peft", reason="the extra peft is not installed")
    scaled = lambda **settings: [  # noqa: E731
        module.scaling["default"]
        for module in add_adapter(build_model(), lora_config(rank, **settings), 0).modules()
        if isinstance(getattr(module, "scaling", None), dict)
    ]
    assert set(scaled()) == {2.0}
    assert set(scaled(alpha=3)) == {3 / rank}


def test_what_is_trained_is_the_same_after_an_adapter_was_off():
    """One of its weights was frozen by hand, and the base never trains."""
    pytest.importorskip("peft", reason="the extra peft is not installed")
    model = add_adapter(build_model(), lora_config(2), 0)
    next(p for p in model.parameters() if p.requires_grad).requires_grad_(False)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    with adapter_off(model), torch.no_grad():
        model(torch.arange(3, 9)[None])
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trained != set()
