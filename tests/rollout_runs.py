"""Small on-policy trainings, for the tests of rollouts; and what the tests of several processes run in each of them."""

import json
import tempfile
from pathlib import Path

from conftest import build_arguments, build_model, build_pairs, build_tokenizer
from process_runs import in_folder
from white_box_runs import gradient_of_one_step, weights_of

from distill import Logits, WhiteBoxTrainer
from distill.trainers import Rollouts
from distill.trainers.rollout_journal import NAME

ENDS = {"eos_token_id": 2}


def short(**changes):
    """Rollouts of a few tokens, not looked at before; without prompts, of the pairs' own."""
    return Rollouts(**{"max_new_tokens": 8, "look": 0, **changes})


def on_policy(
    arguments,
    rollouts=None,
    objectives=None,
    student=None,
    teacher=None,
    pairs=None,
    callbacks=None,
    own=None,
    **changes,
):
    return WhiteBoxTrainer(
        model=student or build_model(seed=7, attention_dropout=0.1),
        teacher=teacher or build_model(layers=3, seed=1),
        objectives=objectives or [Logits("reverse_kl")],
        args=arguments(**changes),
        train_dataset=pairs or build_pairs(14),
        processing_class=build_tokenizer(),
        rollouts=rollouts,
        callbacks=callbacks,
        **(own or {}),
    )


def journal(folder):
    """The rows of all processes in the order of steps and rows."""
    rows = [json.loads(line) for path in Path(folder).glob(f"{NAME}*.jsonl") for line in path.read_text().splitlines()]
    return sorted(rows, key=lambda row: (row["step"], int(row["id"].rpartition(" ")[2])))


def gradients_on_policy(split):
    """The gradient of one step with half of the rows written by the student, and the rows."""

    def run(arguments):
        with tempfile.TemporaryDirectory() as folder:
            gradient = gradient_of_one_step(
                arguments, [Logits("reverse_kl")], student=build_model(seed=7), rollouts=short(share=0.6, journal=100), output_dir=folder,
                **split,
            )  # fmt: skip
            return gradient, [(row["id"], row["prompt_ids"], row["completion_ids"]) for row in journal(folder)]

    return in_folder(run)


def training_on_policy(split):
    """Weights after two epochs of 13 rows, with other prompts than the pairs' and a schedule of the share."""
    from distill import Schedule

    def run(arguments):
        prompts = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
        it = on_policy(
            arguments, short(prompts=prompts, share=Schedule(1.0, 0.3), look=2), student=build_model(seed=7), pairs=build_pairs(13), max_steps=-1, num_train_epochs=2, learning_rate=5e-3, **split,
        )  # fmt: skip
        it.train()
        logged = [
            {name: entry[name] for name in ("loss", "rollouts", "rollouts_ended", "rollout_tokens") if name in entry}
            for entry in it.state.log_history
            if "loss" in entry
        ]
        return weights_of(it), logged

    return in_folder(run)


__all__ = ["build_arguments", "gradients_on_policy", "journal", "on_policy", "short", "training_on_policy"]
