"""What the tests of several processes run in each of them; see `processes.run_processes`."""

import importlib
import os
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from functools import partial

import torch
from conftest import build_arguments, build_model, build_pairs, build_tokenizer, family
from torch.distributed.tensor.debug import CommDebugMode
from transformers import Gemma2ForCausalLM, TrainerCallback
from white_box_runs import OBJECTIVES, black_box_trainer, gradient_of_one_step, trainer, weights_of

from distill import HiddenStates, Logits, Schedule
from distill.models.adapters import lora_config, merged
from distill.objectives import streamed_next_token as next_token
from distill.pairs.collate import PairCollator
from distill.running.folder import one_sentence, train_or_resume
from distill.signals import Mixture, Routed, capture
from distill.teachers import LocalTeacher
from distill.trainers.fsdp import whole_student

FSDP = {"fsdp": True, "fsdp_config": {"version": 2}}
WIDER = {"hidden_size": 48, "intermediate_size": 64}
# the black box, every white-box objective, and one with a learned projection, which no wrapper synchronises
CASES = {
    "black_box": None, **OBJECTIVES, "projection": lambda: [Logits(), HiddenStates(layers="last", weight=0.5)],
    "shown": lambda: [Logits(), HiddenStates(weight=0.5)], "stored": lambda: [Logits()], "drawn": lambda: [Logits()],
    "routed": lambda: [Logits(), HiddenStates(weight=0.5)], "routed projection": lambda: [HiddenStates(layers="last")],
    "mixed": lambda: [Logits()],
}  # fmt: skip


