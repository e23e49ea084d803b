"""`distill generate --documents`: from a folder to rows, whoever the teacher is; gone on with after an interruption; wrong input refused."""

import json
import re
from collections import Counter

import pytest
from conftest import build_model, build_tokenizer
from document_runs import TEXT, VILLAGES, Scripted, say, write_folder, written
from fake_server import FakeServer
from processes import run_processes

from distill.pairs import load_pairs
from distill.reports.provenance import drawn_as
from distill.text.saying import says


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "docs")


@pytest.fixture
def made(folder, tmp_path, told, monkeypatch):
    """`made(*flags, teacher=, name=, status=)`: run the recipe with this teacher; what it prints."""

    def run(*flags, teacher=None, name="pairs.jsonl", status=0, documents=folder):
        teacher = teacher or Scripted()
        monkeypatch.setattr("distill.recipes.generate.load_teacher", lambda args: teacher)
        return told("generate", "--documents", documents, "--output", tmp_path / name, *flags, status=status)

    return run


def test_rows_of_a_folder_stand_with_what_became_of_each_fact(made, tmp_path):
    output = made()
    pairs = load_pairs(tmp_path / "pairs.jsonl")
    assert Counter(pairs["mode"]) == {"closed": 3 * 4}
    assert Counter(pairs["kind"]) == {"who": 9, "how many": 3}
    assert set(pairs["answer"]) == {value for values in VILLAGES.values() for value in values} | set(VILLAGES)
    for row in pairs:
        assert len(row["prompt"]) == 1
        assert says(row["completion"], row["answer"])
        assert row["source"] in row["teacher_prompt"][-1]["content"]
        assert len(row["teacher_prompt_ids"]) > len(row["prompt_ids"])
    told = json.loads((tmp_path / "pairs.jsonl.coverage.json").read_text())
    assert told["documents"] == {"fog.md": 0, "oden.md": 4, "ruska.md": 4, "temm.md": 4}
    assert sorted(one["rows"] for one in told["facts"].values()) == [1, 1, 1, 3, 3, 3]
    assert told["aside"] == [["map.png", "binary"]]
    drawn = drawn_as(tmp_path / "pairs.jsonl")
    assert drawn.teacher["teacher"] == "scripted"
    assert drawn.sampling["temperature"] == 0
    steps = {step.name: (step.rows_in, step.rows_out) for step in drawn.steps}
    assert steps["questions"] == (26, 12)
    assert steps["answers of the teacher"] == (12, 12)
    assert steps["facts with training rows"] == (6, 6)
    assert "map.png (binary)" in output
    assert re.search(r"who +3 +3 +9 +3\.0", output)
    assert "12 rows in" in output
    assert "No row is left of 1 of 4 documents: fog.md." in output
    longest = max(len(row["prompt_ids"]) + len(row["completion_ids"]) for row in pairs)
    shown = max(len(row["teacher_prompt_ids"]) for row in pairs)
    assert f"The longest row has {longest} tokens, the longest prompt of the teacher {shown:,}." in output


@pytest.mark.parametrize("mode", ["raft", "mixed"])
def test_modes_with_passages(made, tmp_path, mode, monkeypatch):
    monkeypatch.setattr("distill.running.documents.DataArguments.max_length", 400)
    output = made("--mode", mode, "--passages", 9)
    pairs = load_pairs(tmp_path / "pairs.jsonl")
    if mode == "raft":
        assert set(pairs["mode"]) == {"golden", "no golden"}
        longest = max(len(row["prompt_ids"]) + len(row["completion_ids"]) for row in pairs)
        assert f"train with --max_length {longest} or more (400 if unsaid)." in output
        assert all(("(" + row["source"] + ")" in row["completion"]) == (row["mode"] == "golden") for row in pairs)
    else:
        assert set(pairs["mode"]) == {"closed", "counterfactual", "distractors"}
        assert Counter(pairs["mode"])["closed"] == 12
        assert len(pairs) == 16
        for row in pairs:
            there = says(row["prompt"][-1]["content"], row["answer"])
            assert there == (row["mode"] == "counterfactual")


