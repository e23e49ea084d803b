"""Settings that are changed when a trainer is there, by a trial or by hand: used as if it had been made with them, or refused."""

import json

import pytest
from conftest import build_model, build_pairs, build_tokenizer
from test_router_loss import moe
from test_searching import backend, searching  # noqa: F401  (a fixture)
from transformers import LlamaForCausalLM
from white_box_runs import weights_of

from distill import BlackBoxTrainer, HiddenStates, Logits
from distill.models.adapters import lora_config

PACKED = {"train_dataset": build_pairs(24, seed=2), "packing": True, "max_length": 48}
CHANGES = {
    "rows a batch": ({"per_device_train_batch_size": 4}, {}),
    "order of packed rows": ({"seed": 11}, PACKED),
    "order of rows": ({"data_seed": 11}, {}),
    "noise": ({"neftune_noise_alpha": 5.0}, {}),
    "smoothed labels": ({"label_smoothing_factor": 0.2}, {}),
    "accumulation": ({"gradient_accumulation_steps": 2}, {}),
    "choices as words": ({"optim": "sgd", "lr_scheduler_type": "cosine", "eval_strategy": "steps", "eval_steps": 1}, {}),
    "steps of evaluation": ({"eval_strategy": "steps"}, {}),
    "the best model": ({"load_best_model_at_end": True, "eval_strategy": "steps"}, {}),
    "a schedule by the loss": ({"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps"}, {}),
    "checkpoints of activations": ({"activation_checkpointing": True}, {"peft_config": lora_config(4)}),
    "checkpoints by their old word": ({"gradient_checkpointing": True}, {"peft_config": lora_config(4)}),
}  # fmt: skip


WRITTEN_ONLY = ("checkpoints", "steps of evaluation", "the best model", "a schedule by the loss")  # the same weights


def same_run(run, alone, folder, other):
    expected = weights_of(alone)
    for part, tensor in weights_of(run).items():
        assert tensor.equal(expected[part]), part
    settings = [json.loads((one / "checkpoint-2/checkpoint.json").read_text())["settings"] for one in (folder, other)]
    assert settings[0] == settings[1]
    evaluations, others = (
        [one["step"] for one in each.state.log_history if "eval_loss" in one] for each in (run, alone)
    )
    assert evaluations == others
    assert run.state.best_global_step == alone.state.best_global_step


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_changed_by_hand_is_used(arguments, tmp_path, name):
    """As users go on from a search; it was written down, and what the trainer had been made with was used."""
    changes, own = CHANGES[name]
    run = searching(arguments, "black box", own=own, output_dir=tmp_path / "run", seed=3)
    for setting, value in changes.items():
        setattr(run.args, setting, value)
    run.train()
    alone = searching(arguments, "black box", own=own, output_dir=tmp_path / "alone", **{"seed": 3, **changes})
    alone.train()
    same_run(run, alone, tmp_path / "run", tmp_path / "alone")
    assert run.model.is_activation_checkpointing == alone.model.is_activation_checkpointing == ("checkpoints" in name)
    plain = searching(arguments, "black box", own=own, output_dir=tmp_path / "plain", seed=3)
    plain.train()
    if not name.startswith(WRITTEN_ONLY):
        assert any(not tensor.equal(weights_of(plain)[name]) for name, tensor in weights_of(run).items())


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_trial_changes_is_used(arguments, tmp_path, backend, name):  # noqa: F811
    """Noise and smoothed labels were those that the trainer was made with."""
    changes, own = CHANGES[name]
    run = searching(arguments, "black box", own=own, output_dir=tmp_path / "run", seed=3)
    seen, train = [], run.train
    run.train = lambda *args, **kwargs: (
        train(*args, **kwargs), seen.append(weights_of(run)), seen.append(run.model.is_activation_checkpointing)
    )  # fmt: skip
    run.hyperparameter_search(lambda trial: changes if trial.number else {}, n_trials=2, backend="optuna")
    alone = searching(arguments, "black box", own=own, output_dir=tmp_path / "alone", **{"seed": 3, **changes})
    alone.train()
    for part, tensor in weights_of(alone).items():
        assert tensor.equal(seen[2][part]), part
    assert [seen[1], seen[3]] == [False, "checkpoints" in name]