def in_folder(function):
    """`function(arguments)` with a builder of TrainingArguments in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return function(lambda **changes: build_arguments(folder, **changes))


def gradients(splits):
    """The gradient of one step for each case in `CASES` and each split: (keywords, left padding, number of rows)."""
    return {
        (name, number): in_folder(lambda arguments, name=name, split=split: _gradient(arguments, name, *split))
        for name in CASES
        for number, split in enumerate(splits)
        if not ("projection" in name and "fsdp" in split[0])  # refused
    }


def _gradient(arguments, name, split, left, rows):
    collator = PairCollator(build_tokenizer(), padding_side="left") if left else None
    objectives = CASES[name]() if CASES[name] else None
    with tempfile.TemporaryDirectory() as folder:
        more = {"pairs": build_pairs(rows), **_teacher_and_pairs(name, build_pairs(rows), folder)}
        return gradient_of_one_step(arguments, objectives, collator=collator, **more, **split)


def _teacher_and_pairs(name, pairs, folder):
    """Where it is another teacher than the usual one, or it is shown something else."""
    if name == "projection":
        return {"teacher": build_model(seed=1, **WIDER)}
    if name == "shown":  # every second pair
        shown = [[11, 12, 13, *ids] if i % 2 else None for i, ids in enumerate(pairs["prompt_ids"])]
        return {"pairs": pairs.add_column("teacher_prompt_ids", shown)}
    if name in ("stored", "drawn"):
        teacher, encoding = (
            LocalTeacher(build_model(seed=1), build_tokenizer()),
            {"stored": "hidden", "drawn": "draws:16"},
        )
        return {"teacher": capture(teacher, pairs, output=folder, encoding=encoding[name], progress=False)}
    if name.startswith("routed"):  # the rows of one are in one process only
        domains = ["chat" if i == 1 else "maths" for i in range(len(pairs))]
        others = {
            "chat": build_model(3, seed=2, **(WIDER if "projection" in name else {})),
            "maths": build_model(seed=1, **WIDER),
        }
        others |= {} if "projection" in name else {"maths": build_model(seed=1)}
        return {"pairs": pairs.add_column("domain", domains), "teacher": Routed(others, column="domain")}
    return {"teacher": Mixture([build_model(seed=1), build_model(3, seed=2, **WIDER)])} if name == "mixed" else {}


def gradients_with(settings):
    """Of teachers that are divided over the processes (if `settings` say so), and of one that is the student without its adapter."""
    shared = {"shard_teacher": settings.pop("shard_teacher", False)}
    cases = {
        "untied": {"teacher": build_model(3, seed=1), **shared},
        "tied": {"teacher": build_model(3, seed=1, tie_word_embeddings=True), **shared},
        "own logits": {"teacher": family("gemma2"), **shared},
        # three steps, because a fresh adapter is at 0 from its teacher
        "self": {"teacher": "self", "peft_config": lora_config(4), "max_steps": 3, "learning_rate": 0.3},
    }
    return {name: in_folder(partial(_gradient_of_all, {**case, **settings})) for name, case in cases.items()}


def _gradient_of_all(settings, arguments):
    objectives = [Logits(cross_entropy=0.5)] if settings["teacher"] == "self" else OBJECTIVES["all"]()
    if isinstance(settings["teacher"], Gemma2ForCausalLM):
        objectives = [Logits(), HiddenStates(weight=0.3)]
    return gradient_of_one_step(arguments, objectives, **settings)


def training(name, settings):
    """Weights, logged losses and evaluation after two shuffled epochs of 13 rows with accumulation, clipping and decay."""

    def run(arguments):
        pairs = build_pairs(13)
        common = {
            "max_steps": -1, "num_train_epochs": 2, "weight_decay": 0.1, "max_grad_norm": 0.5, "learning_rate": 5e-3,
            "warmup_steps": 2, "pairs": pairs, **settings,
        }  # fmt: skip
        if name == "black_box":
            it = black_box_trainer(arguments, **common)
        else:
            objectives = [Logits(weight=Schedule(1.0, 0.2)), *OBJECTIVES["all"]()[1:]]
            it = trainer(arguments, objectives, student=build_model(seed=7, tie_word_embeddings=True), **common)
        it.train()
        losses = [entry["loss"] for entry in it.state.log_history if "loss" in entry]
        evaluated = it.evaluate(build_pairs(7, seed=5))
        terms = {n: v for n, v in evaluated.items() if "loss" in n or n in ("eval_logits", "eval_hidden")}
        return weights_of(it), losses, terms

    return in_folder(run)


def gathers_of_a_step(chunk, settings):
    """How often weights are gathered in a forward and backward pass, with so many rows in a chunk of the head."""
    next_token.CHUNK, next_token.GROUP = chunk, 320 * 4 * chunk

    def run(arguments):
        it = trainer(arguments, OBJECTIVES["logits"](), max_steps=1, per_device_train_batch_size=4, **settings)
        it.train()
        batch = it.data_collator(list(build_pairs(4)))
        with CommDebugMode() as counted:
            it.compute_loss(it.model_wrapped, batch, num_items_in_batch=torch.tensor(50)).backward()
        counts = {str(operation): number for operation, number in counted.get_comm_counts().items()}
        return counts["c10d._allgather_base_"]

    return in_folder(run)


def saving(folder, settings, resume=False):
    """A white-box training of 4 steps that saves at 2: weights at both; resumed from the checkpoint if so asked."""

    def arguments(**changes):
        return build_arguments(folder, **changes)

    objectives = [Logits(), HiddenStates(layers="last", weight=0.5)]
    student = build_model(seed=7, tie_word_embeddings=True)
    teacher = {"teacher": build_model(seed=1, **WIDER)} if "fsdp" not in settings else {}
    it = trainer(arguments, objectives, student=student, save_strategy="steps", save_steps=2, **teacher, **settings)
    seen = {}

    class Watch(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            seen[state.global_step] = weights_of(it)

    it.add_callback(Watch())
    it.train(resume_from_checkpoint=f"{folder}/checkpoint-2" if resume else None)
    student = whole_student(it)
    return {**seen, "whole": dict(student.state_dict()) if it.args.process_index == 0 else None}


def evaluated_apart(rows):
    """A routed white box evaluates so few rows that the last process has none of its own; and trains on them."""

    def run(arguments):
        pairs = build_pairs(rows)
        pairs = pairs.add_column("domain", ["chat", "maths", "maths"][:rows])
        teachers = Routed({"maths": build_model(seed=1), "chat": build_model(3, seed=2, **WIDER)}, column="domain")
        objectives = [Logits(cross_entropy=0.5), HiddenStates(layers="last", weight=0.5)]
        it = trainer(arguments, objectives, teacher=teachers, pairs=pairs, max_steps=2, per_device_train_batch_size=2)
        before = it.evaluate(pairs)
        it.train()
        return {name: value for name, value in before.items() if not name.endswith(("second", "time"))}

    return in_folder(run)


def exported(settings):
    """The weights of a student whose adapter was trained and merged; of the first process."""

    def run(arguments):
        student = build_model(seed=7, tie_word_embeddings=True)
        it = trainer(
            arguments, [Logits(cross_entropy=0.5)], student=student, teacher="self", peft_config=lora_config(4), max_steps=3, **settings
        )  # fmt: skip
        it.train()
        student = whole_student(it)
        return merged(student).state_dict() if it.args.process_index == 0 else None

    return in_folder(run)


def endless(folder):
    """A training that saves at every step and would take an hour, as a recipe runs it; what it says goes to a file."""
    rank = os.environ["RANK"]
    sys.stderr = open(f"{folder}/said{rank}", "w", buffering=1)  # noqa: SIM115

    def main():
        it = trainer(
            lambda **changes: build_arguments(folder, **changes), OBJECTIVES["logits"](), max_steps=100_000,
            save_strategy="steps", save_steps=1, save_total_limit=2,
        )  # fmt: skip
        train_or_resume(it)

    one_sentence(main)()


def recipe(name, flags, said):
    """A recipe as `accelerate launch` runs it; what it says goes to a file for each process. Its exit status."""
    with open(f"{said}{os.environ['RANK']}", "w") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            importlib.import_module(f"recipes.{name}").main(flags)
        except SystemExit as end:
            return end.code
    return 0
