"""`distill export` of a student: its card goes along, the Hub gets what was written, wrong flags are named."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import build_model, build_pairs, build_tokenizer
from white_box_runs import fill

from distill.models.adapters import lora_config
from distill.models.forms import asks_for_a_student
from distill.pairs import save_pairs
from distill.reports.card import write_card

peft = pytest.importorskip("peft", reason="the extra peft is not installed")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a base and an adapter on it, which has a card, its facts and a licence."""
    monkeypatch.chdir(tmp_path)
    build_model(seed=7).save_pretrained("base")
    build_tokenizer().save_pretrained("base")
    adapted = fill(peft.get_peft_model(build_model(seed=7).from_pretrained("base"), lora_config(4)))
    adapted.save_pretrained("adapter")
    Path("adapter/README.md").unlink()  # peft's form to fill in
    write_card(Path("adapter"), student=adapted, pairs=build_pairs(4), how="black box")
    card = Path("adapter/README.md")
    card.write_text(card.read_text().replace("---\n", "---\nbase_model: me/base\nbase_model_relation: adapter\n", 1))
    Path("adapter/LICENSE.txt").write_text("mine")
    return tmp_path


def test_merged_with_its_card(here, told):
    shown = told("export", "adapter", "--to", "merged")
    assert "the same likeliest token at 128 of 128 places" in shown
    assert "in adapter-merged, with its LICENSE.txt, README.md, provenance.json" in shown
    card, before = Path("adapter-merged/README.md").read_text(), Path("adapter/README.md").read_text()
    assert "library_name: transformers" in card
    assert "library_name: peft" in before
    assert "base_model: me/base" in card
    assert "base_model_relation: finetune" in card
    assert before.split("---\n", 2)[2].strip() in card, "what it says of the training is as it was"
    assert "merged into its base" in card
    assert Path("adapter-merged/provenance.json").read_bytes() == Path("adapter/provenance.json").read_bytes()


def test_an_adapter_beside_its_student_has_the_card_of_that(here, told):
    Path("adapter").rename("base/adapter")
    for name in ("README.md", "provenance.json"):
        Path("base/adapter", name).rename(Path("base", name))
    told("export", "base/adapter", "--to", "merged", "--output", "out")
    assert "Student of" in Path("out/README.md").read_text()
    Path("base/README.md").unlink()
    assert "it has no card" in told("export", "base/adapter", "--to", "merged", "--output", "again")


def test_what_was_written_goes_to_the_hub(here, told, hub):
    assert "Published to me/it (private)" in told("export", "adapter", "--to", "merged", "--push", "it")
    assert hub.made == [("me/it", True)]
    assert {"README.md", "provenance.json", "model.safetensors", "tokenizer.json", "config.json"} <= set(hub.files)
    assert "adapter_config.json" not in hub.files
    hub.files.clear()
    told("export", "base", "--push", "me/whole", "--no_private")
    assert hub.made[-1] == ("me/whole", False)
    assert set(hub.files) == {p.name for p in Path("base").iterdir()}, "as it is"


def test_the_hub_is_asked_before_anything_is_made(here, told, hub):
    hub.there["model", "me/it"] = False
    shown = told("export", "adapter", "--to", "merged", "--push", "me/it", status=1)
    assert "me/it on the Hub is public" in shown
    assert "Give --no_private if public is right, or another --push" in shown
    assert not Path("adapter-merged").exists()
    del hub.there["model", "me/it"]
    told("export", "adapter", "--to", "merged", "--push", "me/it")
    hub.wrong = OSError("gone")
    shown = told("export", "base", "--push", "me/it", status=1)
    assert "no repository me/it could be made (OSError: gone)" in shown
    assert len(hub.made) == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("base", "is a student: say its form with --to merged"),
        ("base --to messages", "--to is 'messages', and base is a student"),
        ("--to merged", "name one, a folder with a model"),
        ("base --to merged", "holds no adapter alone"),
        ("adapter --to merged --output base", "base exists already"),
        ("adapter --to merged --no_private", "--no_private: only the Hub is told"),
        ("adapter --to merged --tokenizer base", "--tokenizer: this is of pairs"),
        ("base --push me/it --output x", "--output is what a form is written to"),
        ("pairs.jsonl --base base", "--base: this is of students"),
        ("empty --to merged", "has no config.json"),
        ("pairs.jsonl --config to.yaml", "a form of students, and stands in the config file"),
    ],
)
def test_what_does_not_go_together_is_said(here, told, hub, flags, said):
    Path("empty").mkdir()
    save_pairs(build_pairs(3), "pairs.jsonl")
    Path("to.yaml").write_text("to: merged\n")
    assert said in told("export", *flags.split(), status=1)
    assert not hub.made


def test_pairs_and_students_are_told_apart(here):
    for student in ("base", "adapter --push x", "smollm2-135m", "you/name --to merged", "--student x", "x --to=merged"):
        assert asks_for_a_student(student.split()), student
    for pairs in ("pairs.jsonl", "you/name", "pairs --to hub", "--pairs base", "nowhere --output x", ""):
        assert not asks_for_a_student(pairs.split()), pairs


def test_pairs_are_still_exported_without_torch(here):
    save_pairs(build_pairs(3), "pairs.jsonl")
    code = (
        "import sys; sys.argv = ['distill', 'export', 'pairs.jsonl']; from distill import cli; cli.main(); "
        "print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.stdout.splitlines()[-1] == "False", result.stderr
    rows = [json.loads(line) for line in Path("pairs.jsonl.messages.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == build_pairs(3)["id"]
