"""A checkpoint of another run is refused by the settings that differ; an output folder belongs to one training at a time."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import build_model, build_pairs
from filelock import FileLock
from peft import LoraConfig
from resume_runs import black, white
from transformers import TrainerCallback

from distill import HiddenStates, Logits
from distill.objectives import Schedule
from distill.running.folder import RunFolder, train_or_resume
from distill.trainers.checkpoints import LOCK_FILE, RECORD_FILE, last_complete_checkpoint


@pytest.fixture(scope="module")
def folders():
    return {}


@pytest.fixture
def stopped(arguments, folders, tmp_path_factory):
    """The output folder of a run that was stopped after two steps; one for all tests of this file."""

    def run(build):
        if build not in folders:
            folders[build] = str(tmp_path_factory.mktemp("stopped"))
            build(arguments, halt=2, output_dir=folders[build]).train()
        return folders[build]

    return run


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 0.5}, r"training.learning_rate: 0.01 there, 0.5 now"),
        ({"gradient_accumulation_steps": 2}, "training.gradient_accumulation_steps: 1 there, 2 now"),
        ({"max_steps": 12}, r"training.max_steps: 6 there, 12 now.*allow_changes=\['training.max_steps'\]"),
        ({"seed": 4}, "training.seed: 3 there, 4 now.*order_seed: 3 there, 4 now"),
        ({"max_length": 20}, "max_length: None there, 20 now"),
        ({"max_length": 40, "packing": True}, "packing: False there, True now"),
        ({"pairs": build_pairs(14, seed=1)}, "pairs: '14 rows, sha256 [0-9a-f]{16}' there, '14 rows, sha256"),
        ({"pairs": build_pairs(14).select(list(range(13, -1, -1)))}, "pairs: '14 rows"),
        ({"pairs": build_pairs(13)}, "pairs: '14 rows, sha256 [0-9a-f]{16}' there, '13 rows"),
        ({"peft_config": LoraConfig(r=2, target_modules="all-linear")}, "student.adapter.default.r: None there, 2 now"),
        ({"model": build_model(seed=7)}, "student.config.attention_dropout: 0.1 there, 0.0 now"),
        ({"model": build_model(seed=99, attention_dropout=0.1)}, "student.weights: '21 trained tensors, at the start .*' there"),
        ({"dataloader_drop_last": True}, "training.dataloader_drop_last: False there, True now"),
    ],
)  # fmt: skip
def test_other_settings_are_refused_by_name(arguments, stopped, change, named):
    with pytest.raises(ValueError, match=f"(?s)is of a run with other settings .*{named}"):
        black(arguments, output_dir=stopped(black), **change).train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"objectives": [Logits(weight=Schedule(1.0, 0.3)), HiddenStates(weight=0.5)]}, "logits.weight.end: 0.2 there, 0.3"),
        ({"objectives": [Logits(weight=Schedule(1.0, 0.2))]}, "objectives.hidden.kind: 'HiddenStates' there, None now"),
        (
            {"objectives": [Logits("reverse_kl", temperature=2.0, weight=Schedule(1.0, 0.2)), HiddenStates(weight=0.5)]},
            "divergence: 'forward_kl' there, 'reverse_kl' now.*temperature: 1.0 there, 2.0 now",
        ),
        (
            {"objectives": [Logits(weight=Schedule(1.0, 0.2)), HiddenStates("last", weight=0.5)]},
            r"objectives.hidden.layers: 'auto' there, 'last' now.*hidden.pairs: \[\[0, 1\], \[1, 2\]\] there, \[\[1, 2\]\] now",
        ),
        ({"teacher": build_model(layers=3, seed=2)}, "teacher: 'LlamaForCausalLM of 3 layers.*weights [0-9a-f]{16}, config [0-9a-f]{16}' there"),
    ],
)  # fmt: skip
def test_other_objectives_and_teachers_are_refused_by_name(arguments, stopped, change, named):
    with pytest.raises(ValueError, match=f"(?s)is of a run with other settings .*{named}"):
        white(arguments, output_dir=stopped(white), **change).train(resume_from_checkpoint=True)


def test_a_checkpoint_of_before_says_less_of_its_teacher(arguments, stopped, tmp_path):
    """Without a word of the teacher's config it is gone on from; with other weights it is not."""
    folder = tmp_path / "run"
    shutil.copytree(stopped(white), folder)
    path = Path(last_complete_checkpoint(folder)) / RECORD_FILE
    record = json.loads(path.read_text())
    word = record["settings"]["teacher"].partition(", config ")[0]
    assert word != record["settings"]["teacher"]
    record["settings"]["teacher"] = word
    path.write_text(json.dumps(record))
    white(arguments, output_dir=str(folder)).train(resume_from_checkpoint=True)
    record["settings"]["teacher"] = word[:-1] + ("0" if word[-1] != "0" else "1")
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="is of a run with other settings .*teacher: "):
        white(arguments, output_dir=str(folder)).train(resume_from_checkpoint=str(path.parent))


def test_the_other_trainer_is_refused(arguments, stopped):
    with pytest.raises(ValueError, match="trainer: 'BlackBoxTrainer' there, 'WhiteBoxTrainer' now"):
        white(arguments, output_dir=stopped(black)).train(resume_from_checkpoint=True)


def test_another_base_under_an_adapter_is_refused(arguments):
    """A checkpoint holds the adapter alone, so the base has to be the same one."""
    adapter = {"peft_config": LoraConfig(r=2, target_modules="all-linear")}
    black(arguments, halt=2, **adapter).train()
    with pytest.raises(ValueError, match="student.base: 'weights [0-9a-f]{16}' there"):
        black(arguments, model=build_model(seed=8, attention_dropout=0.1), **adapter).train(resume_from_checkpoint=True)


def test_a_folder_is_trained_into_by_one_run_at_a_time(arguments, tmp_path):
    trainer = black(arguments)
    with FileLock(tmp_path / "out" / LOCK_FILE), pytest.raises(ValueError, match="is in use: another training"):
        trainer.train()
    trainer.train()
    black(arguments, output_dir=str(tmp_path / "elsewhere")).train()


def test_two_trainings_of_one_process_share_no_folder(arguments):
    class Second(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            with pytest.raises(ValueError, match="is in use: another training"):
                black(arguments).train()
            control.should_training_stop = True

    trainer = black(arguments)
    trainer.add_callback(Second())
    trainer.train()
    assert trainer.state.global_step == 1


def test_a_recipe_holds_its_folder_and_trains_into_it(arguments, tmp_path):
    """Its own lock and the trainer's are two; and what a trainer left is no foreign file."""
    run = RunFolder(tmp_path / "out", {"a": 1})
    train_or_resume(black(arguments))
    assert last_complete_checkpoint(run.path) == run / "checkpoint-6"
    again = black(arguments)
    again.training_step = None
    train_or_resume(again)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / LOCK_FILE).touch()
    RunFolder(tmp_path / "new", {"a": 1})
