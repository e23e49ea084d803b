"""What an update of transformers may break is written in one list, and the list is true."""

import ast
import inspect
import re
import tomllib
from pathlib import Path

import pytest
import transformers
from packaging.requirements import Requirement
from transformers import Trainer

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
