"""Verified reasoning distillation, run whole on tiny models: the default task, and R1's settings with its template."""

import json
import re
from pathlib import Path

import pytest
from chat_templates import FAMILIES
from conftest import SPECIAL, build_model, build_tokenizer
from distill.recipes import reasoning
from fake_server import FakeServer
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from distill import load_pairs
from distill.basics.terminal import printable
from distill.models.load import load_tokenizer

SETTINGS = Path(__file__).parents[2] / "recipes" / "settings"
TINY = ["--bf16", "False", "--max_new_tokens", "6", "--save_strategy", "no", "--generation_batch_size", "32"]
# random models are never right: this verifier takes some of their words for it, always the same ones
VERIFIER = """\
def even(row, completion):
    assert row["answer"]
    return len(completion) % 2 == 0
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reasoning")
    (folder / "verifier.py").write_text(VERIFIER)
    build_model(max_position_embeddings=512).save_pretrained(folder / "teacher")
    build_tokenizer().save_pretrained(folder / "teacher")
    return folder


def flags(place, output, *more):
    return [
        *TINY, "--teacher", str(place / "teacher"), "--verifier", f"{place}/verifier.py:even", "--output_dir", str(output),
        "--cut", "keep", "--num_prompts", "8", "--held_out", "5", "--samples", "2", "--seeds", "2", *more,
    ]  # fmt: skip


def test_both_ways_train_on_as_many_pairs_and_a_rerun_repeats_nothing(place, tmp_path, capsys):
    output = tmp_path / "run"
    reasoning.main(flags(place, output, "--num_train_epochs", "1"))
    first = capsys.readouterr().out
    report = (output / "report.md").read_bytes().decode()  # as written: a model without training writes any character
    assert printable(report) in first
    assert "teacher, with the examples" in report
    drawn = load_pairs(output / "samples.jsonl")
    assert len(drawn) == 16
    assert all(len(shown) == 9 for shown in drawn["teacher_prompt"]), "four worked examples, then the question"
    assert all(shown[-1:] == prompt for shown, prompt in zip(drawn["teacher_prompt"], drawn["prompt"], strict=True))
    facts = {way: json.loads((output / f"{way}-seed1/student/provenance.json").read_text()) for way in reasoning.WAYS}
    correct = sum(len(text) % 2 == 0 for text in drawn["completion"])
    assert facts["verified"]["pairs"]["count"] == facts["unverified"]["pairs"]["count"] == correct
    assert facts["verified"]["pairs"]["teacher_prompts"]["pairs"] == correct
    assert facts["verified"]["sampling"]["worked_examples"]
    assert [step["name"] for step in facts["verified"]["steps"]] == ["questions", "cut traces", "keep all"]
    assert facts["verified"]["pairs"]["sha256"] != facts["unverified"]["pairs"]["sha256"]
    before = {path: path.stat().st_mtime_ns for path in output.glob("*/accuracy.json")}
    assert len(before) == 4
    reasoning.main(flags(place, output, "--num_train_epochs", "1"))
    again = capsys.readouterr().out
    assert printable(report) in again
    assert "train_runtime" not in again
    assert before == {path: path.stat().st_mtime_ns for path in output.glob("*/accuracy.json")}


@pytest.mark.parametrize("which", ["r1_qwen2.5_math_7b", "r1_llama_3.1_8b"])
def test_the_r1_settings_on_both_architectures_with_the_template_that_opens_a_trace(which, place, tmp_path):
    """As documented: a server that gives its reasoning apart, a base model, and the tokenizer of the published student."""
    tokenizer = FAMILIES["deepseek-r1-distill"].tokenizer()
    sizes = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    model = Qwen2ForCausalLM(Qwen2Config(**sizes)) if "qwen" in which else LlamaForCausalLM(LlamaConfig(**sizes))
    model.save_pretrained(tmp_path / "student")
    build_tokenizer(template=None).save_pretrained(tmp_path / "student")  # a base model's, without a template
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    rows = [{"prompt": f"what is {i} and {i}?", "answer": str(2 * i)} for i in range(12)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "run"
    with FakeServer(reasoning="reasoning_content") as server:
        flags = [
            "--config", str(SETTINGS / f"{which}.yaml"), "--teacher", server.url, "--student", str(tmp_path / "student"),
            "--prompts", str(tmp_path / "questions.jsonl"), "--output_dir", str(output),
            "--verifier", f"{place}/verifier.py:even", "--num_prompts", "8", "--held_out", "4",
            "--max_length", "160", "--gradient_accumulation_steps", "2", "--max_steps", "2", *TINY,
        ]  # fmt: skip
        reasoning.main([*flags, "--tokenizer", str(tmp_path / "tokenizer")])
    settings = json.loads((output / "run.json").read_text())
    assert settings["learning_rate"] == (8e-5 if "qwen" in which else 5e-5)
    assert settings["lr_scheduler_type"] == "cosine_with_min_lr"
    assert settings["lr_scheduler_kwargs"] == {"min_lr_rate": 0.1}
    assert len(server.asked) == 8 * 4
    for asked in server.asked:
        assert (asked["path"], asked["temperature"], asked["top_p"]) == ("/v1/chat/completions", 0.6, 0.95)
        assert asked["messages"][-1]["content"].endswith("within \\boxed{}.")
    drawn = load_pairs(output / "samples.jsonl")
    for ids, text in zip(drawn["prompt_ids"], drawn["completion"], strict=True):
        assert tokenizer.decode(ids).endswith("<｜Assistant｜><think>\n")
        assert re.fullmatch(r"I think of \w+\.\n</think>\n\n.+", text)
    trained = load_tokenizer(output / "verified-seed0/student")
    assert trained.eos_token == "<｜end▁of▁sentence｜>"
    assert trained.chat_template == tokenizer.chat_template
    assert not (output / "unverified-seed0").exists(), "the recipe as published has no control"


def test_a_base_model_without_a_template_is_not_asked_in_plain_text_unawares(place, tmp_path, capsys):
    build_model().save_pretrained(tmp_path / "student")
    build_tokenizer(template=None).save_pretrained(tmp_path / "student")
    with FakeServer() as server:
        flags = ["--teacher", server.url, "--student", str(tmp_path / "student"), "--output_dir", str(tmp_path / "run")]
        with pytest.raises(SystemExit):
            reasoning.main([*TINY, *flags])
        assert "has no chat template" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
        build_tokenizer(special=[*SPECIAL, *(f"<extra{i}>" for i in range(200))]).save_pretrained(tmp_path / "other")
        small = ["--num_prompts", "4", "--held_out", "2", "--samples", "1", "--verifier", f"{place}/verifier.py:even"]
        with pytest.raises(SystemExit):
            reasoning.main([*TINY, *flags, *small, "--tokenizer", str(tmp_path / "other")])
    assert "it is another model's" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--prompts", "questions.jsonl"], "examples are of chain_sum"),
        (["--keep", "up_to"], "k is None"),
        (["--samples", "0"], "samples is 0"),
        (["--teacher", "http://localhost:1/v1"], "name a student"),
        (["--task", "no_such_task", "--examples", "none"], "no task 'no_such_task'"),
        (["--num_prompts", "5000"], "distinct questions"),
        (["--verifier", "nonsense"], "nonsense"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(place, tmp_path, capsys, more, words):
    with pytest.raises(SystemExit):
        reasoning.main(flags(place, tmp_path / "run", *more))
    assert words in capsys.readouterr().err