def test_the_best_trial_is_taken_up_when_the_last_had_other_settings(arguments, tmp_path, backend):  # noqa: F811
    """The way of docs/how-to/resume.md. Rows a batch and packed rows stayed those of the last trial."""
    own = {**PACKED, "eval_dataset": build_pairs(5, seed=3)}

    def space(trial):
        return {
            "learning_rate": trial.suggest_categorical("learning_rate", [1e-2, 1e-7]),
            "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [3, 2]),
            "seed": trial.suggest_categorical("seed", [8, 9]),
            "optim": trial.suggest_categorical("optim", ["adamw_torch", "sgd"]),
        }

    run = searching(arguments, "black box", own=own)
    trials, train = [], run.train
    run.train = lambda *args, **kwargs: (train(*args, **kwargs), trials.append(weights_of(run)))
    best = run.hyperparameter_search(space, n_trials=2, backend="optuna")
    run.train = train
    if len({json.dumps(best.hyperparameters), json.dumps(run._trial.params)}) == 1:
        pytest.skip("optuna drew the best trial last")
    for name, value in best.hyperparameters.items():
        setattr(run.args, name, value)
    run.train(resume_from_checkpoint=str(tmp_path / f"out/run-{best.run_id}/checkpoint-1"))
    for name, tensor in weights_of(run).items():
        assert tensor.equal(trials[int(best.run_id)][name]), name


READ_ONCE = ["bf16", "torch_compile", "label_names"]


@pytest.mark.parametrize("setting", READ_ONCE)
def test_what_is_read_once_is_refused_by_its_name(arguments, backend, setting):  # noqa: F811
    """A trial with bf16=True trained in float32 and said bf16."""
    run = searching(arguments, "black box")
    setattr(run.args, setting, True)
    with pytest.raises(
        ValueError, match=rf"{setting} was .* when the trainer was made and is True now.*make a trainer"
    ):
        run.train()
    run = searching(arguments, "black box")
    with pytest.raises(ValueError, match=f"{setting} was .*Leave it out of the search"):
        run.hyperparameter_search(lambda trial: {setting: True}, n_trials=1, backend="optuna")
    assert run.state.global_step == 0


TOGETHER = {
    "nothing to evaluate": ({"eval_strategy": "steps"}, {"eval_dataset": None}, "there is no eval_dataset"),
    "best of what": ({"save_strategy": "best"}, {}, "save_strategy='best' needs metric_for_best_model"),
    "no steps": ({"eval_strategy": "steps", "logging_strategy": "no", "logging_steps": 0}, {}, "needs eval_steps"),
    "best of nothing": ({"load_best_model_at_end": True}, {}, "requires the save and eval strategy to match"),
}  # fmt: skip


@pytest.mark.parametrize("name", TOGETHER)
def test_settings_that_do_not_go_together_are_refused_when_they_are_changed_by_hand(arguments, name):
    """As TrainingArguments and Trainer do when they are made."""
    changes, own, words = TOGETHER[name]
    run = searching(arguments, "black box", own=own)
    for setting, value in changes.items():
        setattr(run.args, setting, value)
    for _ in range(2):
        with pytest.raises(ValueError, match=words):
            run.train()
    assert run.state.global_step == 0


def test_an_optimiser_by_its_word_is_looked_at_for_projections(arguments):
    """It was an AttributeError."""
    own = {"objectives": [HiddenStates()]}
    run = searching(arguments, "white box", lambda: build_model(seed=7, hidden_size=16, num_attention_heads=2), own)
    run.args.optim = "galore_adamw_layerwise"
    with pytest.raises(ValueError, match="optim='galore_adamw_layerwise' takes its steps layer by layer"):
        run.train()
    run.args.optim = "sgd"
    run.train()
    assert type(run.optimizer).__name__ == "AcceleratedOptimizer"
    run.args.optim = "adamm"
    with pytest.raises(ValueError, match="adamm"):
        run.train()


@pytest.mark.parametrize("part", ["even_batches", "use_seedable_sampler", "split_batches", "dispatch_batches"])
def test_what_accelerate_reads_once_is_refused_by_its_name(arguments, part):
    """Written down and not used, changed in place or as a whole."""
    run = searching(arguments, "black box")
    value = not getattr(run.args.accelerator_config, part)
    setattr(run.args.accelerator_config, part, value)
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"accelerator_config.{part} was .* and is {value} now"):
            run.train()
    run.args.accelerator_config = {part: value}
    with pytest.raises(ValueError, match=rf"accelerator_config.{part} was .* and is {value} now"):
        run.train()
    run.args.accelerator_config = {}
    run.train()


GIVEN = {"seed": 11, "use_cache": True, "full_determinism": True}


