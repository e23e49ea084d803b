"""Teacher and student must speak the same tokens."""

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer

from distill import Logits, WhiteBoxTrainer
from distill.objectives.divergences import by_name
from distill.pairs.collate import supervised_rows
from distill.teachers import LocalTeacher
from distill.text.vocabulary import shared_vocabulary


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


@pytest.mark.parametrize("sizes", [(330, 350), (350, 330)])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "generalized_jsd"])
def test_padded_heads_train_over_the_real_tokens(arguments, sizes, divergence):
    """Bug 9: the gradient is that of the two distributions over the real tokens; phantom slots get none of it."""
    tokenizer = build_tokenizer()
    real = max(tokenizer.get_vocab().values()) + 1
    student, teacher = (build_model(seed=seed, vocab_size=size) for seed, size in zip((7, 1), sizes, strict=True))
    run = WhiteBoxTrainer(
        model=student, teacher=LocalTeacher(teacher, tokenizer), objectives=[Logits(divergence)], args=arguments(),
        train_dataset=build_pairs(4), processing_class=tokenizer,
    )  # fmt: skip
    batch = run.data_collator(list(build_pairs(4)))
    rows = supervised_rows(batch["labels"])
    run.compute_loss(student, batch, num_items_in_batch=rows.sum()).backward()
    twin = build_model(seed=7, vocab_size=sizes[0])
    ours, theirs = (
        m(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[rows][:, :real] for m in (twin, teacher)
    )
    by_name(divergence)(ours, theirs.detach()).mean().backward()
    for (name, a), b in zip(student.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6, msg=name)
    assert not student.lm_head.weight.grad[real:].any()
