"""Held-out loss over tokens, and stopping by it: the best student is kept, and a rerun does not train on."""

import json
import re
import shutil

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from transformers import AutoModelForCausalLM, EarlyStoppingCallback, TrainerCallback

from distill import BlackBoxTrainer
from distill.pairs.collate import PairCollator
from distill.running.folder import train_or_resume
from distill.running.tuning import TuningArguments, stop_early, tuning_of
from recipes import black_box


def build(training, callbacks=(), **changes):
    return BlackBoxTrainer(
        model=build_model(), args=training, train_dataset=build_pairs(16), eval_dataset=build_pairs(7, seed=1),
        processing_class=build_tokenizer(), callbacks=list(callbacks), **changes,
    )  # fmt: skip


def test_held_out_loss_does_not_depend_on_the_batch_size(arguments):
    """Trainer's own is a mean of batch means; ours is the sum over tokens divided by the tokens, written out here."""
    model, tokenizer = build_model(), build_tokenizer()
    total = tokens = 0.0
    for pair in build_pairs(7, seed=1):
        batch = PairCollator(tokenizer)([pair])
        log_p = model(batch["input_ids"]).logits[0, :-1].detach().log_softmax(-1)
        labels = batch["labels"][0, 1:]
        total -= float(log_p[labels >= 0, labels[labels >= 0]].sum())
        tokens += int((labels >= 0).sum())
    for size in (1, 2, 3, 7):
        found = build(arguments(per_device_eval_batch_size=size)).evaluate()["eval_loss"]
        assert found == pytest.approx(total / tokens, rel=1e-5)


def stopping(arguments, patience=2, callbacks=(), **changes):
    training = arguments(
        max_steps=40, learning_rate=0.3, eval_strategy="steps", eval_steps=2, save_total_limit=1, **changes
    )
    stop_early(training, patience)
    return build(training, [EarlyStoppingCallback(patience), *callbacks])


def losses(trainer):
    return {e["step"]: e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e}


class Interrupt(TrainerCallback):
    """As Ctrl-C after the evaluation of a step, once it is saved."""

    def __init__(self, step):
        self.step = step

    def on_save(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def test_it_stops_keeps_the_best_and_a_rerun_does_not_train(arguments):
    trainer = stopping(arguments)
    train_or_resume(trainer)
    seen = losses(trainer)
    best = min(seen, key=seen.get)
    assert max(seen) == best + 4 < 40  # two evaluations without a better loss
    assert trainer.evaluate()["eval_loss"] == pytest.approx(seen[best], rel=1e-6)

    again = stopping(arguments)
    again.training_step = None  # a step would raise
    train_or_resume(again)
    assert again.state.global_step == max(seen)
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), trainer.model.parameters(), strict=True))


def test_a_resumed_run_stops_where_the_unbroken_one_does(arguments, tmp_path):
    """The count of evaluations without a better loss is resumed as well."""
    whole = stopping(arguments)
    train_or_resume(whole)
    seen = losses(whole)
    after_one_bad = min(seen, key=seen.get) + 2
    shutil.rmtree(tmp_path / "out")
    first = stopping(arguments, callbacks=[Interrupt(after_one_bad)])
    train_or_resume(first)
    assert first.state.global_step == after_one_bad < max(seen)
    again = stopping(arguments)
    train_or_resume(again)
    assert losses(again) == seen
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), whole.model.parameters(), strict=True))


def test_the_flags_set_trainers_switches_coherently(arguments):
    training = arguments()
    settings, callbacks = tuning_of(TuningArguments(early_stopping_patience=3, packing=True), training)
    assert (training.eval_strategy, training.save_strategy) == ("epoch", "epoch")
    assert training.load_best_model_at_end
    assert (training.metric_for_best_model, training.greater_is_better) == ("eval_loss", False)
    assert settings == {"packing": True, "peft_config": None}
    assert callbacks[0].early_stopping_patience == 3
    by_steps = arguments(eval_strategy="steps", eval_steps=7, save_steps=500)
    stop_early(by_steps, 1)
    assert (by_steps.save_strategy, by_steps.save_steps) == ("steps", 7)
    with pytest.raises(ValueError, match="early_stopping_patience is 0"):
        stop_early(arguments(), 0)
    with pytest.raises(ValueError, match="give --student and train an adapter"):
        tuning_of(TuningArguments(load_in_4bit=True), arguments())


def test_the_recipe_from_its_flags(tmp_path, capsys):
    """A packed adapter run on conversations that stops early: the student loads anywhere, and a rerun only says so again."""
    build_model().save_pretrained(tmp_path / "base")
    build_tokenizer().save_pretrained(tmp_path / "base")
    words = ["the cat", "a dog", "why so", "what is", "colour", "ran on", "sat", "and so", "is it", "no"]
    rows = [
        [{"role": role, "content": f"{word} {i}"} for i, role in enumerate(["user", "assistant"] * 2)] for word in words
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"messages": row}) for row in rows))
    flags = [
        *f"--pairs {tmp_path}/rows.jsonl --student {tmp_path}/base --output_dir {tmp_path}/run --turns all".split(),
        *[
            "--lora_r",
            "2",
            "--packing",
            "--max_length",
            "96",
            "--held_out",
            "3",
            "--early_stopping_patience",
            "2",
            "--num_train_epochs",
            "30",
        ],
        *[
            "--learning_rate",
            "0.5",
            "--per_device_train_batch_size",
            "1",
            "--bf16",
            "False",
            "--disable_tqdm",
            "True",
            "--use_cpu",
            "True",
        ],
    ]
    black_box.main(flags)
    said = capsys.readouterr().out
    state = json.loads(
        max((tmp_path / "run").glob("checkpoint-*"), key=_step).joinpath("trainer_state.json").read_text()
    )
    assert state["global_step"] < state["max_steps"]
    shown = re.findall(r"'eval_loss': ([0-9.]+)", said)
    assert float(shown[-1]) == pytest.approx(state["best_metric"], rel=1e-4)
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "student")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    changed = [n for n, p in student.named_parameters() if not torch.equal(p, base.get_parameter(n))]
    assert changed
    assert all("proj" in name for name in changed)
    assert (tmp_path / "run" / "student" / "adapter" / "adapter_config.json").is_file()
    kept = {p.name: p.read_bytes() for p in (tmp_path / "run" / "student").glob("*.safetensors")}
    black_box.main(flags)
    assert kept == {p.name: p.read_bytes() for p in (tmp_path / "run" / "student").glob("*.safetensors")}
    assert "'loss'" not in capsys.readouterr().out  # no step was taken


def _step(checkpoint):
    return int(checkpoint.name.removeprefix("checkpoint-"))
