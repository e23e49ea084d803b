"""Which checkpoint a run goes on from, and what is refused in one sentence."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint
from conftest import build_model, build_pairs, build_tokenizer
from peft import LoraConfig

from distill import BlackBoxTrainer
from distill.trainers.checkpoints import RECORD_FILE, begin, check, last_complete_checkpoint, tidy
from distill.trainers.pickles import check_file


class Bomb:
    """What a pickle can do."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.fixture
def build(arguments):
    def make(**changes):
        own = {name: changes.pop(name) for name in ("peft_config",) if name in changes}
        return BlackBoxTrainer(
            model=build_model(seed=7),
            args=arguments(**{"save_strategy": "steps", "save_steps": 2, **changes}),
            train_dataset=build_pairs(8),
            processing_class=build_tokenizer(),
            **own,
        )

    return make


@pytest.fixture
def folder(build, tmp_path, tmp_path_factory, trained):
    """Of a run with checkpoints 2 and 4."""
    if not trained:
        build().train()
        trained.append(shutil.copytree(tmp_path / "out", tmp_path_factory.mktemp("kept") / "out"))
    return shutil.copytree(trained[0], tmp_path / "out", dirs_exist_ok=True)


@pytest.fixture(scope="module")
def trained():
    """Where the first of these tests left it."""
    return []


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_the_last_complete_one_is_taken(folder):
    assert last_complete_checkpoint(folder) == folder / "checkpoint-4"
    (folder / "checkpoint-4" / "trainer_state.json").unlink()
    assert last_complete_checkpoint(folder) == folder / "checkpoint-2"
    cut(folder / "checkpoint-2" / "trainer_state.json")
    assert last_complete_checkpoint(folder) is None


def test_the_step_is_a_number(folder):
    """checkpoint-10 comes after checkpoint-4, and a copy under another name is of another step."""
    shutil.copytree(folder / "checkpoint-4", folder / "checkpoint-10")
    assert last_complete_checkpoint(folder) == folder / "checkpoint-4"
    state = folder / "checkpoint-10" / "trainer_state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "global_step": 10}))
    assert last_complete_checkpoint(folder) == folder / "checkpoint-10"


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "of zeros"])
def test_a_damaged_file_is_named(build, folder, name, damage):
    """By a path it is refused; by True the checkpoint before is taken, with a warning."""
    path = folder / "checkpoint-4" / name
    size = path.stat().st_size
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        cut(path)
    else:
        path.write_bytes(bytes(size))
    words = {
        "missing": f"{name} is missing",
        "truncated": f"{name} has {size // 2} bytes in place of {size}",
        "of zeros": f"{name} is damaged",
    }
    with pytest.raises(ValueError, match=words[damage]):
        build().train(resume_from_checkpoint=str(folder / "checkpoint-4"))
    whole, trainer = build(output_dir=str(folder.parent / "whole")), build()
    whole.train()
    trainer.train(resume_from_checkpoint=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), trainer.model.parameters(), strict=True))
    check(folder / "checkpoint-4")


@pytest.mark.parametrize("name", ["trainer_state.json", RECORD_FILE])
def test_a_half_written_checkpoint_is_refused(build, folder, name):
    (folder / "checkpoint-4" / name).unlink()
    with pytest.raises(ValueError, match=name):
        build().train(resume_from_checkpoint=str(folder / "checkpoint-4"))


def test_nothing_to_resume(build, tmp_path, folder):
    with pytest.raises(ValueError, match="There is no checkpoint"):
        build().train(resume_from_checkpoint=str(folder / "checkpoint-3"))
    with pytest.raises(ValueError, match="nothing to resume: .* has no complete checkpoint.$"):
        build(output_dir=str(tmp_path / "empty")).train(resume_from_checkpoint=True)
    for step in (2, 4):
        (folder / f"checkpoint-{step}" / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match="the newest: .*checkpoint-4 is not whole: optimizer.pt is missing"):
        build().train(resume_from_checkpoint=True)


def test_a_model_alone_cannot_be_resumed(build, tmp_path):
    """Trainer would go on with a fresh optimiser, and say nothing."""
    build(save_only_model=True).train()
    with pytest.raises(ValueError, match="without the state of its optimiser"):
        build().train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    tidy(tmp_path / "out")
    assert (tmp_path / "out" / "checkpoint-4" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "default/adapter_model.bin"])
