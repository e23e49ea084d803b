"""`distill export` of a student: its card goes along, the Hub gets what was written, wrong flags are named."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import build_model, build_pairs, build_tokenizer
from transformers import AutoModelForCausalLM, GgufConfig
from white_box_runs import fill

from distill.models.adapters import load_adapted, lora_config
from distill.models.forms import asks_for_a_student
from distill.pairs import save_pairs
from distill.reports.card import write_card

peft = pytest.importorskip("peft", reason="the extra peft is not installed")
pytest.importorskip("gguf", reason="the extra demo is not installed")
IDS = torch.arange(3, 40)[None]


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


@pytest.mark.parametrize("student", ["base", "adapter"])
def test_as_gguf_with_its_card(here, told, student):
    shown = told("export", student, "--to", "gguf", "--precision", "f32")
    assert f"{student}.gguf (llama, f32" in shown
    folder = Path(f"{student}-gguf")
    assert (folder / "README.md").is_file() is (student == "adapter")
    if student == "adapter":
        assert "library_name: gguf" in (folder / "README.md").read_text()
        assert "with its LICENSE.txt, README.md, provenance.json" in shown
    else:
        assert "it has no card" in shown
    setting = GgufConfig(gguf_file=f"{student}.gguf", dequantize=True)
    again = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=f"{student}.gguf", dtype=torch.float32, quantization_config=setting
    ).eval()
    wanted = load_adapted("adapter") if student == "adapter" else AutoModelForCausalLM.from_pretrained("base").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(IDS).logits, wanted(IDS).logits, rtol=1e-4, atol=1e-4)


def test_for_ollama_with_what_ends_an_answer(here, told, hub):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = Path(__file__).parents[1].joinpath("chats/qwen2_5.jinja").read_text()
    tokenizer.save_pretrained("base")
    shown = told("export", "adapter", "--to", "ollama", "--output", "o", "--push", "me/o")
    written = Path("o/Modelfile").read_text()
    assert written.startswith("FROM ./adapter.gguf\nTEMPLATE ")
    assert 'SYSTEM """You are Qwen' in written
    assert 'PARAMETER stop "<|im_end|>"' in written
    assert "a Modelfile (ChatML) in o" in shown
    assert "tools and thoughts have no place" in shown
    assert set(hub.files) == {"Modelfile", "adapter.gguf", "README.md", "provenance.json", "LICENSE.txt"}


def test_what_gguf_cannot_carry_leaves_nothing(here, told):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}!{% endfor %}"
    tokenizer.save_pretrained("base")
    assert "none of those that are known for Ollama" in told("export", "base", "--to", "ollama", status=1)
    assert "is a folder here, in which" in told("export", "base", "--to", "gguf", "--output", "x.gguf", status=1)
    assert "exists already" in told("export", "base", "--to", "gguf", "--output", "adapter", status=1)
    assert "one of auto, f32, f16, bf16, q8_0" in told("export", "base", "--to", "gguf", "--precision", "4", status=1)
    assert "--precision is f16, which a GGUF file has" in told(
        "export", "adapter", "--to", "merged", "--precision", "f16", status=1
    )
    config = Path("base/config.json")
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "quantization_config": {"quant_method": "bitsandbytes"}})
    )
    assert "has weights of few bits" in told("export", "base", "--to", "gguf", status=1)
    assert sorted(p.name for p in here.iterdir()) == ["adapter", "base"]


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
    for student in ("base", "adapter --push x", "smollm2-135m", "you/name --to gguf", "--student x", "x --to=ollama"):
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
