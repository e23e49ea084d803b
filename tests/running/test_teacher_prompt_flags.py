"""What only the teacher is shown, by flags of recipes: from the prompts' file to the pairs, and what a run is known by."""

import json

import pytest
from conftest import save_teacher, status_of

from distill.pairs import load_pairs
from distill.reports.provenance import drawn_as
from distill.running.flags import DataArguments, settings_of
from distill.running.stages import prepare_pairs
from distill.running.teacher_prompts import system_text, teacher_prompts
from distill.teachers import LocalTeacher
from recipes import black_box, generate, white_box

ROWS = [
    {"prompt": "why", "document": "the mat is blue"},
    {"prompt": "why", "document": "the mat is red"},
    {"prompt": "what", "document": None},
    {"prompt": "why", "document": "the mat is blue"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = save_teacher(tmp_path_factory.mktemp("teacher"))
    (made / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (made / "system.txt").write_text("the mat is blue\n")
    return made


def made(folder, tmp_path, *flags):
    teacher, prompts = (
        ["--teacher", str(folder)],
        [] if "--prompts" in flags else ["--prompts", str(folder / "prompts.txt")],
    )
    limits = ["--max_new_tokens", "6", "--output", str(tmp_path / "pairs.jsonl")]
    generate.main([*teacher, *prompts, *limits, *flags])
    return load_pairs(tmp_path / "pairs.jsonl")


@pytest.mark.parametrize("text", ["the mat is blue", "@"])
def test_a_system_text_is_the_teachers_alone(folder, tmp_path, text):
    text = f"@{folder / 'system.txt'}" if text == "@" else text
    pairs = made(folder, tmp_path, "--teacher_system", text)
    turn = {"role": "system", "content": "the mat is blue"}
    assert len(pairs) == 12
    assert all(shown == [turn, *prompt] for prompt, shown in zip(pairs["prompt"], pairs["teacher_prompt"], strict=True))
    assert drawn_as(tmp_path / "pairs.jsonl").sampling["teacher_system"] == "the mat is blue"


def test_a_column_is_asked_in_place_of_the_prompt(folder, tmp_path, capsys):
    """The same question about two documents is asked twice, and once where the file repeats both."""
    file = str(folder / "rows.jsonl")
    pairs = made(folder, tmp_path, "--prompts", file, "--teacher_prompt_column", "document")
    found = {(prompt[0]["content"], shown and shown[0]["content"]) for prompt, shown in zip(pairs["prompt"], pairs["teacher_prompt"], strict=True)}  # fmt: skip
    assert len(pairs) == 3
    assert found == {("why", "the mat is blue"), ("why", "the mat is red"), ("what", None)}
    assert "with which nobody is asked" not in capsys.readouterr().out


def test_both_sides_may_have_a_system_text_by_a_column_only(folder, tmp_path):
    file = str(folder / "rows.jsonl")
    pairs = made(folder, tmp_path, "--prompts", file, "--teacher_prompt_column", "document", "--system", "be short")
    assert {prompt[0]["content"] for prompt in pairs["prompt"]} == {"be short"}
    assert {shown[0]["role"] for shown in pairs["teacher_prompt"] if shown} == {"user"}


def test_a_column_that_is_not_asked_is_said(folder, tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "why", "teacher_prompt": "the mat is blue"}) + "\n")
    pairs = made(folder, tmp_path, "--prompts", str(tmp_path / "rows.jsonl"))
    assert "teacher_prompt" not in pairs.column_names
    assert "has a column teacher_prompt, with which nobody is asked; --teacher_prompt_column" in capsys.readouterr().out


def test_bad_values_of_the_column_are_set_aside_with_their_row(folder, tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [ROWS[0], {"prompt": "so", "document": 7}])
    )
    flags = ("--prompts", str(tmp_path / "rows.jsonl"), "--teacher_prompt_column", "document")
    assert len(made(folder, tmp_path, *flags, "--skip_bad", "True")) == 1
    assert json.loads((tmp_path / "pairs.jsonl.bad.jsonl").read_text())["where"].endswith("rows.jsonl:2")


