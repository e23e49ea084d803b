"""The package as a whole: public names, lazy imports, imports that go one way, the README's script."""

import ast
import re
import runpy
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import distill

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "distill"
# A room imports from itself and from rooms further left.
ROOMS = [
    "basics",
    "text",
    "models",
    "pairs",
    "teachers",
    "generation",
    "curation",
    "signals",
    "objectives",
    "trainers",
    "evaluation",
    "retrieval",
    "planning",
    "reports",
    "equivalence",
    "running",
]


def python(code, folder=ROOT):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=600)


# imports what the package needs, not the package; then goes on as a process for each order of importing it
ORDERS = """
import os, datasets, peft, transformers.trainer
for first in ("pass", "import distill.generation, distill.trainers.black_box", "import distill.objectives.divergences"):
    if os.fork() == 0:
        exec(first)
        from distill import NAMES
        print(callable(generate), divergences.forward_kl.__name__, flush=True)
        os._exit(0)
    os.wait()
"""


def test_public_names_are_what_they_should_be_whatever_was_imported_before():
    result = python(ORDERS.replace("NAMES", ", ".join(distill.__all__)))
    assert result.stdout.splitlines() == ["True forward_kl"] * 3, result.stderr
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        distill.nothing  # noqa: B018


def test_the_package_itself_imports_nothing_heavy():
    """So that `distill --help` answers at once."""
    code = "import sys, distill, distill.cli; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    assert python(code).stdout.strip() == "[]"


def test_rooms_that_only_look_at_pairs_load_no_torch():
    """Whole commands are started by `tests/running/test_start.py`; this is what they import."""
    code = (
        "import sys; from distill.basics.lazy import do_without_torch; do_without_torch(); "
        "from distill.recipes import clean, export, inspect_pairs; print('torch' in sys.modules)"
    )
    result = python(code)
    assert result.stdout.strip() == "False", result.stderr


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/[!_]*.py")), ids=lambda path: path.name)
def test_every_recipe_is_a_script(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert end.value.code == 0
    assert "--help" in capsys.readouterr().out


def test_every_module_lies_in_a_room_that_says_what_it_is_for():
    loose = {path.name for path in PACKAGE.glob("*.py")}
    assert loose == {"__init__.py", "cli.py"}
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ROOMS)
    for room in ROOMS:
        said = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text()))
        assert said, f"{room}/__init__.py does not say what the room is for"
        assert len(said.splitlines()) <= 5, f"{room}/__init__.py says more than a few lines"


def test_no_room_imports_one_below_it():
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0]
        if room in ROOMS:
            for line, other in imported_rooms(path):
                assert ROOMS.index(other) <= ROOMS.index(room), (
                    f"{path}:{line} imports {other}, which lies below {room}"
                )


def imported_rooms(path):
    """(line, room) of every import of this package, also of those inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides which room it is from"
            names = [f"{node.module}.{name}" for name in names]
        for name in names:
            top, _, rest = name.partition(".")
            room = rest.partition(".")[0]
            if top == "distill" and room not in ("__version__", "recipes"):
                assert room in ROOMS, f"{path}:{node.lineno} imports {name} from no room; name where it is defined"
                yield node.lineno, room


def test_no_two_files_of_tests_in_two_rooms_have_one_name():
    """They are imported by that name alone: of two, pytest takes the first and ends at the second."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py"))
    assert not [name for name, count in names.items() if count > 1]


def test_every_room_is_in_the_wheel():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {".".join(path.relative_to(ROOT).parts[:-1]) for path in PACKAGE.rglob("__init__.py")}
    assert listed == found | {"distill.recipes"}


def test_the_docs_name_code_and_tests_that_exist():
    """`path::name` in a document is a definition in that file; tables of tests leave `tests/` out."""
    named = {
        found
        for document in (ROOT / "docs").rglob("*.md")
        for found in re.findall(r"`([\w/]+\.py)::(\w+)`", document.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    for path, name in sorted(named):
        file = ROOT / path if (ROOT / path).is_file() else ROOT / "tests" / path
        tree = ast.parse(file.read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert name in defined, f"{path} has no {name}"


@pytest.mark.real
def test_the_readmes_script_runs(real_teacher, tmp_path):
    """In a process of its own, which gives its gigabytes back."""
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    result = python(script, tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    found = dict(re.findall(r"(\w+Trainer): KL [\d.]+ -> ([\d.]+)", result.stdout))
    before = dict(re.findall(r"(\w+Trainer): KL ([\d.]+)", result.stdout))
    assert found.keys() == {"BlackBoxTrainer", "WhiteBoxTrainer"}
    assert all(float(found[name]) < float(before[name]) for name in found)
