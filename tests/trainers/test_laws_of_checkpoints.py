"""Laws of a run that is stopped: what its summary is a mean of, what it is refused for, and when an old checkpoint may go."""

import os
import shutil
from pathlib import Path

import pytest
from conftest import build_pairs
from resume_runs import black, white

from distill.pairs.schema import pairs_from_rows
from distill.trainers.checkpoints import RECORD_FILE, STATE_FILE, check, last_complete_checkpoint


def masked(place):
    """Pairs whose completions carry loss everywhere but at one place, which decides nothing of their length."""
    rows = build_pairs(14).to_list()
    mask = lambda ids: [int(i != place % len(ids)) for i in range(len(ids))] if len(ids) > 1 else [1]  # noqa: E731
    return pairs_from_rows([{**row, "loss_mask": mask(row["completion_ids"])} for row in rows], where="test")


@pytest.mark.parametrize("build", [black, white])
def test_train_loss_after_a_resume_is_the_mean_over_the_steps_of_that_call(arguments, tmp_path, build):
    """Logs of three steps, a stop after four: the open window belongs to the log, and not to the summary."""
    steps = build(arguments, output_dir=str(tmp_path / "whole"), max_steps=7)  # logs every step
    steps.train()
    losses = [entry["loss"] for entry in steps.state.log_history if "loss" in entry]
    assert len(losses) == 7
    first = build(arguments, halt=4, max_steps=7, logging_steps=3)
    assert first.train().training_loss == pytest.approx(sum(losses[:4]) / 4, rel=1e-4)
    second = build(arguments, max_steps=7, logging_steps=3)
    output = second.train(resume_from_checkpoint=True)
    assert output.training_loss == pytest.approx(sum(losses[4:]) / 3, rel=1e-4)
    assert output.metrics["train_loss"] == output.training_loss
    logged = [entry["loss"] for entry in second.state.log_history if "loss" in entry]
    assert logged == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:6]) / 3], rel=1e-4)


def test_another_loss_mask_is_another_run(arguments):
    """The same tokens in the same rows, of which others carry loss: also where there was no mask, or is none now."""
    black(arguments, halt=2, pairs=masked(0)).train()
    for pairs in (masked(1), build_pairs(14)):
        with pytest.raises(ValueError, match="pairs: '14 rows, sha256 [0-9a-f]{16}' there, '14 rows, sha256"):
            black(arguments, pairs=pairs).train(resume_from_checkpoint=True)
    again = black(arguments, pairs=masked(0))
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 6


@pytest.mark.parametrize("build", [black, white])
def test_a_checkpoint_is_on_the_disk_before_an_older_one_is_removed(arguments, tmp_path, monkeypatch, build):
    """Whole, by its own check, and every file of it that will be read was flushed, with the names in the folder."""
    flushed, removed, real, sync = set(), [], shutil.rmtree, os.fsync

    def fsync(number):
        sync(number)
        flushed.add(os.fstat(number).st_ino)

    def rmtree(path, *args, **kwargs):
        if Path(path).name.startswith("checkpoint-"):
            newest = last_complete_checkpoint(tmp_path / "out")
            assert newest is not None
            assert newest.name != Path(path).name
            files = [newest / name for name in (*check(newest)["files"], RECORD_FILE, STATE_FILE)]
            late = [file.name for file in (*files, newest, newest.parent) if file.stat().st_ino not in flushed]
            assert not late, f"not flushed when {Path(path).name} was removed"
            removed.append((Path(path).name, newest.name))
        real(path, *args, **kwargs)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    build(arguments, save_total_limit=1).train()
    assert removed == [("checkpoint-2", "checkpoint-4"), ("checkpoint-4", "checkpoint-6")]
