"""Laws of a recipe's beginning: which of three values of a flag wins, and how much room its checkpoints need."""

import json
import shutil
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from conftest import build_model
from resume_runs import black

from distill.running import folder
from distill.running.flags import BlackBoxArguments, parse, settings_of
from distill.running.folder import RunFolder


@dataclass
class Flags:
    size: int = 1


@pytest.mark.parametrize("file", [None, 3])
@pytest.mark.parametrize("flag", [None, 4])
@pytest.mark.parametrize("recipe", [None, 2])
def test_a_flag_wins_over_the_file_and_the_file_over_the_recipe(tmp_path, file, flag, recipe):
    (tmp_path / "c.yaml").write_text(f"size: {file}" if file else "")
    argv = ["--config", str(tmp_path / "c.yaml"), *(["--size", str(flag)] if flag else [])]
    (found,) = parse((Flags,), argv, defaults={"size": recipe} if recipe else {}, description=None)
    assert found.size == (flag or file or recipe or 1)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_run_needs_room_for_two_checkpoints_of_weights_and_both_averages(arguments, monkeypatch, missing):
    """What AdamW keeps of every weight, twice: the older one goes when the newer is whole. Asked before the first step."""
    size = sum(p.numel() * p.element_size() for p in build_model().parameters())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2 * 3 * size - missing))
    run = black(arguments, max_steps=1)
    if missing:
        run.training_step = None  # a step would raise something else
        with pytest.raises(OSError, match="checkpoints of this run need"):
            folder.train_or_resume(run)
    else:
        folder.train_or_resume(run)
        assert run.state.global_step == 1


def test_another_address_of_a_server_is_the_same_run(arguments, tmp_path):
    """A server is started anew on another port. Earlier versions wrote the address down."""

    def settings(teacher):
        return settings_of(BlackBoxArguments(teacher=teacher, student="s", prompts="p"), arguments())

    for old in (False, True):
        path = tmp_path / str(old)
        there = settings("http://one:8000/v1")
        assert "8000" not in json.dumps(there, default=str)
        RunFolder(path, {**there, **({"teacher": "http://one:8000/v1"} if old else {})})
        with pytest.raises(ValueError, match="holds another run .teacher: None there, 'smollm2-135m' now"):
            RunFolder(path, settings("smollm2-135m"))
        RunFolder(path, settings("http://two:9000/v1,http://three:9000/v1"))
