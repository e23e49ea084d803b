"""What only the teacher is shown, by flags of recipes: from the prompts' file to the pairs, and what a run is known by."""

import json

import pytest
import torch
from conftest import save_teacher, status_of

from distill.models.load import fast_dtype
from distill.pairs import load_pairs
from distill.reports.provenance import drawn_as
from distill.running.flags import DataArguments, settings_of
from distill.running.stages import prepare_pairs, split_pairs
from distill.running.teacher_prompts import check_teacher_prompts, system_text
from distill.teachers import LocalTeacher
from recipes import black_box, compare, generate, white_box

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


OWN = [{"role": "system", "content": "the dog ran"}, {"role": "user", "content": "so"}]


@pytest.mark.parametrize("by", ["flag", "column"])
def test_both_sides_have_the_students_system_text(folder, tmp_path, by):
    """In rows with a teacher's prompt and in those without; a system turn of the teacher's own stands in its place."""
    rows = [*ROWS, {"prompt": "so", "document": OWN}]
    if by == "column":
        rows = [{**row, "system": "be short"} for row in rows]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--system", "be short"] if by == "flag" else []
    pairs = made(folder, tmp_path, "--prompts", str(file), "--teacher_prompt_column", "document", *flags)
    assert {prompt[0]["content"] for prompt in pairs["prompt"]} == {"be short"}
    shown = [turns and [turn["content"] for turn in turns] for turns in pairs["teacher_prompt"]]
    assert sorted(turns for turns in shown if turns) == [
        ["be short", "the mat is blue"], ["be short", "the mat is red"], ["the dog ran", "so"],
    ]  # fmt: skip
    assert len(pairs) == 4


@pytest.mark.parametrize("flags", [["--columns", "teacher_prompt=document"], ["--columns", "prompt=prompt,teacher_prompt=document", "--teacher_prompt_column", "document"]])  # fmt: skip
def test_a_column_may_be_named_among_columns(folder, tmp_path, flags):
    pairs = made(folder, tmp_path, "--prompts", str(folder / "rows.jsonl"), *flags)
    assert {shown and shown[0]["content"] for shown in pairs["teacher_prompt"]} == {
        "the mat is blue",
        "the mat is red",
        None,
    }


def test_a_recipe_that_asks_with_none_refuses_it_by_name(folder, tmp_path, capsys):
    flags = ["--prompts", str(folder / "rows.jsonl"), "--columns", "teacher_prompt=document"]
    assert status_of(compare.main, ["--teacher", str(folder), *flags, "--output_dir", str(tmp_path / "run")])
    assert "columns takes document for teacher_prompt, with which nobody is asked here" in capsys.readouterr().err


