"""A white box on stored signals learns what it learns from the live teacher; what is not stored is refused before the first step."""

import pytest
import torch
from conftest import build_arguments, build_model, build_pairs, build_tokenizer
from processes import run_processes
from signal_runs import captured, teacher
from white_box_runs import gradient_of_one_step, trainer

from distill import HiddenStates, Logits
from distill.pairs.collate import PairCollator
from distill.pairs.packing import pack_pairs
from distill.signals import StoredSignals
from distill.teachers import LocalTeacher

PAIRS = build_pairs(8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same teacher in several encodings; sparse ones so wide that nothing is left out."""
    place = tmp_path_factory.mktemp("stored")
    return {
        name: captured(place / name, build_pairs(13), teacher(seed=1), encoding=name).folder
        for name in ("hidden", "threshold:320", "top:320", "top:8", "draws:4")
    }


def close(one, other, tolerance):
    assert one.keys() == other.keys()
    for name in one:
        error = (one[name] - other[name]).norm() / other[name].norm().clamp(min=1e-12)
        assert error < tolerance, (name, float(error))


WAYS = {
    "plain": {},
    "accumulated": {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 2},
    "cut": {"collator": PairCollator(build_tokenizer(), max_length=14)},
    "packed": {"pairs": pack_pairs(PAIRS, 60), "collator": PairCollator(build_tokenizer(), max_length=60)},
    "cross-entropy": {"objective": {"cross_entropy": 0.5}},
}


@pytest.mark.parametrize("name", ["hidden", "threshold:320", "top:320"])
@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_is_that_of_the_live_teacher(folders, arguments, name, way):
    settings = {**WAYS[way]}
    objective = settings.pop("objective", {})
    if way == "cut":
        settings["pairs"] = PAIRS.filter(lambda pair: len(pair["prompt_ids"]) < 14)
    found = [
        gradient_of_one_step(arguments, [Logits(**objective)], teacher=one, **settings)
        for one in (StoredSignals(folders[name]), build_model(seed=1))
    ]
    close(*found, tolerance={"hidden": 2e-4}.get(name, 5e-3))


@pytest.mark.parametrize("divergence", ["reverse_kl", "generalized_jsd", "skew_forward_kl"])
def test_hidden_states_give_every_divergence_and_temperature(folders, arguments, divergence):
    objective = [Logits(divergence, temperature=2.0)]
    found = [
        gradient_of_one_step(arguments, objective, teacher=one)
        for one in (StoredSignals(folders["hidden"]), build_model(seed=1))
    ]
    close(*found, tolerance=2e-4)


def test_with_a_teacher_prompt(tmp_path, arguments):
    prompts = [[9, 8, *ids] if i % 2 else None for i, ids in enumerate(PAIRS["prompt_ids"][:])]
    pairs = PAIRS.add_column("teacher_prompt_ids", prompts)
    stored = captured(tmp_path / "signals", pairs, teacher(seed=1))
    found = [
        gradient_of_one_step(arguments, [Logits()], teacher=one, pairs=pairs) for one in (stored, build_model(seed=1))
    ]
    close(*found, tolerance=2e-4)


def test_what_an_encoding_cannot_do_is_refused_when_the_trainer_is_built(folders, arguments):
    for name, objective, said in (
        ("draws:4", Logits("reverse_kl"), "forward_kl"),
        ("threshold:320", Logits("generalized_jsd"), "forward_kl"),
        ("top:8", Logits(temperature=2.0), "temperature"),
        ("draws:4", Logits(temperature=2.0), "temperature"),
        ("hidden", HiddenStates(), "no hidden states; take HiddenStates and AttentionMaps out of objectives"),
    ):
        with pytest.raises(ValueError, match=said):
            trainer(arguments, [objective], teacher=StoredSignals(folders[name]))


def test_missing_pairs_are_named_when_the_trainer_is_built(folders, arguments):
    stored = StoredSignals(folders["hidden"])
    with pytest.raises(ValueError, match=r"lacks 2 of 15 pairs of train_dataset: row13, row14\."):
        trainer(arguments, [Logits()], teacher=stored, pairs=build_pairs(15))
    with pytest.raises(ValueError, match=r"holds signals of other pairs: none of the 3 pairs of eval_dataset"):
        trainer(arguments, [Logits()], teacher=stored, eval_pairs=build_pairs(3, seed=9))


def test_a_store_of_the_trainings_max_length_is_whole(tmp_path, arguments):
    pairs = PAIRS.filter(lambda pair: len(pair["prompt_ids"]) < 14)
    stored = captured(tmp_path / "signals", pairs, teacher(seed=1), max_length=14)
    collator = PairCollator(build_tokenizer(), max_length=14)
    trainer(arguments, [Logits()], teacher=stored, pairs=pairs, collator=collator, max_steps=1).train()
    with pytest.raises(ValueError, match="in part only"):
        trainer(arguments, [Logits()], teacher=stored, pairs=pairs)


def test_another_tokenizer_is_refused(tmp_path, arguments):
    other = build_tokenizer(special=["<|endoftext|>", "<|im_end|>", "<|im_start|>"])
    stored = captured(tmp_path / "signals", PAIRS, LocalTeacher(build_model(seed=1), other))
    with pytest.raises(ValueError, match="Student and teacher have different vocabularies"):
        trainer(arguments, [Logits()], teacher=stored)


def share(folder):
    """In each of several processes: the gradient of one step."""
    import tempfile

    with tempfile.TemporaryDirectory() as out:
        return gradient_of_one_step(
            lambda **changes: build_arguments(out, **changes), [Logits()], teacher=StoredSignals(folder)
        )


def test_two_processes_read_one_folder(folders, arguments):
    one = gradient_of_one_step(
        arguments, [Logits()], teacher=StoredSignals(folders["hidden"]), per_device_train_batch_size=4
    )
    for two in run_processes(2, share, folders["hidden"]):
        close({k: v for k, v in two.items() if isinstance(v, torch.Tensor)}, one, tolerance=1e-4)
