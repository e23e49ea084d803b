"""The package as a whole: public names, lazy imports, imports that go one way, the README's script."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import distill

ROOT = Path(__file__).parent.parent
# A module may import from its own floor's left-hand neighbours in this list and from everything further left.
FLOORS = [
    {
        "pictures",
        "encode",
        "conversations",
        "columns",
        "reasoning",
        "divergences",
        "embedded",
        "progress",
        "arguments",
        "vocabulary",
        "steps",
        "redact",
        "jsonl",
        "disk",
        "words",
        "duplicates",
        "language",
        "phrases",
        "repetition",
        "settings",
        "checkpoints",
        "quantising",
        "processes",
        "pickles",
    },
    {"pairs", "models", "taps", "students", "adapters", "worked_examples"},
    {
        "journal",
        "journal_rows",
        "collate",
        "packing",
        "maps",
        "teachers",
        "provenance",
        "cleaning",
        "filters",
        "contamination",
    },
    {
        "objectives",
        "generation",
        "prompts",
        "evaluation",
        "verifiers",
        "selection",
        "card",
        "measures",
        "findings",
        "preflight",
    },
    {"trainers", "runs", "report", "inspection", "tuning", "planning"},
    {"equivalence", "recipe", "cli"},
]


def python(code):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)


def test_public_names_are_what_they_should_be_whatever_was_imported_before():
    names = ", ".join(distill.__all__)
    for first in ("", "import distill.generation, distill.trainers.black_box; ", "import distill.divergences; "):
        code = f"{first}from distill import {names}; print(callable(generate), divergences.forward_kl.__name__)"
        result = python(code)
        assert result.stdout.strip() == "True forward_kl", result.stderr
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        distill.nothing  # noqa: B018


def test_the_package_itself_imports_nothing_heavy():
    """So that `distill --help` answers at once."""
    code = "import sys, distill, distill.cli; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    assert python(code).stdout.strip() == "[]"


def test_imports_go_one_way():
    level = {name: i for i, floor in enumerate(FLOORS) for name in floor}
    for path in (ROOT / "distill").rglob("*.py"):
        room = path.relative_to(ROOT / "distill").parts[0].removesuffix(".py")
        if room in ("__init__", "templates"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("distill."):
                other = node.module.split(".")[1]
                assert level[other] <= level[room], f"{path.name} imports {node.module}, which lies above it"


def test_every_room_is_in_the_wheel():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    rooms = {"distill." + path.parent.name for path in (ROOT / "distill").glob("*/__init__.py")}
    assert listed == rooms | {"distill", "distill.recipes"}


def test_the_docs_name_code_and_tests_that_exist():
    """`path::name` in a document is a definition in that file."""
    named = {
        found
        for document in (ROOT / "docs").glob("*.md")
        for found in re.findall(r"`([\w/]+\.py)::(\w+)`", document.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    for path, name in sorted(named):
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert name in defined, f"{path} has no {name}"


@pytest.mark.real
def test_the_readmes_script_runs(real_teacher, tmp_path):
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=400,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    found = dict(re.findall(r"(\w+Trainer): KL [\d.]+ -> ([\d.]+)", result.stdout))
    before = dict(re.findall(r"(\w+Trainer): KL ([\d.]+)", result.stdout))
    assert found.keys() == {"BlackBoxTrainer", "WhiteBoxTrainer"}
    assert all(float(found[name]) < float(before[name]) for name in found)