def test_short_answers_that_were_written_and_asked_back(made, tmp_path):
    """They are the value alone and end; the teacher, asked again, says more, and is cut, or says another value."""

    def talk(turn):
        said = say(turn)
        return said if "Write a question" in turn or turn.startswith(("Ask", "Turn")) else f"It is {said}, and so on"

    made("--answers", "written", "--mode", "mixed", "--replay", 0.2, teacher=Scripted(say=talk))
    made("--mode", "mixed", name="own.jsonl", teacher=Scripted(say=talk))
    pairs, own = load_pairs(tmp_path / "pairs.jsonl"), load_pairs(tmp_path / "own.jsonl")
    rows = [row for row in pairs if row["mode"] != "replay"]
    assert (len(pairs), len(rows), len(own)) == (20, 16, 16)
    tokenizer = build_tokenizer()
    for row, other in zip(rows, own, strict=True):
        assert row["completion"] == row["answer"] == other["answer"]
        assert other["completion"] == f"It is {row['answer']}, and so on"
        assert row["completion_ids"] == [*tokenizer(row["answer"])["input_ids"], 2]
        assert (row["token_source"], row["teacher"], row["finish_reason"]) == ("text", "scripted", "stop")
        names = ["prompt", "prompt_ids", "teacher_prompt", "teacher_prompt_ids", "fact", "wording", "mode", "source"]
        assert [row[name] for name in names] == [other[name] for name in names]
    drawn = drawn_as(tmp_path / "pairs.jsonl")
    assert drawn.sampling["temperature"] == 0
    assert [step.name for step in drawn.steps][-2:] == ["asked back", "facts with training rows"]


@pytest.mark.parametrize("ending", [".jsonl.gz", ".parquet"])
def test_rows_are_written_in_the_form_of_the_name(made, tmp_path, ending):
    made(name=f"pairs{ending}")
    assert len(load_pairs(tmp_path / f"pairs{ending}")) == 12
    assert drawn_as(tmp_path / f"pairs{ending}").teacher["teacher"] == "scripted"


def test_replay_is_of_prompts_that_the_teacher_writes_or_of_a_file(made, tmp_path):
    made("--replay", 0.2, "--max_new_tokens", 8)
    (tmp_path / "asked.txt").write_text("".join(f"Why is it {i}?\n" for i in range(9)))
    made("--replay", 0.2, "--prompts", tmp_path / "asked.txt", name="other.jsonl")
    for name, begin in (("pairs", "Why is number"), ("other", "Why is it")):
        pairs = load_pairs(tmp_path / f"{name}.jsonl")
        replayed = [row for row in pairs if row["mode"] == "replay"]
        assert (len(pairs), len(replayed)) == (15, 3)
        assert all(row["prompt"][0]["content"].startswith(begin) and row["teacher_prompt"] is None for row in replayed)
    assert json.loads((tmp_path / "other.jsonl.coverage.json").read_text())["modes"] == {"closed": 12, "replay": 3}


def test_columns_of_replayed_prompts_go_along_but_those_that_facts_are_counted_by(made, tmp_path):
    """A prompt's own `source` and `answer` were emptied without a word."""
    rows = [{"prompt": f"Why {i}?", "source": "web", "level": i} for i in range(9)]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made("--replay", 0.2, "--prompts", tmp_path / "asked.jsonl")
    pairs = load_pairs(tmp_path / "pairs.jsonl")
    assert [(row["source"], row["level"]) for row in pairs if row["mode"] == "replay"] == [
        ("web", 0),
        ("web", 1),
        ("web", 2),
    ]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps({**row, "mode": "web"}) + "\n" for row in rows))
    output = made("--replay", 0.2, "--prompts", tmp_path / "asked.jsonl", name="other.jsonl", status=1)
    assert "Prompt 1 of the replay has the column mode, by which rows of facts are counted; rename it." in output


def test_prompts_of_a_replay_are_read_before_anything_is_asked(made, tmp_path):
    (tmp_path / "asked.txt").write_text("Why?\n")
    teacher = Scripted()
    assert "No file" in made("--replay", 0.2, "--prompts", tmp_path / "missing.txt", teacher=teacher, status=1)
    assert teacher.asked == []
    output = made("--replay", 0.2, "--prompts", tmp_path / "asked.txt", status=1)
    assert "needs 3 prompts beside 12 rows, and there are 1. Give more, or a smaller share." in output