def test_weights_in_a_pickle_are_refused(build, folder, name, tmp_path):
    checkpoint = folder / "checkpoint-4"
    (checkpoint / name).parent.mkdir(exist_ok=True)
    (checkpoint / name).write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="is a pickle, which may run any code"):
        build().train(resume_from_checkpoint=str(checkpoint))
    build().train(resume_from_checkpoint=True)
    assert not (tmp_path / "boom").exists()


def test_an_adapter_in_a_pickle_is_refused(build, tmp_path):
    adapter = {"peft_config": LoraConfig(r=2, target_modules="all-linear")}
    build(**adapter).train()
    checkpoint = tmp_path / "out" / "checkpoint-4"
    (checkpoint / "adapter_model.safetensors").rename(checkpoint / "adapter_model.bin")
    with pytest.raises(ValueError, match="adapter_model.bin is a pickle"):
        build(**adapter).train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_that_runs_code_does_not_run(build, folder, name, tmp_path):
    """Under a name that is taken, and listed with its size, as somebody would who means it."""
    path = folder / "checkpoint-4" / name
    torch.save(Bomb(tmp_path / "boom"), path)
    record = folder / "checkpoint-4" / RECORD_FILE
    listed = json.loads(record.read_text())
    listed["files"][name] = path.stat().st_size
    record.write_text(json.dumps(listed))
    with pytest.raises(ValueError, match=f"{name} is damaged or does not hold"):
        build().train(resume_from_checkpoint=str(folder / "checkpoint-4"))
    assert not (tmp_path / "boom").exists()


def test_the_index_of_a_sharded_checkpoint_is_read_first(tmp_path):
    """torch unpickles it without any limit."""
    torch.distributed.checkpoint.save(
        {"a": torch.arange(3.0, dtype=torch.bfloat16), "b": 1}, checkpoint_id=tmp_path, no_dist=True
    )
    check_file(tmp_path / ".metadata")
    for evil in (Bomb(tmp_path / "boom"), Path, torch.load):
        (tmp_path / ".metadata").write_bytes(pickle.dumps(evil))
        if evil is Path:
            check_file(tmp_path / ".metadata")
            continue
        with pytest.raises(
            ValueError, match=r"\.metadata is damaged or does not hold .*it names (posix.mkdir|torch.*load)"
        ):
            check_file(tmp_path / ".metadata")
    assert not (tmp_path / "boom").exists()
    cut(tmp_path / ".metadata")
    with pytest.raises(ValueError, match=r"\.metadata is damaged"):
        check_file(tmp_path / ".metadata")


def test_what_a_kill_left_is_tidied(folder):
    """A begun checkpoint goes, and the complete one that was put aside for it comes back; what is not ours stays."""
    begin(folder / "checkpoint-4")
    (folder / "checkpoint-4" / "model.safetensors").write_bytes(b"half")
    begin(folder / "checkpoint-6")
    (folder / "checkpoint-mine").mkdir()
    assert last_complete_checkpoint(folder) == folder / "checkpoint-2"
    tidy(folder)
    assert sorted(path.name for path in folder.glob("*checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-4",
        "checkpoint-mine",
    ]
    assert last_complete_checkpoint(folder) == folder / "checkpoint-4"
    check(folder / "checkpoint-4")


def test_nothing_of_an_older_checkpoint_stays_in_a_new_one(build, folder):
    """Trainer would load the old model's weights beside the new adapter's."""
    (folder / "checkpoint-2" / "pytorch_model.bin").touch()
    build(peft_config=LoraConfig(r=2, target_modules="all-linear")).train()
    assert not (folder / "checkpoint-2" / "model.safetensors").exists()
    assert not list(folder.glob(".checkpoint*"))
    check(folder / "checkpoint-2")


def test_older_ones_go_when_the_new_one_is_written(build, tmp_path):
    build(save_steps=1, save_total_limit=2).train()
    assert sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


def test_a_checkpoint_of_a_newer_version(folder):
    record = folder / "checkpoint-4" / RECORD_FILE
    record.write_text(json.dumps({**json.loads(record.read_text()), "format": 99}))
    with pytest.raises(ValueError, match="written by a newer version"):
        check(folder / "checkpoint-4")


@pytest.mark.parametrize("part", ["files", "settings", "window"])
def test_a_record_that_was_changed_is_refused(folder, part):
    record = folder / "checkpoint-4" / RECORD_FILE
    record.write_text(json.dumps({**json.loads(record.read_text()), part: {}}))
    with pytest.raises(ValueError, match=rf"has been changed since it was written \({part} missing or empty\)"):
        check(folder / "checkpoint-4")
