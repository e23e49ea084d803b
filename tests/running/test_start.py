"""How commands start: those that only look at pairs never load torch, nor any code of models."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import build_model, build_pairs

from distill.basics.lazy import do_without_torch, lazy_names
from distill.models.load import load_tokenizer
from distill.pairs import save_pairs

ROOT = Path(__file__).parents[2]
# runs the command and tells, whatever its end, what it has loaded
SEEN = """
import sys
from distill import cli
sys.argv = ["distill", *{flags!r}]
try:
    cli.main()
finally:
    code = [m for m in sys.modules if m.startswith("transformers.models.") and "modeling" in m]
    print("LOADED", [m for m in ("torch", "peft", "accelerate") if m in sys.modules] + code)
"""


@pytest.fixture
def place(tokenizer, tmp_path):
    build_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "alone")
    save_pairs(build_pairs(6), tmp_path / "pairs.jsonl")
    rows = [{"messages": [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]}] * 2
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "asked.txt").write_text("where is the cat that sat on the mat\n")
    return tmp_path


@pytest.mark.parametrize(
    "flags",
    [
        "--help",
        "inspect --help",
        "clean --help",
        "inspect pairs.jsonl --tokenizer model --against asked.txt --json found.json --svg seen.svg",
        "inspect chats.jsonl --tokenizer alone --max_length 64",
        "inspect chats.jsonl --tokenizer model",
        "clean pairs.jsonl --near prompt --repetition --against asked.txt --output clean.jsonl",
        "clean chats.jsonl --tokenizer model --output folder",
        "clean pairs.jsonl --tokenizer alone --private replace --output clean.jsonl",
    ],
)
def test_looking_at_pairs_never_loads_torch(flags, place):
    command = [sys.executable, "-c", SEEN.format(flags=flags.split())]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=place,
        env={"PYTHONPATH": str(ROOT), "HOME": str(place)},
        timeout=300,
    )
    assert result.stdout.splitlines()[-1] == "LOADED []", result.stderr[-2000:]
    assert "PyTorch was not found" not in result.stderr
    assert "Traceback" not in result.stderr.replace("SystemExit", ""), result.stderr


def test_a_process_that_has_torch_keeps_it():
    import torch

    do_without_torch()
    assert sys.modules["torch"] is torch


def test_a_name_that_is_asked_for_is_imported_then_and_others_are_refused():
    find = lazy_names("distill.basics", {"Step": "distill.basics.curation_step"})
    assert find("Step").__name__ == "Step"
    with pytest.raises(AttributeError, match="module 'distill.basics' has no attribute 'Stride'"):
        find("Stride")


@pytest.mark.real
def test_the_embedded_tokenizer_is_the_one_that_transformers_chooses(real_teacher):
    from transformers import AutoTokenizer

    from distill.models.embedded import fetch_embedded

    ours, theirs = load_tokenizer("smollm2-135m"), AutoTokenizer.from_pretrained(fetch_embedded("smollm2-135m"))
    assert type(ours) is type(theirs)
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    assert ours.init_kwargs == theirs.init_kwargs
    assert ours.chat_template == theirs.chat_template
