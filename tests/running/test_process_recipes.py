"""Recipes in two processes: the first generates, speaks and saves, and the result is that of one process."""

import pytest
import torch
from conftest import build_model, save_teacher
from process_runs import recipe
from processes import run_processes
from transformers import AutoModelForCausalLM

FSDP = ["--fsdp", "--fsdp_config", '{"version": 2}']


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("teacher"))


def flags(teacher, folder, batch):
    return [
        *f"--teacher {teacher} --prompts {teacher}/prompts.txt --output_dir {folder} --layers 2 --strategy even".split(),
        *f"--max_new_tokens 8 --held_out 3 --per_device_train_batch_size {batch} --bf16 False --disable_tqdm True".split(),
        *["--adam_epsilon", "1e-4", "--learning_rate", "5e-3", "--max_steps", "4", "--logging_steps", "1"],
    ]


def student(folder):
    return AutoModelForCausalLM.from_pretrained(folder / "student").state_dict()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("black_box", []),
        ("white_box", ["--objectives", "logits,hidden=0.1", "--shard_teacher"]),
        ("white_box", ["--objectives", "logits,hidden=0.1", "--shard_teacher", *FSDP]),
    ],
    ids=["black box", "white box, sharded teacher", "white box, fsdp2"],
)
def test_two_processes_end_as_one(teacher, tmp_path, name, more):
    alone = [flag for flag in more if flag != "--shard_teacher" and flag not in FSDP]
    recipe_alone = [*flags(teacher, tmp_path / "alone", 4), *alone]
    assert run_processes(1, recipe, name, recipe_alone, str(tmp_path / "one")) == [0]
    together = [*flags(teacher, tmp_path / "together", 2), *more]
    assert run_processes(2, recipe, name, together, str(tmp_path / "two")) == [0, 0]
    wanted, found = student(tmp_path / "alone"), student(tmp_path / "together")
    assert max((wanted[key] - found[key]).abs().max().item() for key in wanted) < 1e-5
    assert not torch.equal(wanted["lm_head.weight"], build_model(layers=4).lm_head.weight)
    first, second = ((tmp_path / f"two{rank}").read_text() for rank in (0, 1))
    assert "The student is in" in first
    assert "student" not in second
    assert "Preflight" not in second
    # the same command finds everything finished
    assert run_processes(2, recipe, name, together, str(tmp_path / "again")) == [0, 0]
    assert "Continuing the run" in (tmp_path / "again0").read_text()


def test_a_mistake_is_told_once_and_by_the_first(teacher, tmp_path):
    wrong = [*flags(teacher, tmp_path / "run", 2), "--objectives", "logits,nothing"]
    assert run_processes(2, recipe, "white_box", wrong, str(tmp_path / "said")) == [1, 1]
    assert "must list some of logits, hidden, attention" in (tmp_path / "said0").read_text()


def test_other_recipes_say_that_they_run_in_one_process(tmp_path):
    assert run_processes(2, recipe, "compare", ["--output_dir", str(tmp_path)], str(tmp_path / "said")) == [1, 1]
    assert "This recipe runs in one process, and there are 2" in (tmp_path / "said0").read_text()
