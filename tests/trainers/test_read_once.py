"""Pairs are read once when a trainer is made; what one process alone cannot compare stops all of them."""

import os

import pytest
from conftest import build_arguments, build_model, build_pairs, build_tokenizer
from processes import run_processes
from transformers import MistralConfig, MistralForCausalLM

from distill import AttentionMaps, Logits, WhiteBoxTrainer
from distill.trainers import pair_checks, shown_checks


def white_box(arguments, pairs, teacher=None, objectives=None, student=None, **given):
    return WhiteBoxTrainer(
        model=student or build_model(),
        teacher=teacher or build_model(seed=1, max_position_embeddings=96),
        objectives=objectives or [Logits(cross_entropy=0.1)],
        args=arguments(),
        train_dataset=pairs,
        processing_class=build_tokenizer(),
        **given,
    )


def test_a_dataset_is_read_once_whatever_limits_there_are(arguments, monkeypatch):
    """Of the student, of a teacher with fewer positions, and of labels."""
    read, plain = [], pair_checks.counted

    def watched(*args):
        read.append(args[1])
        return plain(*args)

    for module in (pair_checks, shown_checks):
        monkeypatch.setattr(module, "counted", watched)
    pairs = build_pairs(20)
    white_box(arguments, pairs)
    assert read == [("prompt_ids", "completion_ids")]
    white_box(arguments, pairs)
    assert len(read) == 1


def test_pairs_that_were_read_are_still_held_against_other_limits(arguments):
    pairs = build_pairs(20)
    white_box(arguments, pairs)
    with pytest.raises(ValueError, match="row of .* tokens, but the teacher"):
        white_box(arguments, pairs, build_model(seed=1, max_position_embeddings=9))
    with pytest.raises(ValueError, match="no token to learn from"):
        white_box(arguments, pairs, max_length=3)


def _longer_in_one_process(folder):
    """The second process has the longer row of an evaluation that nobody knew of."""
    settings = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 32}  # fmt: skip
    windowed = MistralForCausalLM(MistralConfig(**settings)).eval()
    trainer = white_box(
        lambda: build_arguments(folder, per_device_eval_batch_size=1), build_pairs(4), None, [AttentionMaps()], windowed
    )
    short, long = build_pairs(2).to_list()
    long["completion_ids"] = [5] * 40
    trainer.data_collator.limits = trainer.data_collator.limits.__class__()
    try:
        trainer.evaluate([short, long])
    except ValueError as error:
        return os.environ["RANK"], str(error)
    return os.environ["RANK"], "no error"


def test_a_batch_longer_than_a_window_stops_all_processes(tmp_path):
    said = dict(run_processes(2, _longer_in_one_process, tmp_path))
    assert sorted(text.split(" tokens long")[0].rstrip("0123456789 ") for text in said.values()) == [
        "A batch is",
        "A batch of another process is more",
    ]
