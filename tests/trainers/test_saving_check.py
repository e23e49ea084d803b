"""A config that cannot be saved is mended or refused before the first step, and not at the first checkpoint."""

import json

import pytest
from conftest import build_arguments, build_model, build_pairs, build_tokenizer
from process_runs import in_folder
from processes import run_processes
from transformers import AutoModelForCausalLM

from distill import BlackBoxTrainer

# as published beside Llama-2: values for sampling, and no do_sample
PUBLISHED = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "temperature": 0.9, "top_p": 0.6}


def trainer(folder, student):
    arguments = build_arguments(folder, max_steps=2, save_strategy="steps", save_steps=1)
    return BlackBoxTrainer(
        model=student, args=arguments, train_dataset=build_pairs(), processing_class=build_tokenizer()
    )


def test_a_published_generation_config_without_do_sample_trains_to_the_end(tmp_path, capsys):
    build_model().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(PUBLISHED))
    made = trainer(tmp_path / "run", AutoModelForCausalLM.from_pretrained(tmp_path / "model"))
    assert "(temperature=0.9, top_p=0.6)" in capsys.readouterr().out
    assert not made.model.generation_config.do_sample  # it decodes as it did: generation in a callback would else draw
    made.train()
    saved = json.loads((tmp_path / "run" / "checkpoint-2" / "generation_config.json").read_text())
    assert not any(saved.get(name) for name in ("do_sample", "temperature", "top_p"))
    assert saved["eos_token_id"] == 2


def test_a_config_that_is_well_is_left_as_it_is(tmp_path, capsys):
    student = build_model()
    before = student.generation_config.to_dict()
    trainer(tmp_path, student)
    assert student.generation_config.to_dict() == before
    assert "do_sample" not in capsys.readouterr().out


def test_what_cannot_be_mended_is_refused_before_the_first_step(tmp_path):
    student = build_model()
    student.generation_config.num_return_sequences = 3  # of greedy decoding
    student.generation_config.pad_token_id = -1
    with pytest.raises(
        ValueError, match=r"generation_config cannot be saved, so no checkpoint could be: .*GenerationConfig\("
    ):
        trainer(tmp_path, student)
    student = build_model()
    student.config.something = object()
    with pytest.raises(ValueError, match="config cannot be saved, so no checkpoint could be"):
        trainer(tmp_path, student)


def test_values_of_a_config_that_samples_are_kept(tmp_path):
    student = build_model()
    student.generation_config.update(do_sample=True, temperature=0.9)
    trainer(tmp_path, student)
    assert (student.generation_config.do_sample, student.generation_config.temperature) == (True, 0.9)


def unsavable():
    student = build_model()
    student.config.something = object()
    try:
        in_folder(lambda arguments: BlackBoxTrainer(
            model=student, args=arguments(), train_dataset=build_pairs(), processing_class=build_tokenizer()
        ))  # fmt: skip
    except ValueError as error:
        return str(error)
    return "nothing"


def test_every_process_says_that_a_config_cannot_be_saved():
    """Before, the first one alone, and the others waited for it."""
    assert all("config cannot be saved" in said for said in run_processes(2, unsavable))
