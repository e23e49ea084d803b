"""Laws of asking a model that runs here: in which order, from which distribution, and what it leaves as it found it."""

import pytest
import torch
from conftest import build_model, build_tokenizer
from transformers import GenerationConfig

from distill import generate
from distill.teachers import LocalTeacher, Sampling

WORDS = ["the", "cat", "sat", "on", "the", "mat", "and", "the", "dog", "ran"]


class Noting(LocalTeacher):
    """Notes the prompts of every batch."""

    def complete(self, prompts, sampling, seed, stop_ids=None):
        self.asked = [*getattr(self, "asked", []), list(map(len, prompts))]
        return super().complete(prompts, sampling, seed, stop_ids)


def test_the_longest_prompts_are_asked_first_and_like_lengths_together():
    """Too little memory then shows in the first batch and not after hours; and little is padded."""
    teacher = Noting(build_model(), build_tokenizer(), name="tiny")
    prompts = [" ".join(WORDS[:count]) for count in (2, 9, 1, 5, 7, 3, 8)]
    generate(teacher, prompts, max_new_tokens=2, batch_size=2, progress=False)
    lengths = [length for batch in teacher.asked for length in batch]
    assert len(teacher.asked) == 4
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("training", [True, False])
def test_a_teacher_is_left_as_it_was_found(training):
    """Its mode, its own generation settings, and the caller's random numbers; and its answers are those of evaluation."""
    tokenizer = build_tokenizer()
    model = build_model(attention_dropout=0.5).train(training)
    model.generation_config = own = GenerationConfig(top_k=1, do_sample=True, eos_token_id=2)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    found = LocalTeacher(model, tokenizer).complete([[5, 6, 7]] * 4, Sampling(6), seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert model.training is training
    assert all(module.training is training for module in model.modules())
    assert model.generation_config is own
    other = LocalTeacher(build_model(), tokenizer).complete([[5, 6, 7]] * 4, Sampling(6), seed=1)
    assert [one.ids for one in found] == [one.ids for one in other]


def first_tokens(count, **sampling):
    """The first token of many completions of one prompt, by how often it came."""
    teacher = LocalTeacher(build_model(initializer_range=0.02), build_tokenizer())  # nearly the same for all tokens
    found = teacher.complete([[5, 6, 7]] * count, Sampling(1, **sampling), seed=0)
    return {one.ids[0] for one in found}


def test_sampling_is_from_all_tokens_unless_it_is_told_otherwise():
    """`generate` of transformers keeps the 50 most likely where nothing is said."""
    assert len(first_tokens(600)) > 100
    assert len(first_tokens(600, top_k=3)) == 3
    assert len(first_tokens(600, top_p=0.1)) < 40
    assert len(first_tokens(20, temperature=0.0)) == 1
