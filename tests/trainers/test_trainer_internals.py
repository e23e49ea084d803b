"""What an update of transformers may break is written in one list, and the list is true."""

import ast
import copy
import inspect
import re
import tomllib
from pathlib import Path

import pytest
import torch
import transformers
from conftest import build_model, build_pairs, build_tokenizer
from packaging.requirements import Requirement
from transformers import Trainer, TrainerCallback

from distill.pairs.collate import PairCollator
from distill.trainers.trainer_internals import MEMBERS

ROOT = Path(__file__).parents[2]
SOURCE = inspect.getsource(Trainer)


def is_trainers(name):
    return hasattr(Trainer, name) or re.search(rf"self\.{name}\b", SOURCE) is not None


def private_members_used():
    """Names with one underscore in front that are Trainer's, wherever the package touches or overrides them."""
    found = {}
    for path in [*(ROOT / "distill").rglob("*.py"), *(ROOT / "recipes").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node, "attr", None) or (node.name if isinstance(node, ast.FunctionDef) else None)
            if name and re.match(r"_[^_]", name) and is_trainers(name):
                found.setdefault(name, f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


def test_the_list_names_all_that_is_used_and_nothing_else():
    used = private_members_used()
    assert not {name: where for name, where in used.items() if name not in MEMBERS}
    assert not set(MEMBERS) - set(used), "listed, and no longer used"


@pytest.mark.parametrize("name", MEMBERS)
def test_each_member_is_there_with_its_parameters(name):
    parameters = MEMBERS[name].parameters
    if parameters is None:
        assert re.search(rf"self\.{name}\b", SOURCE)
    else:
        assert tuple(inspect.signature(getattr(Trainer, name)).parameters)[1:] == parameters


def test_the_order_of_a_checkpoints_files_is_the_one_that_seals_it():
    """Random states are written last but for Trainer's state; a checkpoint is sealed between the two."""
    body = inspect.getsource(Trainer._save_checkpoint)
    places = [body.index(call) for call in ("self.save_model(", "self._save_optimizer_and_scheduler(", "self._save_rng_state(",
                                            "self.state.save_to_json(", "rotate_checkpoints(")]  # fmt: skip
    assert places == sorted(places)


def test_gradients_are_clipped_before_the_callbacks_hear_of_the_step():
    body = inspect.getsource(Trainer._run_epoch)
    places = [body.index(call) for call in ("self._clip_grad_norm(", "on_pre_optimizer_step(", "self.optimizer.step(",
                                            "on_optimizer_step(", "model.zero_grad(")]  # fmt: skip
    assert places == sorted(places)


def test_transformers_is_bounded_to_the_minor_version_that_was_read():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = next(r for r in map(Requirement, project["dependencies"]) if r.name == "transformers")
    major, minor = map(int, transformers.__version__.split(".")[:2])
    assert wanted.specifier.contains(transformers.__version__)
    assert not wanted.specifier.contains(f"{major}.{minor + 1}.0")


@pytest.fixture
def plain(arguments):
    """transformers' own Trainer on 8 pairs: 4 steps an epoch. Its class may be given, and settings."""

    def make(kind=Trainer, *, optimizers=(None, None), model=None, **settings):
        args = arguments(**{"per_device_train_batch_size": 2, "remove_unused_columns": False, **settings})
        collator, pairs = PairCollator(build_tokenizer()), build_pairs(8)
        return kind(
            model=model or build_model(), args=args, train_dataset=pairs, eval_dataset=pairs, data_collator=collator,
            optimizers=optimizers,
        )  # fmt: skip

    return make


class ParametersAlone:
    """As much of a model as clipping may ask for."""

    def __init__(self, model):
        self.parameters = model.parameters


def test_clipping_asks_a_model_for_its_parameters_alone(plain):
    models = [build_model(), build_model()]
    for model in models:
        for i, parameter in enumerate(model.parameters()):
            parameter.grad = torch.full_like(parameter, 0.1 * (i + 1))
    other = copy.deepcopy([parameter.grad for parameter in models[0].parameters()])
    norm = plain(max_grad_norm=0.5)._clip_grad_norm(ParametersAlone(models[0]))
    torch.testing.assert_close(float(norm), float(torch.stack([grad.norm() for grad in other]).norm()))
    torch.nn.utils.clip_grad_norm_(models[1].parameters(), 0.5)
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_sums_of_losses_are_0_where_a_training_begins_and_whole_where_it_ends(plain):
    seen = []

    class Look(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            seen.append((float(run._tr_loss), run._globalstep_last_logged))

    run = plain(max_steps=3, logging_steps=2)
    run.add_callback(Look())
    for _ in range(2):
        result = run.train()
        assert run._globalstep_last_logged == 2
        assert run._total_loss_scalar / 3 == pytest.approx(result.training_loss)
    assert seen == [(0.0, 0), (0.0, 0)]


def test_whose_scheduler_it_is_is_known_while_training(plain):
    ours = plain(max_steps=1)
    ours.train()
    assert ours._created_lr_scheduler
    model = build_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    theirs = plain(model=model, optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer)), max_steps=1)
    theirs.train()
    assert not theirs._created_lr_scheduler


def test_columns_that_are_kept_are_the_signatures(plain):
    run = plain(remove_unused_columns=True)
    assert run._signature_columns is None
    run._signature_columns = ["id", "prompt_ids", "none such"]
    run._set_signature_columns_if_needed()
    assert set(run._remove_unused_columns(run.train_dataset, "training").column_names) == {"id", "prompt_ids"}


def test_what_a_loss_is_divided_by_are_the_labels_of_the_window(plain):
    run = plain()
    batches = list(run.get_train_dataloader())[:2]
    labels = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    assert int(run._get_num_items_in_batch(batches, torch.device("cpu"))) == labels


@pytest.mark.parametrize("with_mask", [True, False])
def test_tokens_are_counted_by_what_the_mask_shows(plain, with_mask):
    run = plain(include_num_input_tokens_seen="non_padding")
    run.processing_class = build_tokenizer()
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    ids = torch.where(mask.bool(), 5, run.processing_class.pad_token_id)
    run._track_num_input_tokens({"input_ids": ids, **({"attention_mask": mask} if with_mask else {})})
    assert run.state.num_input_tokens_seen == 4


def test_loaders_are_made_in_one_place_and_logs_saves_and_the_best_model_too(plain):
    """Two epochs of four steps, each evaluated and saved."""
    called = []

    class Heard(Trainer):
        def _get_dataloader(self, dataset, description, batch_size, sampler_fn=None, is_training=False, **more):
            called.append("training" if is_training else "evaluation")
            order = sampler_fn(dataset)
            assert order is None or len(order) == len(dataset)
            return super()._get_dataloader(dataset, description, batch_size, sampler_fn, is_training, **more)

        def _maybe_log_save_evaluate(self, *args, **more):
            called.append("step")
            super()._maybe_log_save_evaluate(*args, **more)

        def _save_checkpoint(self, model, trial):
            called.append("saved")
            super()._save_checkpoint(model, trial)
            assert (Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}").is_dir()

        def _load_best_model(self):
            called.append("best")
            super()._load_best_model()

    strategies = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    plain(Heard, num_train_epochs=2, max_steps=-1, save_only_model=True, **strategies).train()
    epoch = ["step"] * 5 + ["evaluation", "saved"]
    assert called == ["training", *epoch, *epoch, "best"]
