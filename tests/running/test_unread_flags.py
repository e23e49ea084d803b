"""Flags that nothing reads beside the others are refused by their names, by every recipe; and prompts without an answer may be left out."""

import dataclasses

import pytest
from conftest import save_teacher

from distill import load_pairs
from distill.running.flags import ServerArguments
from distill.running.unread import OF_FILES

LONG = "the cat sat on the mat " * 60  # beyond the positions of the tiny model
ASKED, SERVED, FILES, NAMED = "how a teacher is asked", "behind a server", "how a file of prompts is read", "--student"
TRAINED = ["--bf16", "False", "--per_device_train_batch_size", "4", "--held_out", "3", "--max_steps", "1"]


def value_of(flag):
    if flag in ("skip_bad", "allow_refusals"):
        return [f"--{flag}"]
    texts = {
        "columns": "prompt=q",
        "extra_body": "{}",
        "finish_reasons": "done=stop",
        "near": "True",
        "temperature": "0.5",
    }
    return [f"--{flag}", texts.get(flag, "7")]


PAIRS = ["--pairs", "pairs.jsonl"]
OF_ASKING = ("prompts", "num_prompts", "near", "max_new_tokens", "temperature", "generation_seed", "allow_refusals")
OF_SERVERS = tuple(f.name for f in dataclasses.fields(ServerArguments) if f.name != "allow_refusals")
CASES = [
    *(("black_box", PAIRS, flag, ASKED) for flag in (*OF_ASKING, *OF_SERVERS)),
    *(("white_box", PAIRS, flag, ASKED) for flag in OF_ASKING),
    *((recipe, [], flag, FILES) for recipe in ("black_box", "white_box", "compare", "reasoning", "generate", "preflight") for flag in OF_FILES),
    *((recipe, [], "turns", "--pairs") for recipe in ("black_box", "white_box")),
    *((recipe, ["--student", "s"], flag, NAMED) for recipe in ("black_box", "white_box") for flag in ("layers", "strategy")),
    *(("black_box", [*PAIRS, "--student", "s"], flag, "nobody is asked") for flag in ("teacher", "teacher_bits")),
    *(("white_box", ["--objectives", "hidden"], flag, "objective logits") for flag in ("distillation_temperature", "cross_entropy", "divergence")),
    *((recipe, [], flag, "--lora_r") for recipe in ("black_box", "white_box") for flag in ("lora_alpha", "lora_dropout", "lora_targets")),
    *(("reasoning", [], flag, SERVED) for flag in OF_SERVERS),
    *(("reasoning", ["--prompts", "q", "--examples", "none"], flag, "generated questions") for flag in ("task", "task_config")),
    *(("white_box", [], flag, "--rollouts") for flag in ("rollout_tokens", "rollout_temperature", "rollout_first", "highest_kl")),
    *(("retrieval", ["--quick"], flag, "--quick sets this itself") for flag in ("facts", "wordings", "kept_prompts", "num_train_epochs")),
    *(("memorisation", ["--quick"], flag, "--quick sets this itself") for flag in ("each", "other_prompts", "samples")),
    *(("memorisation", [], flag, "how a file of pairs is read") for flag in OF_FILES),
    *(("memorisation", ["--arms", "own"], flag, "students of the teacher") for flag in ("asked", "student_epochs")),
    ("plan", ["--student", "s"], "layers", NAMED),
    ("preflight", ["--student", "s"], "layers", NAMED),
    ("plan", ["--way", "black_box"], "objectives", "a black box has none"),
    ("equivalence", ["--sections", "ladder"], "seeds", "the section sources"),
    ("equivalence", ["--sections", "law"], "student", "ladder and controls"),
    ("equivalence", ["--quick"], "seeds", "the section sources"),
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "flags", "flag", "words"), CASES, ids=[f"{one[0]}-{one[2]}" for one in CASES])
def test_a_flag_that_nothing_reads_is_refused_by_its_name(tmp_path, monkeypatch, told, recipe, flags, flag, words):
    """Before anything is loaded, asked or written."""
    monkeypatch.chdir(tmp_path)
    said = told(recipe, *flags, *value_of(flag), status=1)
    assert f"Error: --{flag}: " in said
    assert words in said
    assert "leave" in said
    assert not list(tmp_path.iterdir())


def test_who_may_read_is_a_flag_of_the_hub_alone(tmp_path, told):
    said = told("export", "pairs.jsonl", "--to", "messages", "--no_private", status=1)
    assert "Error: --no_private: only the Hub is told who may read" in said


@pytest.mark.parametrize("turns", ["all", "each"])
def test_turns_of_rows_with_token_ids_are_refused(tmp_path, turns):
    (tmp_path / "p.jsonl").write_text('{"prompt": "q", "completion": "a", "prompt_ids": [5], "completion_ids": [6]}\n')
    load_pairs(tmp_path / "p.jsonl").save_to_disk(str(tmp_path / "saved"))
    for name in ("p.jsonl", "saved"):
        assert len(load_pairs(tmp_path / name)) == 1
        with pytest.raises(ValueError, match=rf"has token ids, .* turns='{turns}' is for rows of messages"):
            load_pairs(tmp_path / name, turns=turns)


@pytest.mark.parametrize("recipe", ["black_box", "white_box", "compare"])
def test_prompts_that_cannot_be_answered_are_left_out_where_that_is_said(tmp_path, told, recipe):
    teacher = save_teacher(tmp_path / "teacher")
    prompts = (teacher / "prompts.txt").read_text()
    (tmp_path / "prompts.txt").write_text(f"{LONG}\n{prompts}")
    flags = [
        "--teacher",
        teacher,
        "--prompts",
        tmp_path / "prompts.txt",
        "--layers",
        2,
        "--max_new_tokens",
        8,
        *TRAINED,
    ]
    flags += ["--output_dir", tmp_path / "run", *(["--seeds", 1] if recipe == "compare" else [])]
    refused = told(recipe, *flags, status=1)
    assert "could not be had" in refused
    assert "--allow_refusals" in refused
    said = told(recipe, *flags, "--allow_refusals")
    assert "1 of" in said
    assert "could not be had" in said
    assert len(load_pairs(tmp_path / "run" / "pairs.jsonl")) == len(prompts.splitlines())
