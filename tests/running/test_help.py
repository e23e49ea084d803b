"""What `distill VERB --help` shows, and what a mistyped flag is answered with."""

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from distill.recipes import black_box, clean
from transformers import TrainingArguments

from distill import cli
from distill.cli import VERBS
from distill.running.help_page import kept_page, show_page
from distill.running.telling import as_flags, known_flags

ROOT = Path(__file__).parents[2]


def test_the_kept_pages_are_of_today():
    spec = importlib.util.spec_from_file_location("help_pages", ROOT / "scripts/help_pages.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    kept = json.loads((ROOT / "recipes/help.json").read_text(encoding="utf-8"))
    other = [verb for verb, page in script.pages().items() if kept.get(verb) != page]
    assert not other, "python scripts/help_pages.py --write"
    assert list(kept) == list(VERBS)


def test_help_of_a_verb_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['distill', 'white_box', '--help']; from distill import cli; cli.main(); "
        "print([m for m in ('torch', 'transformers', 'datasets', 'peft', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr
    assert "--objectives" in result.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_a_page_fits_a_screen_and_names_every_flag(verb):
    page = kept_page(verb)
    shown = show_page(page, f"distill {verb}", width=120)
    lines = shown.splitlines()
    assert lines[0] == f"usage: distill {verb} [flags]"
    assert len(lines) <= 64  # the recipe's own group is always described
    written = page["description"].splitlines()  # commands in it stand as they are
    assert max(len(line) for line in lines if line not in written) <= 120
    for group in page["groups"]:
        for flag in group["flags"]:
            assert f"--{flag['name']}" in shown or f"--no_{flag['name']}" in shown
    whole = show_page(page, f"distill {verb}", width=120, screen=0)
    assert all(flag["help"].split()[0] in whole for group in page["groups"] for flag in group["flags"])


def test_all_flags_are_shown_on_request(capsys):
    with pytest.raises(SystemExit) as end:
        black_box.main(["--help_all"])
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert "--lora_r N" in shown
    assert "--adam_beta1 X" in shown
    assert "--max_grad_norm X" in shown


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--near_propmt", "1"], "There is no flag --near_propmt"),
        (["--tokeniser", "x"], r"There is no flag --tokeniser \(did you mean --tokenizer\?\)"),
        (["--skip-bat"], r"--skip-bat \(did you mean --skip_bad\?\)"),
        (["--qqqq=3"], "There is no flag --qqqq; --help shows all"),
        (["--output", "a", "b"], "b: no flag takes this"),
    ],
)
def test_a_mistyped_flag_is_answered_with_the_nearest(flags, said, capsys):
    with pytest.raises(SystemExit) as end:
        clean.main(["pairs.jsonl", *flags])
    assert end.value.code == 1
    assert re.search(said, capsys.readouterr().err)


def test_a_mistyped_verb_is_answered_with_the_nearest(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["distill", "whitebox"])
    with pytest.raises(SystemExit, match=r"no verb 'whitebox'.*Did you mean white_box\?"):
        cli.main()


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("max_length is 0; at least 1.", "--max_length is 0; at least 1."),
        ("layers is 40, but the teacher has 30.", "--layers is 40, but the teacher has 30."),
        ("Give another max_length.", "Give another --max_length."),
        # what is no flag, or is one already, or stands in code
        ("temperature is 0.", "temperature is 0."),
        ("--max_length is 0.", "--max_length is 0."),
        ("load_pairs(max_length=9) or args.max_length, 'max_length'", "load_pairs(max_length=9) or args.max_length, 'max_length'"),
        ("The layers is no sentence of ours.", "The layers is no sentence of ours."),
    ],
)  # fmt: skip
def test_errors_name_flags_where_there_are_some(sentence, said, monkeypatch):
    monkeypatch.setattr("distill.running.telling.known_flags", set())
    assert as_flags(sentence) == sentence
    monkeypatch.setattr("distill.running.telling.known_flags", {"max_length", "layers"})
    assert as_flags(sentence) == said


def test_flags_are_known_once_they_are_read(tmp_path):
    with pytest.raises(SystemExit):
        clean.main([str(tmp_path / "none.jsonl"), "--output", str(tmp_path / "out.jsonl")])
    assert {"pairs", "near"} <= known_flags


def test_the_page_for_those_who_come_from_elsewhere_names_what_there_is():
    text = (ROOT / "docs/how-to/coming-from.md").read_text(encoding="utf-8")
    here = [line.split("|")[2] for line in text.splitlines() if line.startswith("| ")]
    pages = json.loads((ROOT / "recipes/help.json").read_text(encoding="utf-8"))
    flags = {flag["name"] for page in pages.values() for group in page["groups"] for flag in group["flags"]}
    flags |= {f.name for f in dataclasses.fields(TrainingArguments)}
    said = {name for cell in here for name in re.findall(r"--(\w+)", cell)}
    assert len(said) > 15
    assert said <= flags, said - flags


def test_the_page_for_those_who_come_from_trl_names_its_settings():
    pytest.importorskip("trl")
    from trl import SFTConfig
    from trl.experimental.gkd import GKDConfig

    text = (ROOT / "docs/how-to/coming-from.md").read_text(encoding="utf-8")
    for title, config in (("`SFTConfig`", SFTConfig), ("`GKDConfig`", GKDConfig)):
        part = text.split(title)[1].split("## ")[0]
        rows = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
        said = {re.match(r"[a-z_]+", name)[0] for cell in rows for name in re.findall(r"`([^`]+)`", cell)}
        known = {f.name for f in dataclasses.fields(config)} | {"peft_config"}
        assert len(said) > 5
        assert said <= known, said - known
