"""What a file is: by its name, and by what is in it where a name says little; what looks like rows is never asked as text."""

import gzip
import json

import pytest
from conftest import build_pairs

from distill.pairs import load_pairs, save_pairs
from distill.pairs.evaluation_sets import read_evaluation
from distill.pairs.kinds import kind_of
from distill.pairs.prompts import read_prompts

ROWS = [{"prompt": f"what is {i}", "completion": f"a cat {i}", "source": "web"} for i in range(4)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
PROMPTS = [row["prompt"] for row in ROWS]


@pytest.mark.parametrize("name", ["p", "p.txt", "p.text", "p.TXT", "p.txt.gz"])
@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (LINES, "JSON Lines"),
        ("\ufeff" + LINES.replace("\n", "\r\n"), "JSON Lines"),
        (LINES.replace("{", "{broken", 1), "JSON Lines"),
        (json.dumps(ROWS), "a JSON array"),
        (json.dumps(ROWS, indent=1), "a JSON array"),
        (json.dumps(PROMPTS), "a JSON array"),
        (json.dumps({"data": ROWS}), "JSON"),
        (json.dumps({"data": ROWS}, indent=1), "JSON"),
        (json.dumps(ROWS[0], indent=1), "JSON"),
        (json.dumps(ROWS[0]), "JSON Lines"),
    ],
)
def test_rows_under_a_name_of_text_are_rows(tmp_path, tokenizer, name, data, kind, capsys):
    path = tmp_path / name
    path.write_bytes(gzip.compress(data.encode()) if name.endswith(".gz") else data.encode())
    assert kind_of(path) == kind
    if "broken" in data:
        with pytest.raises(ValueError, match=":1: not a JSON object"):
            read_prompts(path)
        return
    found = read_prompts(path)
    assert found == (PROMPTS if len(found) > 1 else PROMPTS[:1])
    assert kind in capsys.readouterr().out, "an uncommon name is told"
    if data[0] != "[" or "source" in data:
        assert load_pairs(path, tokenizer, chat=False)["prompt"][:] == found
    assert read_evaluation(path)


@pytest.mark.parametrize(
    "text",
    [
        "Name a colour.\n{}\n[\n", "[1, 2, 3] is what?\nWhy?\n", "{x} is a set of what?\n{y}?\n{z}?\n", '["a"] in Python?\n', "- a: b\n- c\n",
        "What is prompt, completion and answer?\n", "a, b, c\n1, 2, 3\n", "question\nanswer\n", '{"prompt": "k"}\nWhy?\nHow?\n', "[\n{\n", "\n", "",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["p", "p.txt"])
def test_text_that_only_looks_like_rows_is_text(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert kind_of(tmp_path / name) == "text"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("prompt,completion\na,b\n", r"begins as a table does \(prompt, completion\); call it \.csv"),
        ("id;question;answer\n1;a;b\n", r"call it \.csv"),
        ("question\tanswer\na\tb\n", r"call it \.tsv"),
        ("- prompt: a\n  completion: b\n", r"begins as YAML does \(- prompt:\s?\); call it \.yaml"),
        ("- messages:\n  - role: user\n", r"call it \.yaml"),
    ],
)
def test_a_table_under_a_name_of_text_is_refused(tmp_path, data, words):
    for name in ("p", "p.txt"):
        (tmp_path / name).write_text(data)
        with pytest.raises(ValueError, match=words):
            read_prompts(tmp_path / name)


def test_binary_files_are_told_by_how_they_begin(tmp_path):
    save_pairs(build_pairs(3), tmp_path / "a.parquet")
    for name in ("a", "a.txt", "a.jsonl", "a.bin"):
        (tmp_path / "a.parquet").rename(tmp_path / name)
        assert len(load_pairs(tmp_path / name)) == 3
        (tmp_path / name).rename(tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_bytes(gzip.compress(LINES.encode()))
    with pytest.raises(ValueError, match=r"b\.jsonl is packed, and its name does not say so; call it b\.jsonl\.gz"):
        read_prompts(tmp_path / "b.jsonl")


TALK = {"messages": [{"role": "user", "content": "what is 0"}, {"role": "assistant", "content": "a cat 0"}]}
ROW_WITH_A_LIST = {
    "talk": {**TALK, "system": "be short", "license": "mit"},
    "tags": {**ROWS[0], "tags": ["a", "b"]},
    "hits": {"question": "what is 0", "answer": "a cat 0", "hits": [{"text": "x"}, {"text": "y"}]},
    "prompt messages": {"prompt": TALK["messages"][:1], "completion": "a cat 0", "examples": [{"prompt": "p"}]},
    "ids": {**build_pairs(1)[0], "own": [1]},
}


@pytest.mark.parametrize("row", ROW_WITH_A_LIST.values(), ids=ROW_WITH_A_LIST.keys())
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["p.json", "p.jsonl", "p.yaml"])
def test_one_row_that_has_a_list_is_a_row(tmp_path, tokenizer, row, indent, name):
    """It was taken for its list, and its system text and its licence were dropped."""
    if name == "p.jsonl" and indent:
        name = "p.json"
    (tmp_path / name).write_text(json.dumps(row, indent=indent))
    pairs = load_pairs(tmp_path / name, tokenizer)
    wanted = tmp_path / "two.jsonl"
    wanted.write_text((json.dumps(row) + "\n") * 2)
    assert pairs.to_list() == load_pairs(wanted, tokenizer).to_list()[:1]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["p.json", "p.jsonl", "p.yaml", "p.v2"])
def test_a_list_of_rows_in_an_object_is_its_rows_and_the_rest_is_said(tmp_path, tokenizer, indent, name, capsys):
    if name == "p.jsonl" and indent:
        name = "p.json"
    (tmp_path / name).write_text(json.dumps({"version": 1, "notes": ["x"], "data": ROWS}, indent=indent))
    assert read_prompts(tmp_path / name) == PROMPTS
    assert (
        "its rows are those in data. Left out, because they stand beside all rows: version, notes."
        in capsys.readouterr().out
    )
    assert load_pairs(tmp_path / name, tokenizer)["source"][:] == ["web"] * 4
    (tmp_path / name).write_text(json.dumps({"data": [{"q": "a", "a": "b"}]}, indent=indent))
    assert read_prompts(tmp_path / name, "q") == ["a"]
    (tmp_path / name).write_text(json.dumps({"q": "a", "hits": [{"x": "b"}]}, indent=indent))
    assert read_prompts(tmp_path / name, "q") == ["a"]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"train": ROWS, "test": ROWS}, "one object with the lists of rows train, test; give the rows of one of them"),
        ({"instruction": "Answer.", "examples": ROWS}, "a row itself or the rows in examples"),
    ],
)
def test_an_object_that_could_be_two_things_is_refused(tmp_path, found, words):
    for indent in (None, 1):
        (tmp_path / "p.json").write_text(json.dumps(found, indent=indent))
        with pytest.raises(ValueError, match=words):
            read_prompts(tmp_path / "p.json")