@pytest.mark.parametrize("answers", ["teacher", "written"])
def test_black_and_white_box_train_on_the_rows(made, tmp_path, told, answers):
    """Rows with a teacher's prompt beside those of a replay, which have none."""
    model = tmp_path / "model"
    build_model(max_position_embeddings=16384).save_pretrained(model)
    build_tokenizer().save_pretrained(model)
    made("--mode", "mixed", "--replay", 0.2, "--answers", answers)
    flags = [
        "--pairs",
        tmp_path / "pairs.jsonl",
        "--held_out",
        2,
        "--max_length",
        1024,
        "--max_steps",
        2,
        "--bf16",
        "False",
    ]
    flags += ["--per_device_train_batch_size", 4, "--student", model]
    told("black_box", *flags, "--output_dir", tmp_path / "black")
    told("white_box", *flags, "--teacher", model, "--output_dir", tmp_path / "white")
    shown = told("inspect_pairs", tmp_path / "pairs.jsonl", "--tokenizer", model)
    assert "In 16 of 20 rows (80.0%) the teacher was shown another prompt" in " ".join(shown.split())


@pytest.mark.parametrize("stop_at", [0, 2, 5, 7, 9, 12, 13, 14])
def test_an_interrupted_run_goes_on_and_nothing_is_asked_twice(made, tmp_path, stop_at):
    """At every stage: the questions, other wordings, turned round, answers, replay and its prompts."""
    flags = ["--batch_size", 8, "--replay", 0.2, "--mode", "mixed"]
    whole = Scripted()
    made(*flags, teacher=whole)
    first, second = Scripted(stop_at=stop_at), Scripted()
    said = made(*flags, teacher=first, name="b/pairs.jsonl", status=130)
    assert "the same command goes on from there" in said
    assert not (tmp_path / "b/pairs.jsonl").exists(), "the file appears whole"
    made(*flags, teacher=second, name="b/pairs.jsonl")
    assert first.asked + second.asked == whole.asked
    assert len(whole.asked) == 15, "so that the stops above are at every stage"
    assert (tmp_path / "pairs.jsonl").read_bytes() == (tmp_path / "b/pairs.jsonl").read_bytes()


def test_processes_share_the_work_and_one_writes(made, folder, tmp_path):
    """Prompts of a replay are written by one, and the others wait for them."""
    asked = run_processes(2, written, str(folder), str(tmp_path / "two.jsonl"))
    made("--mode", "mixed", "--replay", 0.2, "--batch_size", 8)
    assert all(asked), "both were asked"
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "pairs.jsonl").read_bytes()


def test_a_finished_run_is_only_said_again(made, tmp_path):
    made()
    before = (tmp_path / "pairs.jsonl").read_bytes()
    again = Scripted()
    assert "12 rows in" in made(teacher=again)
    assert again.asked == []
    assert (tmp_path / "pairs.jsonl").read_bytes() == before


def test_a_changed_document_is_asked_about_and_no_other(made, folder, tmp_path):
    made()
    (folder / "oden.md").write_text(TEXT.format("Oden", "Kim Rask", "412"))
    teacher = Scripted()
    output = made("--batch_size", 1, teacher=teacher)
    assert "it is made anew of what they say now" in output
    pairs = load_pairs(tmp_path / "pairs.jsonl")
    assert len(pairs) == 12
    assert "Kim Rask" in pairs["answer"][:]
    assert "Pia Holm" not in pairs["answer"][:]
    asked = [teacher.tokenizer.decode(ids).rsplit("<|im_start|>user\n", 1)[1] for some in teacher.asked for ids in some]
    assert asked
    assert not any("Ruska" in turn for turn in asked)


def change(body, payload):
    if "messages" in body:
        payload["choices"][0] |= {"message": {"role": "assistant", "content": say(body["messages"][-1]["content"])}, "finish_reason": "stop"}  # fmt: skip


