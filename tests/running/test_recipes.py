"""Recipes on a tiny model from a folder: whole runs, refusals, and Ctrl-C; where the process is the point, in one of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import SPECIAL, build_model, build_pairs, build_tokenizer, save_teacher, status_of

from distill import cli, load_pairs
from distill.running.folder import RunFolder
from distill.trainers.checkpoints import last_complete_checkpoint

ROOT = Path(__file__).parents[2]
TRAINED = ["--held_out", "3", "--per_device_train_batch_size", "4", "--bf16", "False"]
TINY = ["--layers", "2", "--max_new_tokens", "8", *TRAINED]
SECONDS = 300  # until a process that hangs is given up


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("teacher"))


def start(*command):
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a runner may have it ignored
    )  # fmt: skip


def run(*command, status=0):
    process = start(*command)
    try:
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == status, output
    return output


def compare(teacher, output, *flags):
    return ["--teacher", teacher, "--prompts", teacher / "prompts.txt", "--output_dir", output, *TINY, *flags]


def test_compare_writes_a_report_and_continues(teacher, tmp_path, told):
    three = compare(teacher, tmp_path / "run", "--max_steps", "3", "--points", "3")
    first = told("compare", *three)
    page = (tmp_path / "run" / "report.html").read_text()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert len(results["runs"]) == 4
    for entry in results["runs"]:
        assert [point["step"] for point in entry["curve"]] == [0, 1, 2, 3]
        assert entry["seconds"] > 0
        assert entry["tokens"] > 0
    assert page.count("<svg") == 2
    assert "://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")
    assert "left" in first
    again = told("compare", *three)
    assert "Continuing the run" in again
    assert "train_runtime" not in again, "a finished training was repeated"
    more = told("compare", *three, "--seeds", "3", "--answers", "2")
    assert more.count("'train_loss'") == 2, "a seed can be added to a run that is there"
    table = told("compare", *three, "--seeds", "1", "--answers", "1", "--ablation")
    assert table.count("'train_loss'") == 2, "and the ablation: two more ways"
    assert "| White box + hidden states + attention |" in table
    assert "What more of the inside adds" in (tmp_path / "run" / "report.html").read_text()
    other = told("compare", *three, "--max_steps", "4", status=1)
    assert "holds another run (max_steps: 3 there, 4 now)" in other
    assert "Traceback" not in other


@pytest.mark.parametrize("recipe", ["black_box", "white_box"])
def test_single_recipes_from_a_config_file(teacher, tmp_path, told, recipe):
    config = tmp_path / "config.yaml"
    config.write_text(f"teacher: {teacher}\nprompts: {teacher}/prompts.txt\nmax_steps: 9\nlayers: 2\nbf16: false\n")
    flags = ["--objectives", "logits,hidden=0.5,attention=0.5"] if recipe == "white_box" else []
    out = tmp_path / "run"
    output = told(
        recipe, "--config", config, "--max_steps", "2", "--held_out", "3", "--max_new_tokens", "8",
        "--output_dir", out, *flags,
    )  # fmt: skip
    assert "'eval_loss'" in output
    assert (out / "student" / "model.safetensors").is_file()
    if recipe == "white_box":
        assert "'attention'" in output
        assert "step 2: held-out KL" in output


def test_a_student_learns_from_its_own_text_by_flags(teacher, tmp_path, told):
    """A share of the rows, as the card has it; what is no share is refused before anything is made."""
    common = [
        "--teacher",
        teacher,
        "--prompts",
        teacher / "prompts.txt",
        *TRAINED,
        "--max_steps",
        "2",
        "--layers",
        "2",
        "--max_new_tokens",
        "8",
    ]
    out = tmp_path / "run"
    said = told(
        "white_box", *common, "--rollouts", "0:1", "--rollout_tokens", "6", "--rollout_first", "0.5", "--highest_kl", "inf", "--divergence", "reverse_kl",
        "--output_dir", out,
    )  # fmt: skip
    assert "Preflight of rollouts" in said
    # of two steps the second is the student's alone
    journal = [json.loads(line) for line in (out / "rollouts.jsonl").read_text().splitlines()]
    assert journal
    assert {row["step"] for row in journal} == {1}
    assert all(len(row["completion_ids"]) <= 6 for row in journal)
    facts = json.loads((out / "student" / "provenance.json").read_text())["rollouts"]
    assert (facts["share"]["start"], facts["share"]["end"], facts["max_new_tokens"], facts["first"]) == (0, 1, 6, 0.5)
    assert "the student's own text" in (out / "student" / "README.md").read_text()
    for share, words in (("half", "--rollouts is 'half'"), ("0:1:2", "--rollouts is '0:1:2'"), ("2", "share is 2.0")):
        refused = told("white_box", *common, "--rollouts", share, "--output_dir", tmp_path / "no", status=1)
        assert words in refused
        assert not (tmp_path / "no").exists()


def test_a_student_of_other_tokens_gets_the_text(teacher, tmp_path, told):
    other = tmp_path / "other"
    tokenizer = build_tokenizer(special=[*SPECIAL, "<extra>"])  # every id but the first three is another
    build_model(seed=5, vocab_size=400).save_pretrained(other)
    tokenizer.save_pretrained(other)
    common = [
        "--teacher",
        teacher,
        "--student",
        other,
        "--prompts",
        teacher / "prompts.txt",
        *TRAINED,
        "--max_steps",
        "1",
    ]
    common += ["--max_new_tokens", "8"]
    assert "tokenised anew" in told("black_box", *common, "--output_dir", tmp_path / "black")
    ready = ["--pairs", tmp_path / "black" / "pairs.jsonl", "--student", teacher, *TRAINED, "--max_steps", "1"]
    assert "tokenised anew" not in told("black_box", *ready, "--output_dir", tmp_path / "own")
    refused = told("white_box", *common, "--output_dir", tmp_path / "white", status=1)
    assert "different vocabularies" in refused
    assert "Traceback" not in refused


def interrupt(command, text):
    """Start, wait until `text` is printed, press Ctrl-C; all that was printed."""
    process = start(*command)
    deadline = threading.Timer(SECONDS, process.kill)  # a process that hangs says nothing more
    deadline.start()
    try:
        seen = ""
        for line in process.stdout:
            seen += line
            if text in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
        assert process.wait() == 130, seen + rest
    finally:
        deadline.cancel()
        process.kill()
    assert "Traceback" not in rest
    assert "the same command goes on from there" in rest
    return seen + rest


def test_ctrl_c_in_training_and_again(teacher, tmp_path, told):
    """Interrupted in the middle, the run ends with the very weights and curve of an unbroken one."""
    flags = ["--max_steps", "40", "--seeds", "1", "--logging_steps", "1"]
    told("compare", *compare(teacher, tmp_path / "whole", *flags))
    broken = compare(teacher, tmp_path / "broken", *flags)
    interrupt(["recipes/compare.py", *broken], "'loss'")
    assert last_complete_checkpoint(tmp_path / "broken" / "black_box-seed0") is not None
    told("compare", *broken)
    for way in ("black_box", "white_box"):
        a, b = (
            (tmp_path / name / f"{way}-seed0" / "student" / "model.safetensors").read_bytes()
            for name in ("whole", "broken")
        )
        assert a == b
        a, b = (
            json.loads((tmp_path / name / f"{way}-seed0" / "result.json").read_text()) for name in ("whole", "broken")
        )
        assert [p["held_out"] for p in a["curve"]] == [p["held_out"] for p in b["curve"]]


# `distill`, with a teacher that answers three batches and then waits for Ctrl-C
PAUSING = """
import time
from distill import cli, teachers

