"""Searches over settings: each trial is checked, recorded and trained with its own settings and its own student."""

import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from test_router_loss import moe
from transformers import hyperparameter_search as searches
from transformers.trainer_utils import BestRun, HPSearchBackend
from white_box_runs import weights_of

from distill import BlackBoxTrainer, HiddenStates, Logits, WhiteBoxTrainer
from distill.trainers.searching import check_direction


class Trial:
    """As much of optuna's as a space asks for: the choices in turn."""

    def __init__(self, number):
        self.number, self.params = number, {}

    def suggest_categorical(self, name, choices):
        return self.params.setdefault(name, choices[self.number % len(choices)])


class Backend:
    """What transformers' own does with optuna (`run_hp_search_optuna`), in the order in which it does it."""

    def ensure_available(self):
        pass

    def run(self, trainer, n_trials, direction, **kwargs):
        found = []
        for number in range(n_trials):
            trial, trainer.objective = Trial(number), None
            trainer.train(resume_from_checkpoint=None, trial=trial)
            if trainer.objective is None:
                trainer.objective = trainer.compute_objective(trainer.evaluate())
            trainer.model_wrapped = trainer.model = None
            trainer.accelerator.clear()
            found.append(BestRun(str(number), trainer.objective, trial.params))
        return min(found, key=lambda run: run.objective)


@pytest.fixture(params=["alike", "optuna"])
def backend(request, monkeypatch):
    if request.param == "optuna":
        pytest.importorskip("optuna")
    else:
        monkeypatch.setitem(searches.ALL_HYPERPARAMETER_SEARCH_BACKENDS, HPSearchBackend.OPTUNA, Backend)
        optuna: Any = ModuleType("optuna")  # Trainer imports it, to report and to know a trial
        optuna.__spec__ = ModuleSpec("optuna", None)
        optuna.TrialPruned, optuna.trial = RuntimeError, SimpleNamespace(BaseTrial=Trial)
        monkeypatch.setitem(sys.modules, "optuna", optuna)


WIDTHS = {"narrow": {"hidden_size": 16, "num_attention_heads": 2}, "wide": {}}


def searching(arguments, way, model_init=None, own=None, **changes):
    settings = {
        "args": arguments(**{"max_steps": 2, "save_strategy": "steps", "save_steps": 1, **changes}),
        "train_dataset": build_pairs(8), "eval_dataset": build_pairs(5, seed=3), "processing_class": build_tokenizer(),
        "model_init": model_init or (lambda: build_model(seed=7)), **(own or {}),
    }  # fmt: skip
    if way == "black box":
        return BlackBoxTrainer(**settings)
    return WhiteBoxTrainer(
        **{"teacher": build_model(seed=1), "objectives": [Logits(), HiddenStates(weight=0.5)], **settings}
    )


@pytest.mark.parametrize("way", ["black box", "white box"])
def test_each_trial_has_its_own_settings_and_student_in_its_checkpoints(arguments, tmp_path, backend, way):
    """They were those of the trial before; and in a second trial there was no student to describe."""
    asked = {}

    def space(trial):
        found = {
            "learning_rate": trial.suggest_categorical("learning_rate", [1e-2, 1e-3]),
            "seed": trial.suggest_categorical("seed", [3, 4, 5]),
        }
        trial.suggest_categorical("width", list(WIDTHS))
        asked[trial.number] = trial.params
        return found

    def model_init(trial):
        return build_model(seed=7, **WIDTHS["wide" if trial is None else trial.params["width"]])

    run = searching(arguments, way, model_init)
    trials = []
    train = run.train
    run.train = lambda *args, **kwargs: (train(*args, **kwargs), trials.append(weights_of(run)))
    best = run.hyperparameter_search(space, n_trials=3, backend="optuna")
    run.train = train
    assert len(trials) == len(asked) == 3
    for number, params in asked.items():
        settings = json.loads((tmp_path / f"out/run-{number}/checkpoint-2/checkpoint.json").read_text())["settings"]
        assert settings["training"]["learning_rate"] == params["learning_rate"]
        assert settings["training"]["seed"] == params["seed"]
        alone = searching(
            arguments, way, lambda: build_model(seed=7, **WIDTHS[params["width"]]),  # noqa: B023
            output_dir=tmp_path / f"alone-{number}", learning_rate=params["learning_rate"], seed=params["seed"],
        )  # fmt: skip
        alone.train()
        by_itself = json.loads((tmp_path / f"alone-{number}/checkpoint-2/checkpoint.json").read_text())["settings"]
        assert {name: part for name, part in settings.items() if name != "training"} == {
            name: part for name, part in by_itself.items() if name != "training"
        }
        expected = weights_of(alone)
        assert trials[number].keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(trials[number][name], tensor), (number, name)
    # as users go on: the settings of the best trial, then its last checkpoint but one
    for name, value in best.hyperparameters.items():
        setattr(run.args, name, value)
    run.model_init = lambda: build_model(seed=7, **WIDTHS[best.hyperparameters["width"]])
    run.train(resume_from_checkpoint=str(tmp_path / f"out/run-{best.run_id}/checkpoint-1"))
    for name, tensor in weights_of(run).items():
        assert torch.equal(tensor, trials[int(best.run_id)][name]), name