BAD = {
    "both": (["--teacher_system", "a", "--teacher_prompt_column", "b"], "both say what the teacher is asked"),
    "plain": (["--teacher_system", "a", "--plain", "True"], "--teacher_system is a turn of a chat, and --plain"),
    "no file": (["--teacher_system", "@nowhere.txt"], "--teacher_system @nowhere.txt: the file cannot be read as text"),
    "no column": (["--teacher_prompt_column", "document"], "no column document"),
    "two systems": (["--teacher_system", "a", "--system", "b"], "has a system turn of its own"),
    "no words": (["--teacher_system", " "], "give some words"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_flags_that_contradict_are_refused(folder, tmp_path, kind, capsys):
    flags, message = BAD[kind]
    asked = [
        "--teacher",
        str(folder),
        "--prompts",
        str(folder / "prompts.txt"),
        "--output",
        str(tmp_path / "pairs.jsonl"),
    ]
    assert status_of(generate.main, [*asked, *flags])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "pairs.jsonl").exists()


def test_a_column_needs_a_file():
    with pytest.raises(ValueError, match="a column of --prompts, and there is no such file"):
        teacher_prompts(DataArguments(teacher_prompt_column="document"), ["why"], "pairs")


def test_pairs_that_are_there_are_not_asked(folder, tmp_path):
    args = DataArguments(pairs=str(tmp_path / "pairs.jsonl"), teacher_system="a")
    with pytest.raises(
        ValueError, match="--teacher_system is what a teacher is asked with, but --pairs are answered already"
    ):
        prepare_pairs(args, LocalTeacher(folder), tmp_path)


def test_a_run_is_known_by_the_text_and_not_by_the_files_name(folder, arguments):
    by_file = settings_of(DataArguments(teacher_system=f"@{folder / 'system.txt'}"), arguments())
    assert by_file == settings_of(DataArguments(teacher_system="the mat is blue"), arguments())
    assert by_file["teacher_system"] == system_text("the mat is blue")
    assert settings_of(DataArguments(), arguments())["teacher_system"] is None, "as good as missing: older runs go on"


def test_a_black_box_learns_the_bare_prompt(folder, tmp_path):
    """The recipe, from the flag to the card."""
    flags = ["--teacher", str(folder), "--prompts", str(folder / "prompts.txt"), "--teacher_system", "the mat is blue"]
    small = [
        "--held_out",
        "4",
        "--max_new_tokens",
        "6",
        "--layers",
        "2",
        "--strategy",
        "first_last",
        "--max_steps",
        "1",
        "--bf16",
        "False",
    ]
    black_box.main([*flags, *small, "--output_dir", str(tmp_path / "run")])
    facts = json.loads((tmp_path / "run" / "student" / "provenance.json").read_text())
    assert facts["pairs"]["teacher_prompts"]["pairs"] == facts["pairs"]["count"] == 8
    pairs = load_pairs(tmp_path / "run" / "pairs.jsonl")
    assert facts["pairs"]["longest_row"] <= max(len(r["prompt_ids"]) + len(r["completion_ids"]) for r in pairs)
    assert facts["sampling"]["teacher_system"].startswith("15 characters, sha256 ")
    card = (tmp_path / "run" / "student" / "README.md").read_text()
    assert "15 characters, sha256" in card
    assert "mat is blue" not in card + json.dumps(facts), "told from others, and not published"


@pytest.mark.parametrize("shown", [False, True])
def test_a_white_box_is_measured_and_taught_behind_what_the_teacher_was_shown(folder, tmp_path, shown):
    """Student and teacher are one model: told the same they agree, and told more the teacher is another."""
    both = ["--teacher", str(folder), "--student", str(folder), "--prompts", str(folder / "prompts.txt")]
    small = ["--held_out", "4", "--max_new_tokens", "6", "--max_steps", "1", "--learning_rate", "0", "--bf16", "False"]
    system = ["--teacher_system", "the mat is blue and the dog ran"] if shown else []
    white_box.main([*both, *small, *system, "--logging_steps", "1", "--output_dir", str(tmp_path / "run")])
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    first = next(entry for entry in history if "loss" in entry)
    measured = json.loads((tmp_path / "run" / "student" / "provenance.json").read_text())["held_out"]
    for value in (first["loss"], measured["eval_loss"], measured["kl"]):
        assert value > 1e-3 if shown else abs(value) < 1e-5