def complete(*args, batches=[], real=teachers.LocalTeacher.complete):
    batches.append(1)
    if len(batches) > 3:
        print("waiting", flush=True)
        time.sleep(3600)
    return real(*args)

teachers.LocalTeacher.complete = complete
cli.main()
"""


def test_ctrl_c_in_generation_and_again(teacher, tmp_path, told):
    """The final pairs are those of an unbroken run."""

    def flags(name):
        return [
            "--teacher", teacher, "--prompts", teacher / "prompts.txt", "--max_new_tokens", "24", "--batch_size", "2",
            "--output", tmp_path / name,
        ]  # fmt: skip

    interrupt(["-c", PAUSING, "generate", *flags("broken.jsonl")], "waiting")
    assert len((tmp_path / "broken.jsonl").read_bytes().splitlines()) == 6
    told("generate", *flags("broken.jsonl"))
    told("generate", *flags("whole.jsonl"))
    whole, broken = (load_pairs(tmp_path / f"{name}.jsonl") for name in ("whole", "broken"))
    assert len(whole) == 12
    assert sorted(whole.to_list(), key=lambda r: r["id"]) == sorted(broken.to_list(), key=lambda r: r["id"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--teacher", "./nowhere"], "No folder ./nowhere"),
        (["--prompts", "empty.txt"], "has no prompts"),
        (["--objectives", "logits,maps"], "it must list some of logits, hidden, attention"),
        (["--config", "none.yaml"], "Cannot read --config none.yaml"),
        (["--layers", "9"], "layers is 9, but the teacher has 4"),
        (["--answers", "0"], "answers is 0; it must be at least 1"),
    ],
)
def test_bad_input_is_one_sentence(teacher, tmp_path, flags, words, told):
    (tmp_path / "empty.txt").write_text("")
    flags = [str(tmp_path / flag) if flag == "empty.txt" else flag for flag in flags]
    output = told("compare", *compare(teacher, tmp_path / "run", "--max_steps", "1", *flags), status=1)
    assert words in output
    assert "Traceback" not in output


def test_config_files_are_checked(tmp_path):
    from distill.running.flags import DataArguments, parse

    (tmp_path / "a.yaml").write_text("layrs: 3\n")
    (tmp_path / "b.yaml").write_text("- 3\n")
    for name, words in (("a", "names layrs, which is no flag"), ("b", "must hold names and values")):
        with pytest.raises(ValueError, match=words):
            parse((DataArguments,), ["--config", str(tmp_path / f"{name}.yaml")], defaults={}, description="")


def test_held_out_prompts_are_kept_apart_whatever_the_order_of_the_file():
    from distill.pairs.schema import pairs_from_rows
    from distill.running.stages import split_pairs

    rows = [{**row, "id": f"{row['id']}-{s}", "sample": s} for row in build_pairs(10) for s in (0, 1)]
    train, held_out = split_pairs(pairs_from_rows(rows, "test"), 3)
    assert (len(train), len(held_out)) == (14, 6)
    assert not {tuple(ids) for ids in train["prompt_ids"]} & {tuple(ids) for ids in held_out["prompt_ids"]}
    _, again = split_pairs(pairs_from_rows(rows[::-1], "test"), 3)
    assert set(again["id"]) == set(held_out["id"])
    for bad in (0, 10):
        with pytest.raises(ValueError, match=f"held_out is {bad}"):
            split_pairs(pairs_from_rows(rows, "test"), bad)


def test_a_folder_of_something_else_is_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty \(thesis.txt\)"):
        RunFolder(tmp_path, {})
    assert [p.name for p in tmp_path.iterdir() if p.name != ".lock"] == ["thesis.txt"]


def test_the_command(monkeypatch, capsys):
    assert "compare" in run("-m", "distill.cli")
    assert "no verb 'train'" in run("-m", "distill.cli", "train", status=1)
    monkeypatch.setattr(sys, "argv", ["distill", "generate", "--help"])
    assert status_of(lambda _: cli.main(), []) == 0
    assert "--max_new_tokens" in capsys.readouterr().out
