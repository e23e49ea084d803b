"""Out again: what other tools read, what comes back from it, and what is said of the rest."""

import json
from types import SimpleNamespace

import datasets
import httpx2
import huggingface_hub
import pytest
from conftest import build_pairs
from huggingface_hub.errors import RepositoryNotFoundError

from distill.pairs import load_pairs, save_pairs
from distill.pairs.exporting import export_pairs
from distill.pairs.schema import complete_row, pairs_from_rows

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"place": "Rome", "unit": None}}}


def made(tokenizer, **more):
    asked = [{"role": "system", "content": "the mat"}, {"role": "user", "content": "what is a cat"}]
    row = {"prompt": asked, "completion": "the dog", "id": "a1", "source": "web", "tags": ["x"], **more}
    return pairs_from_rows([complete_row(row, "here", tokenizer)], "here")


def exported(pairs, form, path):
    notes = export_pairs(pairs, form, path)
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()], notes


def test_messages_and_sharegpt_come_back_as_the_same_pair(tmp_path, tokenizer):
    pairs = made(tokenizer)
    (row,), notes = exported(pairs, "messages", tmp_path / "m.jsonl")
    assert row["messages"][-1] == {"role": "assistant", "content": "the dog"}
    assert (row["id"], row["source"], row["tags"], row["teacher"]) == ("a1", "web", ["x"], "unknown")
    assert [note.partition(":")[0] for note in notes] == ["token ids are left out"]
    (shared,), _ = exported(pairs, "sharegpt", tmp_path / "s.jsonl")
    assert [turn["from"] for turn in shared["conversations"]] == ["system", "human", "gpt"]
    for name in ("m.jsonl", "s.jsonl"):
        again = load_pairs(tmp_path / name, tokenizer)
        assert again.to_list() == pairs.to_list()


@pytest.mark.parametrize("name", ["p.parquet"])
def test_parquet_keeps_tokens_and_all(tmp_path, name, tokenizer):
    pairs = made(tokenizer)
    assert export_pairs(pairs, "parquet", tmp_path / name) == []
    assert load_pairs(tmp_path / name).to_list() == pairs.to_list()


def test_the_hub_is_private_unless_said_otherwise(monkeypatch, tokenizer):
    pushed = []
    monkeypatch.setattr(
        datasets.Dataset, "push_to_hub", lambda self, name, private: pushed.append((name, private, len(self)))
    )
    there = {}

    def repo_info(self, name, repo_type):
        assert repo_type == "dataset"
        if name not in there:
            raise RepositoryNotFoundError(
                "404", response=httpx2.Response(404, request=httpx2.Request("GET", "http://hub"))
            )
        return SimpleNamespace(private=there[name])

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", repo_info)
    export_pairs(build_pairs(3), "hub", "you/name")
    export_pairs(build_pairs(3), "hub", "you/name", private=False)
    assert pushed == [("you/name", True, 3), ("you/name", False, 3)]
    # what is there already stays as visible as it is, whatever an upload says
    there |= {"you/open": False, "you/closed": True}
    with pytest.raises(
        ValueError, match="you/open on the Hub is public, and these pairs would be private. Give --no_private"
    ):
        export_pairs(build_pairs(3), "hub", "you/open")
    with pytest.raises(ValueError, match="is private, and these pairs would be public. Give --private"):
        export_pairs(build_pairs(3), "hub", "you/closed", private=False)
    assert len(pushed) == 2
    export_pairs(build_pairs(3), "hub", "you/open", private=False)
    export_pairs(build_pairs(3), "hub", "you/closed")
    assert len(pushed) == 4
    with pytest.raises(ValueError, match="is no id of a dataset on the Hub"):
        export_pairs(build_pairs(3), "hub", "name")


def test_that_what_the_teacher_was_shown_goes_along_is_said_before_it_is_there(monkeypatch, tokenizer, capsys):
    pairs = made(tokenizer, teacher_prompt="what the house knows about cats")
    said = []

    def refused(self, *more, **most):
        raise RepositoryNotFoundError("404", response=httpx2.Response(404, request=httpx2.Request("GET", "http://hub")))

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", refused)
    monkeypatch.setattr(datasets.Dataset, "push_to_hub", lambda *more, **most: said.append(capsys.readouterr().out))
    assert export_pairs(pairs, "hub", "you/name") == []
    assert "Note: what only the teacher was shown goes along in 1 rows (teacher_prompt)" in said[0]
    assert capsys.readouterr().out == ""


