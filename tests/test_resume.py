"""A training that is killed goes on as if nothing had happened, and what cannot be resumed is refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from filelock import FileLock
from peft import LoraConfig
from transformers import TrainerCallback

from distill import AttentionMaps, BlackBoxTrainer, HiddenStates, Logits, WhiteBoxTrainer
from distill.checkpoints import LOCK_FILE, RECORD_FILE, last_complete_checkpoint
from distill.objectives import Schedule
from distill.runs import RunFolder, train_or_resume

SCRIPT = Path(__file__).parent.parent / "scripts" / "kill_training.py"
TIMES = ("_runtime", "_per_second")


class Halt(TrainerCallback):
    """Save and stop at a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


def black(arguments, halt=None, pairs=None, model=None, **changes):
    own = {
        name: changes.pop(name) for name in ("max_length", "packing", "peft_config", "eval_dataset") if name in changes
    }
    return BlackBoxTrainer(
        model=model or build_model(seed=7, attention_dropout=0.1),
        args=arguments(**{"save_strategy": "steps", "save_steps": 2, "max_steps": 6, **changes}),
        train_dataset=pairs or build_pairs(14),
        processing_class=build_tokenizer(),
        callbacks=[Halt(halt)] if halt else None,
        **own,
    )


def white(arguments, objectives=None, teacher=None, halt=None, **changes):
    return WhiteBoxTrainer(
        model=build_model(hidden_size=16, num_attention_heads=2, seed=7, attention_dropout=0.1),
        teacher=teacher or build_model(layers=3, seed=1),
        objectives=objectives or [Logits(weight=Schedule(1.0, 0.2)), HiddenStates(weight=0.5)],
        args=arguments(**{"save_strategy": "steps", "save_steps": 2, "max_steps": 6, **changes}),
        train_dataset=build_pairs(14),
        processing_class=build_tokenizer(),
        callbacks=[Halt(halt)] if halt else None,
    )


def log(trainer):
    """What was logged, but for times and the summary of a call."""
    return [
        {name: value for name, value in entry.items() if not name.endswith(TIMES)}
        for entry in trainer.state.log_history
        if "train_runtime" not in entry
    ]


def weights(trainer):
    own = trainer._learned.state_dict() if isinstance(trainer, WhiteBoxTrainer) else {}
    return {**trainer.model.state_dict(), **own}


def assert_same_end(one, other):
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    states = [run.optimizer.state_dict()["state"] for run in (one, other)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][i][name], states[1][i][name]) for i in states[0] for name in states[0][i])
    assert log(one) == log(other)


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
        ({"dataloader_drop_last": True}, "training.dataloader_drop_last: False there, True now"),
    ],
)  # fmt: skip
def test_other_settings_are_refused_by_name(arguments, change, named):
    black(arguments, halt=2).train()
    with pytest.raises(ValueError, match=f"(?s)is of a run with other settings .*{named}"):
        black(arguments, **change).train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"objectives": [Logits(weight=Schedule(1.0, 0.3)), HiddenStates(weight=0.5)]}, "logits.weight.end: 0.2 there, 0.3"),
        ({"objectives": [Logits(weight=Schedule(1.0, 0.2))]}, "objectives.hidden.kind: 'HiddenStates' there, None now"),
        (
            {"objectives": [Logits("reverse_kl", temperature=2.0, weight=Schedule(1.0, 0.2)), HiddenStates(weight=0.5)]},
            r"temperature: 1.0 there, 2.0 now.*divergence: \['forward_kl', {}\] there, \['reverse_kl', {}\] now",
        ),
        (
            {"objectives": [Logits(weight=Schedule(1.0, 0.2)), HiddenStates("last", weight=0.5)]},
            r"objectives.hidden.layers: 'auto' there, 'last' now.*hidden.pairs: \[\[0, 1\], \[1, 2\]\] there, \[\[1, 2\]\] now",
        ),
        ({"teacher": build_model(layers=3, seed=2)}, "teacher: 'LlamaForCausalLM of 3 layers.*weights [0-9a-f]{16}' there"),
    ],
)  # fmt: skip
def test_other_objectives_and_teachers_are_refused_by_name(arguments, change, named):
    white(arguments, halt=2).train()
    with pytest.raises(ValueError, match=f"(?s)is of a run with other settings .*{named}"):
        white(arguments, **change).train(resume_from_checkpoint=True)


def test_the_other_trainer_is_refused(arguments):
    black(arguments, halt=2).train()
    with pytest.raises(ValueError, match="trainer: 'BlackBoxTrainer' there, 'WhiteBoxTrainer' now"):
        white(arguments).train(resume_from_checkpoint=True)


def test_another_base_under_an_adapter_is_refused(arguments):
    """A checkpoint holds the adapter alone, so the base has to be the same one."""
    adapter = {"peft_config": LoraConfig(r=2, target_modules="all-linear")}
    black(arguments, halt=2, **adapter).train()
    with pytest.raises(ValueError, match="student.base: 'weights [0-9a-f]{16}' there"):
        black(arguments, model=build_model(seed=8, attention_dropout=0.1), **adapter).train(resume_from_checkpoint=True)


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


def test_epochs_are_added_when_that_is_said(arguments):
    black(arguments, max_steps=-1, num_train_epochs=1).train()
    longer = black(arguments, max_steps=-1, num_train_epochs=1.5)
    longer.train(resume_from_checkpoint=True, allow_changes=["training.num_train_epochs"])
    assert longer.state.global_step == 11


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