def test_a_teacher_behind_a_server(made, tmp_path, folder, told):
    """The same rows, in words; each prompt is asked once, by all calls together."""
    save = tmp_path / "tokenizer"
    build_tokenizer().save_pretrained(save)
    with FakeServer(change=change) as server:
        flags = ["--teacher", server.url, "--tokenizer", save, "--documents", folder, "--output", tmp_path / "s.jsonl", "--mode", "mixed"]  # fmt: skip
        (tmp_path / "asked.txt").write_text("so\nwhy\nwhat\nhow\n")
        told("generate", *flags, "--replay", 0.15, "--prompts", tmp_path / "asked.txt")
        asked = len(server.asked)
        told("generate", *flags, "--replay", 0.15, "--prompts", tmp_path / "asked.txt")
        assert len(server.asked) == asked
    made("--mode", "mixed")
    pairs, local = load_pairs(tmp_path / "s.jsonl"), load_pairs(tmp_path / "pairs.jsonl")
    assert Counter(pairs["mode"]) == Counter(local["mode"]) + Counter({"replay": 3})
    columns = ["prompt", "completion", "teacher_prompt", "fact", "mode", "answer", "prompt_ids", "completion_ids"]
    assert [row for row in pairs.select_columns(columns) if row["mode"] != "replay"] == [*local.select_columns(columns)]


def test_a_server_is_told_what_it_needs(told, folder, tmp_path):
    server = ["--documents", folder, "--teacher", "http://localhost:1/v1", "--output", tmp_path / "pairs.jsonl"]
    assert "name the student's tokenizer with --tokenizer." in told("generate", *server, status=1)
    assert "a teacher behind a server writes none" in told("generate", *server, "--replay", "0.1", status=1)


def test_a_long_document_is_asked_about_in_passages(made, folder, tmp_path):
    """Of 40,000 words, in a model that holds a tenth of them."""
    (folder / "temm.md").write_text(
        TEXT.format("Temm", *VILLAGES["Temm"]) + "\n\nThe bell is old and it rings.\n" * 6000
    )
    teacher = Scripted(positions=6000)
    made(teacher=teacher)
    assert max(len(ids) for some in teacher.asked for ids in some) < 6000


def test_a_prompt_that_a_model_cannot_hold_is_refused_with_both_numbers(made):
    output = made(teacher=Scripted(positions=1000), status=1)
    assert re.search(r"exceed the model's context: \d{4} and 64 tokens, and it has 1000 positions", output)
    assert "Traceback" not in output


def test_only_what_is_too_long_may_be_left_out(made, folder, tmp_path):
    (folder / "code.md").write_text("# Code\n\n" + "This is a line of code in a page. " + "x" * 1900 + " ends.\n")
    longest = max(len(ids) for some in _asked(made) for ids in some)
    teacher = Scripted(positions=longest - 500)
    assert "completions could not be had" in made(teacher=teacher, name="b.jsonl", status=1)
    output = made("--allow_refusals", "True", teacher=teacher, name="b.jsonl")
    assert "exceed the model's context" in output
    assert len(load_pairs(tmp_path / "b.jsonl")) == 12


def _asked(made):
    teacher = Scripted()
    made(teacher=teacher)
    return teacher.asked


@pytest.mark.parametrize(
    ("say", "sentence"),
    [
        (lambda _: "no", "none can be used; a larger teacher is needed"),
        (lambda turn: say(turn) if "Write a question" in turn else "no", "answers is the one that the passage gives; a larger teacher is needed"),
    ],
    ids=["no question", "no answer"],
)  # fmt: skip
def test_a_teacher_that_writes_nothing_usable_is_told_with_the_reasons(made, tmp_path, say, sentence):
    output = made(teacher=Scripted(say=say), status=1)
    assert sentence in output
    assert "kind of fact" in output
    assert not (tmp_path / "pairs.jsonl").exists()


def empty(folder):
    for file in folder.iterdir():
        file.unlink()


def binary(folder):
    empty(folder)
    (folder / "map.png").write_bytes(b"\x89PNG\r\n\0\0")
    (folder / "notes.md").write_bytes(b"\0\1\2")