def test_what_a_form_has_no_place_for_is_said(tmp_path, tokenizer):
    rows = [
        {**build_pairs(1)[0], "id": "plain", "finish_reason": "stop"},
        {**build_pairs(1)[0], "id": "cut", "finish_reason": "length"},
        {**build_pairs(1)[0], "id": "trace", "completion": "so it is\n</think>\n\n4", "finish_reason": "stop"},
    ]
    found, notes = exported(pairs_from_rows(rows, "here"), "messages", tmp_path / "m.jsonl")
    assert any(note.startswith("3 prompts are plain text") for note in notes)
    assert any(note.startswith("1 completions were cut") for note in notes)
    assert any(note.startswith("1 completions began inside a trace") for note in notes)
    assert found[2]["messages"][-1]["content"] == "<think>\nso it is\n</think>\n\n4"
    assert found[1]["finish_reason"] == "length"


def test_calls_of_tools_go_out_whole(tmp_path, tokenizer):
    row = {
        **build_pairs(1)[0],
        "prompt": [{"role": "user", "content": "q"}],
        "completion": "",
        "tools": [CALL],
        "finish_reason": "stop",
    }
    row["message"] = {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning_content": "hm"}
    pairs = pairs_from_rows([complete_row(row, "here")], "here")
    (messages,), _ = exported(pairs, "messages", tmp_path / "m.jsonl")
    assert messages["messages"][-1] == row["message"]
    assert messages["tools"] == [CALL]
    (shared,), notes = exported(pairs, "sharegpt", tmp_path / "s.jsonl")
    assert shared["conversations"][-1] == {"from": "function_call", "value": json.dumps(CALL["function"])}
    assert any(note.startswith("reasoning_content of 1 turns") for note in notes)


def test_several_turns_in_one_text_are_refused_by_id(tmp_path):
    row = {**build_pairs(1)[0], "completion_ids": [5, 6, 7], "loss_mask": [1, 0, 1]}
    pairs = pairs_from_rows([row], "here")
    with pytest.raises(ValueError, match="Pair row0 has several turns in its completion"):
        export_pairs(pairs, "messages", tmp_path / "m.jsonl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("form", "name", "words"),
    [
        ("csv", "x.csv", "to is 'csv'; it must be one of messages, sharegpt, parquet, hub"),
        ("messages", "x.parquet", "messages is written as .jsonl"),
        ("parquet", "x.jsonl", "parquet is written as .parquet"),
        ("messages", "x", "messages is written as .jsonl"),
    ],
)
def test_forms_and_names_go_together(tmp_path, form, name, words):
    with pytest.raises(ValueError, match=words):
        export_pairs(build_pairs(2), form, tmp_path / name)


@pytest.mark.parametrize("form", ["messages", "parquet"])
def test_an_export_replaces_nothing(tmp_path, form):
    path = tmp_path / ("x.parquet" if form == "parquet" else "x.jsonl")
    path.write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        export_pairs(build_pairs(2), form, path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("x.parquet", "file"), ("x.jsonl", "file"), ("x.jsonl.gz", "file"), ("x.v1", "folder"), ("x", "folder")],
)
def test_an_output_is_what_its_name_says(tmp_path, name, kind):
    """`clean --output x.parquet` made a folder of that name."""
    save_pairs(build_pairs(2), tmp_path / name)
    assert (tmp_path / name).is_file() == (kind == "file")
    assert len(load_pairs(tmp_path / name)) == 2


@pytest.mark.parametrize("name", ["x.json", "x.csv", "x.txt", "x.yaml", "x.parquet.gz", "x.jsonl.bz2", "x.arrow"])
def test_an_output_that_is_not_written_is_refused_by_name(tmp_path, name):
    with pytest.raises(ValueError, match=r"pairs are written as \.jsonl"):
        save_pairs(build_pairs(2), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_line_is_what_json_dumps_writes(tmp_path):
    own = {
        "a": [1.5, None],
        "b": [True, False],
        "c": ['\u2028"\\\n\x00é🙂', ""],
        "d": [{"x": [None, 0.1]}, {}],
        "e": [[], [1, -2]],
    }
    rows = [
        {**row, **{name: values[i] for name, values in own.items()}} for i, row in enumerate(build_pairs(2).to_list())
    ]
    pairs = pairs_from_rows(rows, "here")
    save_pairs(pairs, tmp_path / "x.jsonl")
    assert (tmp_path / "x.jsonl").read_text(encoding="utf-8") == "".join(
        json.dumps(row, ensure_ascii=False) + "\n" for row in rows
    )


def test_a_number_that_json_has_not_is_refused(tmp_path):
    pairs = build_pairs(2).add_column("own", [float("nan"), 1.0])
    with pytest.raises(ValueError, match="The column own has NaN or Infinity"):
        save_pairs(pairs, tmp_path / "x.jsonl")
