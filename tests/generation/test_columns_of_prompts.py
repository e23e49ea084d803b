"""What stands beside prompts (a source, a licence, a difficulty) goes along into the pairs that are made of them."""

import json

import datasets
import pytest
from conftest import build_model, build_tokenizer
from distill.recipes.generate import with_system

from distill import generate
from distill.generation.requests import listed
from distill.pairs import load_pairs
from distill.pairs.prompts import read_asked
from distill.running.stages import prompts_of
from distill.teachers import LocalTeacher

ROWS = [
    {
        "id": 7,
        "question": "the cat",
        "source": "web",
        "license": "mit",
        "difficulty": 3,
        "tags": ["a"],
        "meta": {"k": [1, None]},
    },
    {"id": 8, "question": "a dog", "source": "book", "license": None, "difficulty": 1, "tags": [], "meta": {}},
]
OWN = ("source", "license", "difficulty", "tags")


@pytest.fixture(scope="module")
def teacher():
    return LocalTeacher(build_model(), build_tokenizer(), name="tiny")


def write(path, rows):
    if path.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(str(path))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["p.jsonl", "p.parquet"])
@pytest.mark.parametrize("journal", [True, False])
def test_own_columns_of_prompts_reach_every_pair(tmp_path, teacher, name, journal):
    asked = read_asked(write(tmp_path / name, ROWS))
    output = tmp_path / "pairs.jsonl" if journal else None
    settings = {"samples": 2, "max_new_tokens": 4, "progress": False}
    pairs = generate(teacher, asked, output=output, **settings)
    plain = generate(teacher, [row["question"] for row in ROWS], **settings)
    assert pairs.select_columns(plain.column_names).to_list() == plain.to_list(), (
        "ids and draws are of the prompt alone"
    )
    for column in OWN:
        assert pairs[column][:] == [row[column] for row in ROWS for _ in range(2)]
    assert pairs["prompt_id"][:] == ["7", "7", "8", "8"]
    if journal:
        assert load_pairs(output).sort("id").to_list() == pairs.sort("id").to_list()
        assert generate(teacher, asked, output=output, **settings).to_list() == pairs.to_list()


def test_columns_of_a_dataset_of_prompts_go_along_too(teacher, capsys):
    rows = datasets.Dataset.from_list([{"prompt": "the cat", "source": "web", "completion": "old", "id": "q1"}])
    pairs = generate(teacher, rows, max_new_tokens=4, progress=False)
    assert (pairs["source"][0], pairs["prompt_id"][0]) == ("web", "q1")
    assert pairs["completion"][0] != "old"
    said = capsys.readouterr()
    assert (
        "Carried along into the pairs: source, id (as prompt_id). Left out, because pairs have their own: completion."
        in said.out + said.err
    )


def test_a_prompt_that_repeats_with_other_columns_is_told(teacher, capsys):
    rows = [{"prompt": "the cat", "source": "web"}, {"prompt": "the cat", "source": "book"}]
    pairs = generate(teacher, rows, max_new_tokens=4, progress=False)
    assert pairs["source"][:] == ["web"]
    said = capsys.readouterr()
    assert "1 of them stand beside other columns than the first of their kind" in said.out + said.err


def test_a_column_that_comes_later_leaves_finished_pairs_as_they_are_and_says_so(tmp_path, teacher, capsys):
    settings = {"max_new_tokens": 4, "progress": False, "output": tmp_path / "pairs.jsonl"}
    generate(teacher, ["the cat"], **settings)
    pairs = generate(teacher, [{"prompt": p, "source": "web"} for p in ("the cat", "a dog")], **settings)
    assert pairs["source"][:] == [None, "web"]
    said = capsys.readouterr()
    assert "1 pairs were written before with other columns" in said.out + said.err


def test_values_that_json_has_not_are_in_the_journal_as_it_has_them(tmp_path, teacher):
    import datetime

    rows = datasets.Dataset.from_list(
        [{"prompt": "the cat", "when": datetime.datetime(2020, 1, 2), "level": float("nan")}]
    )
    rows.to_parquet(str(tmp_path / "p.parquet"))
    (asked,) = read_asked(tmp_path / "p.parquet")
    assert asked == {"prompt": "the cat", "when": "2020-01-02 00:00:00", "level": None}
    pairs = generate(teacher, [asked], max_new_tokens=4, progress=False, output=tmp_path / "pairs.jsonl")
    assert pairs["when"][:] == ["2020-01-02 00:00:00"]


def test_a_row_without_a_prompt_is_refused():
    with pytest.raises(ValueError, match="a row of prompts needs a prompt; this one has question"):
        listed([{"question": "q"}])


def test_repetitions_go_and_columns_stay_with_the_first(tmp_path, capsys):
    rows = [{"prompt": "the cat", "source": s} for s in ("web", "book")] + [{"prompt": "a dog", "source": "web"}]
    kept, step = prompts_of(str(write(tmp_path / "p.jsonl", rows)), near=False)
    assert kept == [rows[0], rows[2]]
    assert step.removed == 1


def test_a_system_text_of_the_flag_keeps_what_stands_beside():
    turn = {"role": "system", "content": "be short"}
    made = with_system([{"prompt": "q", "source": "web"}, "r"], "be short")
    assert made == [
        {"prompt": [turn, {"role": "user", "content": "q"}], "source": "web"},
        [turn, {"role": "user", "content": "r"}],
    ]


@pytest.mark.parametrize("name", ["system", "system_prompt"])
@pytest.mark.parametrize("table", [False, True])
def test_a_system_text_beside_a_prompt_is_asked_as_it_is_of_a_file(tmp_path, teacher, capsys, name, table):
    rows = [{"prompt": "the cat", name: "the mat", "source": "web"}, {"prompt": "a dog", name: None, "source": "book"}]
    found = listed(datasets.Dataset.from_list(rows) if table else rows)
    talk = [{"role": "system", "content": "the mat"}, {"role": "user", "content": "the cat"}]
    assert found == [{"prompt": talk, "source": "web"}, {"prompt": "a dog", "source": "book"}]
    assert found == read_asked(write(tmp_path / "p.jsonl", rows))
    assert "Left out" not in "".join(capsys.readouterr())
    (pair,) = generate(teacher, rows[:1], max_new_tokens=2, progress=False)
    assert pair["prompt"] == talk


@pytest.mark.parametrize("name", ["tools", "functions", "chat_template_kwargs"])
def test_tools_beside_a_prompt_are_refused_by_name(name):
    with pytest.raises(ValueError, match=f"Prompt 2: the row has {name}, which cannot be asked with a prompt here"):
        listed(["the cat", {"prompt": "the cat", name: [{"name": "weather"}]}])
