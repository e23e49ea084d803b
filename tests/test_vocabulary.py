"""Teacher and student must speak the same tokens."""

import pytest
from conftest import build_model, build_tokenizer

from distill.vocabulary import shared_vocabulary


def test_equal_heads_and_padded_heads(tokenizer):
    real = max(tokenizer.get_vocab().values()) + 1
    assert shared_vocabulary(build_model(), build_model(), tokenizer, tokenizer) is None
    assert shared_vocabulary(build_model(), build_model(vocab_size=384), tokenizer, tokenizer) == real


def test_refusals(tokenizer):
    other = build_tokenizer()
    other.add_tokens(["<think>"])
    with pytest.raises(ValueError, match=r"1 tokens differ, e.g. '<think>': none and \d+"):
        shared_vocabulary(build_model(), build_model(), tokenizer, other)
    with pytest.raises(ValueError, match="head has 320 tokens and the teacher's 384"):
        shared_vocabulary(build_model(), build_model(vocab_size=384), tokenizer, None)
    with pytest.raises(ValueError, match="the heads have 100"):
        shared_vocabulary(build_model(vocab_size=100), build_model(), tokenizer, tokenizer)
