"""A training that is killed goes on as if nothing had happened."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import build_pairs
from processes import run_processes
from resume_ranks import together
from resume_runs import assert_same_end, black, log, weights, white

from distill import AttentionMaps
from distill.trainers import checkpoints
from distill.trainers.checkpoints import RECORD_FILE

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_training.py"


def test_killed_twice_both_trainers_end_as_the_unbroken_run():
    """kill -9 at a step and in the writing of a checkpoint: the script's verdict, and its exit status."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, SCRIPT, "--kills", "2"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    rows = [[c.strip() for c in line.split("|")] for line in result.stdout.splitlines() if line.startswith("| ")][1:]
    assert [[row[1], row[3], row[-2]] for row in rows] == [
        [trainer, "1", "equal, every byte"] for trainer in ("black_box", "white_box")
    ]
    assert sorted(row[4:6] for row in rows) == [["0", "1"], ["1", "0"]]


@pytest.mark.parametrize("build", [black, white])
@pytest.mark.parametrize("step", [3, 4])  # with logs every 3 steps: between two of them; and beyond the first epoch
def test_log_weights_and_optimiser_are_those_of_the_unbroken_run(arguments, tmp_path, build, step):
    settings = {"gradient_accumulation_steps": 2, "logging_steps": 3, "lr_scheduler_type": "cosine", "warmup_steps": 2}
    unbroken = build(arguments, output_dir=str(tmp_path / "whole"), max_steps=9, **settings)
    unbroken.train()
    first = build(arguments, halt=step, max_steps=9, **settings)
    first.train()
    second = build(arguments, max_steps=9, **settings)
    output = second.train(resume_from_checkpoint=True)
    assert first.state.global_step == step
    assert_same_end(unbroken, second)
    losses = [entry["loss"] for entry in unbroken.state.log_history if "loss" in entry]
    assert 0 < output.training_loss < 2 * max(losses), "the summary is of the steps of the call, as Trainer's"


def test_a_finished_run_takes_no_further_step(arguments, tmp_path):
    """Trainer alone would: its loop looks at max_steps after a step."""
    whole = white(arguments)
    whole.train()
    again = white(arguments)
    again.training_step = None  # a step would raise
    output = again.train(resume_from_checkpoint=True)
    assert output.global_step == again.state.global_step == 6
    assert all(torch.equal(tensor, weights(again)[name]) for name, tensor in weights(whole).items())


def test_settings_that_decide_nothing_may_differ(arguments, tmp_path):
    whole = black(arguments, output_dir=str(tmp_path / "whole"))
    whole.train()
    black(arguments, halt=3).train()
    shutil.move(tmp_path / "out", tmp_path / "moved")
    second = black(
        arguments, output_dir=str(tmp_path / "moved"), save_steps=5, save_total_limit=1, dataloader_num_workers=1,
        run_name="another",
    )  # fmt: skip
    second.train(resume_from_checkpoint=True)
    assert_same_end(whole, second)


def test_a_run_is_made_longer_when_that_is_said(arguments):
    black(arguments).train()
    longer = black(arguments, max_steps=8)
    longer.train(resume_from_checkpoint=True, allow_changes=["training.max_steps"])
    assert longer.state.global_step == 8
    again = black(arguments, max_steps=8)
    assert again.train(resume_from_checkpoint=True).global_step == 8, "its checkpoints are of the longer run"


def test_an_evaluation_at_the_start_is_made_once(arguments):
    more = {"eval_on_start": True, "eval_strategy": "steps", "eval_steps": 3, "eval_dataset": build_pairs(3)}
    runs = [black(arguments, halt=halt, **more) for halt in (4, None)]
    runs[0].train()
    runs[1].train(resume_from_checkpoint=True)
    steps = [entry["step"] for entry in runs[1].state.log_history if "eval_loss" in entry]
    assert steps == [0, 3, 6]
    assert runs[1].args.eval_on_start


def test_what_belongs_to_an_epochs_end_is_not_lost_at_it(arguments, tmp_path):
    """Saved by steps, evaluated and logged by epochs: a checkpoint of an epoch's last step has both; dropout goes on alike."""
    more = {
        "eval_strategy": "epoch", "logging_strategy": "epoch", "eval_dataset": build_pairs(3), "save_steps": 7, "max_steps": 12,
    }  # fmt: skip
    whole = black(arguments, output_dir=str(tmp_path / "whole"), **more)
    whole.train()
    first = black(arguments, halt=7, **more)  # 14 pairs are 7 steps
    first.train()
    second = black(arguments, **more)
    second.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-7"))
    assert_same_end(whole, second)
    assert [(e["step"], *sorted({"loss", "eval_loss"} & set(e))) for e in log(second)] == [
        (7, "loss"), (7, "eval_loss"), (12, "loss"), (12, "eval_loss"),
    ]  # fmt: skip


def test_a_second_save_of_a_step_does_not_risk_the_first(arguments, tmp_path, monkeypatch):
    """A stop at an epoch's end saves it twice, and save_total_limit=1 leaves no other; the second one breaks off here."""
    settings = {"save_strategy": "epoch", "save_total_limit": 1, "max_steps": 12}
    whole = black(arguments, output_dir=str(tmp_path / "whole"), **settings)
    whole.train()
    sealed, real = [], checkpoints.seal

    def seal(checkpoint, record):
        sealed.append(checkpoint.name)
        if len(sealed) == 2:
            raise OSError("the disk is gone")
        real(checkpoint, record)

    monkeypatch.setattr(checkpoints, "seal", seal)
    with pytest.raises(OSError, match="the disk is gone"):
        black(arguments, halt=7, **settings).train()
    assert sealed == ["checkpoint-7", "checkpoint-7"]
    again = black(arguments, **settings)
    again.train(resume_from_checkpoint=True)
    assert_same_end(whole, again)


def test_epochs_are_added_when_that_is_said(arguments):
    black(arguments, max_steps=-1, num_train_epochs=1).train()
    longer = black(arguments, max_steps=-1, num_train_epochs=1.5)
    longer.train(resume_from_checkpoint=True, allow_changes=["training.num_train_epochs"])
    assert longer.state.global_step == 11


def test_the_record_names_files_and_settings(arguments, tmp_path):
    white(arguments, halt=2).train()
    record = json.loads((tmp_path / "out" / "checkpoint-2" / RECORD_FILE).read_text())
    assert {"model.safetensors", "objectives.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"} == set(
        record["files"]
    )
    assert record["settings"]["objectives"]["hidden"]["weight"] == 0.5
    assert record["environment"]["threads"] == torch.get_num_threads()


def test_a_relations_objective_is_described(arguments, tmp_path):
    white(arguments, [AttentionMaps(relations=("query", "key"))], halt=2).train()
    record = json.loads((tmp_path / "out" / "checkpoint-2" / RECORD_FILE).read_text())
    assert record["settings"]["objectives"]["attention"]["relations"] == ["query", "key"]


def test_processes_go_on_together_and_are_refused_together(tmp_path):
    """Two processes: the bits of the unbroken run; and a refusal reaches both, so that none waits for the other."""
    assert run_processes(2, together, tmp_path) == ["all as it should be"] * 2