@pytest.mark.parametrize("setting", GIVEN)
def test_what_is_read_with_a_student_is_refused_where_it_was_given(arguments, setting):
    """An adapter kept the draw of the old seed, rows their order, a config its cache; the record said otherwise."""
    given = {"model": build_model(seed=7), "model_init": None}
    for own in ({}, {"peft_config": lora_config(4)}):
        run = searching(arguments, "black box", own={**given, **own})
        setattr(run.args, setting, GIVEN[setting])
        for _ in range(2):
            with pytest.raises(
                ValueError, match=rf"{setting} was .* when the trainer was made and is {GIVEN[setting]} now"
            ):
                run.train()
        assert run.state.global_step == 0


@pytest.mark.parametrize(
    "name",
    [
        "order of rows",
        "noise",
        "smoothed labels",
        "order of given packed rows",
        "rows a batch",
        "checkpoints of activations",
    ],
)
def test_what_is_changed_by_hand_is_used_with_a_given_model(arguments, tmp_path, name):
    changes, own = ({"data_seed": 11}, PACKED) if "given" in name else CHANGES[name]

    def make(folder, **settings):
        given = {"model": build_model(seed=7), "model_init": None, **own}
        return searching(arguments, "black box", own=given, output_dir=tmp_path / folder, seed=3, **settings)

    run = make("run")
    for setting, value in changes.items():
        setattr(run.args, setting, value)
    run.train()
    alone = make("alone", **changes)
    alone.train()
    same_run(run, alone, tmp_path / "run", tmp_path / "alone")


def test_a_student_of_model_init_that_is_kept_was_made_with_the_last_settings(arguments):
    run = searching(arguments, "black box", seed=3)
    run.args.seed = 11
    run.train()
    run.model_init = None
    run.train()
    run.args.seed = 3
    with pytest.raises(ValueError, match="seed was 11 when the trainer was made and is 3 now"):
        run.train()


def test_a_change_that_the_loss_does_not_take_is_refused_each_time(arguments):
    """The first refusal counted the change as taken, and the second `train` went on with it."""
    settings = {"train_dataset": build_pairs(8), "processing_class": build_tokenizer()}
    run = BlackBoxTrainer(model=build_model(), args=arguments(), supervised_only=True, **settings)
    run.args.label_smoothing_factor = 0.1
    for _ in range(2):
        with pytest.raises(ValueError, match="does not go together with label_smoothing_factor"):
            run.train()
    run.args.label_smoothing_factor = 0.0
    run.train()
    assert run.label_smoother is None
    for way, own in (("black box", {}), ("white box", {"objectives": [Logits()]})):
        run = searching(arguments, way, own={**own, "model": moe(0.1), "model_init": None})
        run.args.gradient_accumulation_steps = 2
        for _ in range(2):
            with pytest.raises(ValueError, match="has output_router_logits=True"):
                run.train()
        assert run.state.global_step == 0


def test_rows_are_packed_anew_once_a_refusal_is_put_right(arguments, tmp_path):
    """They stayed those of the old seed, and the record named the new one; without any bins where these were what was refused."""
    own = {**PACKED, "objectives": [Logits()], "model": build_model(seed=7), "model_init": None}
    run = searching(arguments, "white box", own=own, output_dir=tmp_path / "run", data_seed=3)
    run.args.data_seed, run.args.label_smoothing_factor = 11, 0.1
    with pytest.raises(ValueError, match="label_smoothing_factor belongs to cross-entropy"):
        run.train()
    run.args.label_smoothing_factor, run.args.train_sampling_strategy = 0.0, "group_by_length"
    for _ in range(2):
        with pytest.raises(ValueError, match="group_by_length' saves padding, as packing does"):
            run.train()
    run.args.train_sampling_strategy = "random"
    run.train()
    own["model"] = build_model(seed=7)
    alone = searching(arguments, "white box", own=own, output_dir=tmp_path / "alone", data_seed=11)
    alone.train()
    same_run(run, alone, tmp_path / "run", tmp_path / "alone")


@pytest.mark.parametrize("way", ["black box", "white box"])
def test_a_finished_run_of_an_unseeded_model_init_is_taken_up(arguments, way):
    """Its student was drawn from wherever the generator stood, and the run refused as another's."""
    first = build_model(seed=0)

    def unseeded():
        return LlamaForCausalLM(type(first.config).from_dict(first.config.to_dict()))

    run = searching(arguments, way, unseeded)
    run.train()
    again = searching(arguments, way, unseeded)
    for _ in range(2):
        assert again.train(resume_from_checkpoint=True).global_step == 2
        for name, tensor in weights_of(run).items():
            assert tensor.equal(weights_of(again)[name]), name
