"""A real server: `transformers serve` with the embedded model. It ignores `n`, and temperature where nothing says sample."""

import importlib.util
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import free_port

from distill import generate
from distill.models.load import resolve_model
from distill.teachers import ServerTeacher

PROMPTS = ["Name a colour.", "What is rain?"]


@pytest.fixture(scope="module")
def served(real_teacher, tmp_path_factory):
    """Address and model name of a running server."""
    missing = [name for name in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"`transformers serve` needs {', '.join(missing)}: pip install 'transformers[serving]'.")
    port = free_port()
    folder = resolve_model("smollm2-135m")
    log = tmp_path_factory.mktemp("server") / "log.txt"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(log.parent)}
    command = [str(Path(sys.executable).parent / "transformers"), "serve", folder, "--port", str(port)]
    with log.open("w") as file:
        process = subprocess.Popen([*command, "--host", "127.0.0.1"], stdout=file, stderr=file, env=environment)
    try:
        until = time.monotonic() + 600
        while not _healthy(port):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < until, "the server did not start in 10 minutes"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", folder
    finally:
        process.kill()
        process.wait(30)


def _healthy(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


@pytest.mark.real
def test_chat_samples_and_a_rerun_that_asks_nothing(served, real_teacher, tmp_path, capsys, monkeypatch):
    url, model = served
    teacher = ServerTeacher(url, model, tokenizer=real_teacher.tokenizer, concurrency=2)
    setting = {"samples": 2, "max_new_tokens": 6, "temperature": 0.7, "progress": False}
    pairs = generate(teacher, PROMPTS, output=tmp_path / "pairs.jsonl", **setting)
    assert [(row["prompt"][0]["content"], row["sample"]) for row in pairs] == [(p, s) for p in PROMPTS for s in (0, 1)]
    for row in pairs:
        assert row["prompt_ids"] == real_teacher.resolve_prompt(row["prompt"])[1]
        assert row["token_source"] == "text"
        assert real_teacher.tokenizer.decode(row["completion_ids"], skip_special_tokens=True) == row["completion"] != ""
    assert "2 of 2 prompts have identical samples at temperature 0.7" in capsys.readouterr().err
    monkeypatch.setattr(ServerTeacher, "complete_each", None)  # a rerun has nothing to ask
    again = ServerTeacher(url, model, tokenizer=real_teacher.tokenizer)
    assert generate(again, PROMPTS, output=tmp_path / "pairs.jsonl", **setting).to_list() == pairs.to_list()


@pytest.mark.real
def test_it_samples_where_it_is_told_to(served, real_teacher):
    """With one request at a time its seed counts, too."""
    url, model = served
    sample = {"generation_config": '{"do_sample": true, "top_k": 0, "eos_token_id": 2, "pad_token_id": 2}'}
    teacher = ServerTeacher(url, model, tokenizer=real_teacher.tokenizer, concurrency=1, extra_body=sample)
    first, second = (generate(teacher, PROMPTS[:1], samples=2, max_new_tokens=6, progress=False) for _ in range(2))
    assert len(set(first["completion"])) == 2
    assert first.to_list() == second.to_list()


@pytest.mark.real
def test_plain_text_is_continued_as_the_model_itself_would(served, real_teacher):
    url, model = served
    teacher = ServerTeacher(url, model, tokenizer=real_teacher.tokenizer, chat=False)
    (row,) = generate(teacher, ["The capital of France is"], max_new_tokens=6, temperature=0, progress=False)
    assert (row["prompt"], row["finish_reason"]) == ("The capital of France is", "length")
    assert "Paris" in row["completion"]


@pytest.mark.real
def test_a_name_that_the_server_does_not_have(served, real_teacher):
    teacher = ServerTeacher(served[0], "another", tokenizer=real_teacher.tokenizer)
    with pytest.raises(ValueError, match="does not know this address or this model.*pinned"):
        generate(teacher, PROMPTS[:1], max_new_tokens=2, progress=False)