@pytest.mark.parametrize("near", [False, True])
def test_so_many_are_asked_and_the_record_is_of_them(folder, tmp_path, near, capsys):
    """Each prompt with each of its teacher's prompts counts; the file is read once, and says what it left out once."""
    rows = [
        {"prompt": f"tell me {i} of the many colours of this cat", "document": f"mat {i} {j}"}
        for i in range(3)
        for j in range(4)
    ]
    rows = [{"prompt": "what", "document": 7}, *rows, rows[0], {**rows[4], "document": None}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--teacher_prompt_column", "document", "--num_prompts", "6", "--skip_bad", "True", "--near", str(near)]
    pairs = made(folder, tmp_path, "--prompts", str(tmp_path / "rows.jsonl"), *flags)
    shown = {turns[0]["content"] for turns in pairs["teacher_prompt"]}
    assert shown == {f"mat {i} {j}" for i, j in ((0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1))}
    assert len(pairs) == 6
    (step,) = drawn_as(tmp_path / "pairs.jsonl").steps
    assert (step.rows_in, step.rows_out, step.settings["exact_repetitions"]) == (14, 13, 1)
    said = capsys.readouterr().out
    assert "Of 13 prompts and teacher's prompts, the first 6 are taken." in said
    assert (
        said.count("1 bad rows are left out")
        == said.count("repeated prompts: 1 of 14")
        == said.count("Carried along") + 1
        == 1
    )


@pytest.mark.parametrize("recipe", ["black_box", "white_box"])
@pytest.mark.parametrize(
    "kind", ["both", "no file of a text", "no column", "no prompts", "beside pairs", "two columns"]
)
def test_a_refused_flag_leaves_no_folder(folder, tmp_path, recipe, kind, capsys):
    """With the flag mended, the same command begins a run; nothing was loaded or asked before."""
    file = ["--prompts", str(folder / "rows.jsonl")]
    flags, message = {
        "both": ([*file, "--teacher_system", "a", "--columns", "teacher_prompt=document"], "both say what the teacher is asked"),
        "no file of a text": ([*file, "--teacher_system", "@nowhere"], "@nowhere: the file cannot be read"),
        "no column": ([*file, "--teacher_prompt_column", "other"], "no column other"),
        "no prompts": (["--teacher_prompt_column", "document"], "there is no such file"),
        "beside pairs": (["--pairs", str(folder / "rows.jsonl"), "--teacher_system", "a"], "--pairs are answered already"),
        "two columns": ([*file, "--columns", "teacher_prompt=prompt", "--teacher_prompt_column", "document"], "give one of them"),
    }[kind]  # fmt: skip
    main = {"black_box": black_box, "white_box": white_box}[recipe].main
    assert status_of(main, ["--teacher", str(folder), *flags, "--output_dir", str(tmp_path / "run")])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_flags_are_looked_at_before_the_teacher_writes_prompts(folder, tmp_path, capsys):
    output = ["--output", str(tmp_path / "pairs.jsonl"), "--num_prompts", "2"]
    for flags in (["--teacher_system", "@nowhere"], ["--teacher_prompt_column", "document"]):
        assert status_of(generate.main, ["--teacher", str(folder), *flags, *output])
        assert not list(tmp_path.iterdir())
    assert "nowhere" in capsys.readouterr().err


def test_a_text_may_begin_with_the_sign_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "system.txt").write_text("the mat is blue\n")
    assert system_text("@~/system.txt") == "the mat is blue"
    assert system_text("@@all be polite") == "@all be polite"
    assert system_text("be polite @all") == "be polite @all"
    with pytest.raises(ValueError, match="a text that begins with @ is given with @@"):
        system_text("@all be polite")


def test_a_column_that_is_not_asked_is_said(folder, tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "why", "teacher_prompt": "the mat is blue"}) + "\n")
    pairs = made(folder, tmp_path, "--prompts", str(tmp_path / "rows.jsonl"))
    assert "teacher_prompt" not in pairs.column_names
    assert (
        "has a column teacher_prompt, with which nobody is asked. The recipes generate, black_box and white_box ask"
        in capsys.readouterr().out
    )


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
    "plain beside a chat": (["--plain", "True", "--prompts", "ROWS", "--teacher_prompt_column", "turns"], "Prompt 1 of 1 is plain text for the student and a chat for the teacher"),
    "an empty text": (["--prompts", "ROWS", "--teacher_prompt_column", "empty"], "rows.jsonl:1: empty, the teacher's prompt: it is an empty text; give null"),
    "another kind": (["--prompts", "ROWS", "--teacher_prompt_column", "number"], "rows.jsonl:1: number, the teacher's prompt: A prompt is text"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_flags_that_contradict_are_refused(folder, tmp_path, kind, capsys):
    flags, message = BAD[kind]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "so", "turns": OWN, "empty": "", "number": 7}))
    flags = [str(tmp_path / "rows.jsonl") if flag == "ROWS" else flag for flag in flags]
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
        check_teacher_prompts(DataArguments(teacher_prompt_column="document"))


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
    trained, _ = split_pairs(load_pairs(tmp_path / "run" / "pairs.jsonl"), 4)
    bare, shown = (
        [len(pair[name]) + len(pair["completion_ids"]) for pair in trained]
        for name in ("prompt_ids", "teacher_prompt_ids")
    )
    assert sum(shown) > sum(bare) + 10 * len(trained)
    assert facts["pairs"]["longest_row"] == max(bare)
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    seen = json.loads((checkpoint / "trainer_state.json").read_text())["num_input_tokens_seen"]
    assert seen == sum(bare), "the one batch of its one step"
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
    # the teacher is loaded in bfloat16 where the machine is fast in it, the student in float32
    same = 1e-5 if fast_dtype() == torch.float32 else 5e-4
    for value in (first["loss"], measured["eval_loss"], measured["kl"]):
        assert value > 1e-3 if shown else abs(value) < same