REFUSED = {
    "smoothed labels": (
        {"label_smoothing_factor": [0.0, 0.1]},
        None,
        "label_smoothing_factor belongs to cross-entropy",
    ),
    "a router's loss of two batches": (
        {"gradient_accumulation_steps": [1, 2]},
        lambda: moe(0.1),
        "has output_router_logits=True",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_trial_may_not_be_is_refused_before_its_first_step(arguments, backend, name):
    """It was let through, and the trial behind it was refused for it."""
    choices, model_init, words = REFUSED[name]
    begun = []

    def space(trial):
        begun.append(trial.number)
        return {name: choices[name][min(trial.number, 1)] for name in choices}

    own = {"objectives": [Logits()]}
    run = searching(arguments, "white box", model_init, own)
    with pytest.raises(ValueError, match=words):
        run.hyperparameter_search(space, n_trials=3, backend="optuna")
    assert set(begun) == {0, 1}
    assert run.state.global_step in (0, 2), "no step of the second"


def test_a_trial_is_judged_by_its_loss_alone(arguments, backend):
    """Trainer would take the sum of all metrics: the terms without their weights, and terms that are only looked at."""
    own = {"objectives": [Logits(weight=0.25), HiddenStates(weight=0)]}
    run = searching(arguments, "white box", own=own)
    losses = []
    evaluate = run.evaluate
    run.evaluate = lambda *args, **kwargs: losses.append(found := evaluate(*args, **kwargs)) or found
    best = run.hyperparameter_search(lambda trial: {}, n_trials=1, backend="optuna")
    assert losses[-1]["eval_loss"] == pytest.approx(0.25 * losses[-1]["eval_logits"])
    assert best.objective == losses[-1]["eval_loss"]
    own["eval_dataset"] = {"first": build_pairs(4, seed=3), "second": build_pairs(3, seed=5)}
    run = searching(arguments, "white box", own=own)
    evaluate = run.evaluate
    run.evaluate = lambda *args, **kwargs: losses.append(found := evaluate(*args, **kwargs)) or found
    best = run.hyperparameter_search(lambda trial: {}, n_trials=1, backend="optuna")
    assert best.objective == pytest.approx(losses[-1]["eval_first_loss"] + losses[-1]["eval_second_loss"])
    best = run.hyperparameter_search(
        lambda trial: {}, lambda metrics: metrics["eval_first_hidden"], n_trials=1, backend="optuna"
    )
    assert best.objective == losses[-1]["eval_first_hidden"]


def test_rows_are_packed_by_the_seed_of_the_trial(arguments, backend):
    pairs = build_pairs(40, seed=2)
    own = {"train_dataset": pairs, "packing": True, "max_length": 64}
    run = searching(arguments, "black box", own=own)
    seen = {}
    train = run.train
    run.train = lambda *args, trial, **kwargs: (train(*args, trial=trial, **kwargs), seen.update({trial.params["seed"]: run.train_dataset.bins}))  # fmt: skip
    run.hyperparameter_search(
        lambda trial: {"seed": trial.suggest_categorical("seed", [8, 9])}, n_trials=2, backend="optuna"
    )
    for seed, bins in seen.items():
        assert searching(arguments, "black box", own=own, seed=seed).train_dataset.bins == bins
    assert run.has_bins()


def test_searches_that_cannot_be_made_in_one_trainer_are_refused(arguments, backend, monkeypatch):
    run = searching(arguments, "black box")
    with pytest.raises(ValueError, match=r"backend='ray'\) is not supported.*optuna"):
        run.hyperparameter_search(lambda trial: {}, backend="ray")
    with pytest.raises(ValueError, match=r"backend='ray'\) is not supported"):
        run.hyperparameter_search(lambda trial: {}, backend=HPSearchBackend.RAY)
    with pytest.raises(ValueError, match=r"n_jobs=2\) would run several trials at once"):
        run.hyperparameter_search(lambda trial: {}, backend="optuna", n_jobs=2)
    for direction in ("maximize", ["minimize", "maximize"], ["maximize"], SimpleNamespace(name="MAXIMIZE")):
        with pytest.raises(ValueError, match=r"direction=.*judged by its evaluation loss alone"):
            run.hyperparameter_search(lambda trial: {}, backend="optuna", direction=direction)
    check_direction(SimpleNamespace(name="MINIMIZE"))  # a member of optuna's StudyDirection
    monkeypatch.setattr("distill.trainers.searching.default_hp_search_backend", lambda: "ray")
    with pytest.raises(ValueError, match=r"backend='ray'\) is not supported"):
        run.hyperparameter_search(lambda trial: {})