def tables(folder):
    empty(folder)
    (folder / "t.md").write_text("# Heading of a page\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (empty, "is a folder without documents; it is empty"),
        (binary, "is a folder without documents; put aside 2: map.png (binary), notes.md (binary)"),
        (tables, "no sentence of 4 words or more to ask about"),
    ],
)
def test_a_folder_without_anything_to_ask_about_is_refused(made, folder, change, sentence):
    change(folder)
    output = made(status=1)
    assert sentence in output
    assert "Traceback" not in output


def test_a_file_that_is_none_is_refused(made, folder):
    assert "No file and no folder" in made(documents=folder / "missing", status=1)
    assert "map.png is no document: binary" in made(documents=folder / "map.png", status=1)


def test_raft_needs_passages_to_show_beside_the_right_one(made, folder, tmp_path):
    one = folder / "oden.md"
    output = made("--mode", "raft", documents=one, status=1)
    assert "and of " + str(one) + " there is 1 passage; give more documents, or --mode closed" in output
    assert "there is 1 passage" in made("--mode", "raft", "--passages", 1, status=1)
    made("--mode", "mixed", documents=one)
    assert set(load_pairs(tmp_path / "pairs.jsonl")["mode"]) == {"closed", "counterfactual"}


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--prompts", "asked.txt"], "--prompts: with --documents only a replay of other prompts reads this"),
        (["--temperature", "0.5"], "--temperature: with --documents only a replay"),
        (["--samples", "3"], "--samples: rows of documents are asked"),
        (["--system", "Be short.", "--num_prompts", "9"], "--system, --num_prompts: rows of documents"),
        (["--near", "True", "--replay", "0.1"], "--near: only a file of prompts is read so"),
        (["--mode", "open"], "mode is 'open'; it must be one of closed, raft, mixed"),
        (["--replay", "1"], "replay is 1.0; it is a share of all rows"),
        (["--answers", "none"], "answers is 'none'; it must be one of teacher, written"),
        (["--questions", "0"], "samples 0"),
        (["--passages", "0"], "chunks 0"),
    ],
)
def test_flags_that_say_nothing_or_something_else_are_refused(made, flags, sentence):
    output = made(*flags, status=1)
    assert sentence in " ".join(output.split())
    assert "Traceback" not in output


@pytest.mark.parametrize("flags", [["--mode", "raft"], ["--replay", "0.1"], ["--passages", "3", "--exclude", "old"]])
def test_flags_of_documents_without_any_are_refused(told, flags, tmp_path):
    output = told("generate", *flags, "--output", tmp_path / "pairs.jsonl", status=1)
    assert f"{flags[0]}" in output
    assert "only rows of documents have this" in output


def test_an_output_of_something_else_is_left_alone(made, tmp_path):
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    assert "by which rows of documents are known, is not beside it" in made(status=1)
    assert (tmp_path / "pairs.jsonl").read_text() == "{}\n"
    assert "are written as .jsonl, .jsonl.gz or .parquet" in made(name="pairs", status=1)


def test_rows_of_other_settings_are_left_alone_and_their_questions_asked_no_more(made, tmp_path):
    made()
    before = (tmp_path / "pairs.jsonl").read_bytes()
    output = made("--mode", "mixed", status=1)
    assert "mode: 'closed' there, 'mixed' now" in output
    assert (tmp_path / "pairs.jsonl").read_bytes() == before
    (tmp_path / "pairs.jsonl").rename(tmp_path / "closed.jsonl")
    teacher = Scripted()
    made("--mode", "mixed", "--batch_size", 1, teacher=teacher)
    assert sum(map(len, teacher.asked)) == 4, "the rows beside the closed ones"


def test_documents_are_read_as_the_flags_say(made, folder, tmp_path):
    (folder / "rows.jsonl").write_text(json.dumps({"note": TEXT.format("Lund", "Bo Ek", "31")}) + "\n")
    (folder / "page.wiki").write_text(TEXT.format("Hamra", "Eva Ros", "52"))
    made("--suffixes", ".wiki", "--exclude", "oden.md, fog*", "--document_column", "note")
    assert set(load_pairs(tmp_path / "pairs.jsonl")["source"]) == {"page.wiki", "rows.jsonl", "ruska.md", "temm.md"}
