"""Folders: which of their files are read, what is passed over and said, and what `save_to_disk` wrote, which others may have written."""

import json

import datasets
import pytest
from conftest import build_pairs

from distill.pairs import load_pairs, save_pairs
from distill.pairs.prompts import read_prompts


def lines(path, texts):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))


def test_what_is_passed_over_in_a_folder_is_said(tmp_path, capsys):
    """Files beside splits, other splits, text, settings, a card and a licence; nothing of what is hidden."""
    lines(tmp_path / "data" / "train-0.jsonl", ["a"])
    lines(tmp_path / "data" / "test-0.jsonl", ["b"])
    lines(tmp_path / "extra.jsonl", ["c"])
    for name in ("notes.txt", "config.yaml", "README.md", "LICENSE", ".hidden", "x.py"):
        (tmp_path / name).write_text("What is rain?\n")
    assert read_prompts(tmp_path) == ["a"]
    said = capsys.readouterr().out
    assert (
        f"{tmp_path}: the split train is read. Passed over: the split test, extra.jsonl, LICENSE, README.md, config.yaml, notes.txt, x.py.\n"
        == said
    )
    assert read_prompts(tmp_path, split="test") == ["b"]
    assert "the split test is read. Passed over: the split train, extra.jsonl" in capsys.readouterr().out


def test_a_folder_without_splits_says_what_it_does_not_read(tmp_path, capsys):
    save_pairs(build_pairs(2), tmp_path / "a.jsonl")
    for name in ("a.jsonl.steps.json", "a.jsonl.bad.jsonl", "README.md"):
        (tmp_path / name).write_text("{}")
    assert len(load_pairs(tmp_path)) == 2
    passed = "README.md, a.jsonl.bad.jsonl, a.jsonl.steps.json"
    assert capsys.readouterr().out == f"{tmp_path}: its files of rows are read. Passed over: {passed}.\n"
    (tmp_path / "more.txt").write_text("What is rain?\n")
    assert len(load_pairs(tmp_path)) == 2
    assert capsys.readouterr().out == f"{tmp_path}: its files of rows are read. Passed over: {passed}, more.txt.\n"
    for i in range(12):
        (tmp_path / f"n{i:02}.txt").write_text("x")
    load_pairs(tmp_path)
    assert "n03.txt and 8 more." in capsys.readouterr().out


def test_a_folder_of_text_alone_is_told_what_it_has(tmp_path):
    (tmp_path / "prompts.txt").write_text("Why?\n")
    with pytest.raises(
        ValueError, match=r"it has prompts\.txt, which a folder's rows are not read from: name the file itself"
    ):
        read_prompts(tmp_path)


def test_other_splits_of_a_saved_dataset_are_said(tmp_path, capsys):
    saved = build_pairs(3)
    datasets.DatasetDict({"train": saved, "test": saved.select([0])}).save_to_disk(str(tmp_path / "d"))
    assert len(load_pairs(tmp_path / "d")) == 3
    assert "the split train is read. Passed over: the split test." in capsys.readouterr().out


BAD = {
    "finish_reason": (["stop", "gone", "stop"], "finish_reason is 'gone'"),
    "sample": ([0, -1, 0], "sample must be an integer from 0"),
    "completion_ids": ([[5], [], [5]], "no completion token"),
    "prompt_ids": ([[5], [-1], [5]], "prompt_ids must be a list of non-negative integers"),
    "loss_mask": ([[1], [2], [1]], "loss_mask must be a list of 0 and 1"),
    "score": ([0.5, float("nan"), 0.5], "score must be a finite number"),
    "completion": (["a", None, "b"], "completion"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_saved_dataset_with_every_column_is_checked_as_any_file(tmp_path, name):
    """It was mapped as it lay there, whatever was in it."""
    values, words = BAD[name]
    rows = [
        {**row, "completion_ids": [5], name: value} for row, value in zip(build_pairs(3).to_list(), values, strict=True)
    ]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(ValueError, match=rf"d, row 2: .*{words}"):
        load_pairs(tmp_path / "d")
    assert len(load_pairs(tmp_path / "d", skip_bad=tmp_path / "bad.jsonl")) == 2
    assert len(load_pairs(tmp_path / "d", limit=1)) == 1


def test_nulls_of_a_saved_dataset_become_what_pairs_have(tmp_path):
    rows = [
        {**row, "id": None, "teacher": None, "finish_reason": None, "sample": None} for row in build_pairs(2).to_list()
    ]
    features = build_pairs(1).features
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(tmp_path / "d"))
    pairs = load_pairs(tmp_path / "d")
    assert pairs["teacher"][:] == ["unknown"] * 2
    assert pairs["finish_reason"][:] == ["stop"] * 2
    assert all(pairs["id"][:])


def test_good_pairs_are_mapped_as_they_lie_there(tmp_path):
    pairs = build_pairs(5).add_column("source", ["web"] * 5)
    save_pairs(pairs, tmp_path / "d")
    found = load_pairs(tmp_path / "d")
    assert found.to_list() == pairs.to_list()
    assert str(tmp_path / "d") in found.cache_files[0]["filename"]
    assert len(load_pairs(tmp_path / "d", limit=2)) == 2


def test_rows_whose_file_is_called_after_a_licence_are_rows(tmp_path, capsys):
    lines(tmp_path / "a.jsonl", ["a"])
    lines(tmp_path / "license_questions.jsonl", ["b"])
    lines(tmp_path / "readme_qa.jsonl", ["c"])
    lines(tmp_path / "license.questions.jsonl", ["d"])
    lines(tmp_path / "README.jsonl", ["e"])
    (tmp_path / "README.zh.md").write_text("x")
    (tmp_path / "license").write_text("x")
    assert sorted(read_prompts(tmp_path)) == ["a", "b", "c", "d", "e"]
    assert "Passed over: README.zh.md, license.\n" in capsys.readouterr().out


def test_a_file_belongs_to_the_one_whose_whole_name_it_begins_with(tmp_path, capsys):
    """Journals and bad rows beside an output are none of its rows; without it they are whatever they hold."""
    names = ("a.jsonl.prompts.jsonl", "a.prompts.jsonl", "a.jsonl.answers.jsonl", "math.prompts.jsonl", "a.v2.jsonl")
    for name in names:
        lines(tmp_path / name, [name])
    assert len(read_prompts(tmp_path)) == 5
    assert capsys.readouterr().out == ""
    lines(tmp_path / "a.jsonl", ["a"])
    (tmp_path / "folder").mkdir()
    lines(tmp_path / "folder.bad.jsonl", ["bad"])
    assert sorted(read_prompts(tmp_path)) == ["a", "a.v2.jsonl", "math.prompts.jsonl"]
    passed = "a.jsonl.answers.jsonl, a.jsonl.prompts.jsonl, a.prompts.jsonl, folder.bad.jsonl"
    assert f"Passed over: {passed}.\n" in capsys.readouterr().out


def test_bad_rows_of_a_run_are_none_of_its_rows(tmp_path, capsys):
    """`RUN/pairs.bad.jsonl` belongs to pairs that lie elsewhere; rows of one's own may have such a name."""
    bad = tmp_path / "pairs.bad.jsonl"
    lines(tmp_path / "own.bad.jsonl", ["own"])
    (tmp_path / "given.jsonl").write_text('{"prompt": "a"}\n{"prompt": 3}\n')
    assert read_prompts(tmp_path / "given.jsonl", skip_bad=bad) == ["a"]
    assert bad.is_file()
    (tmp_path / "given.jsonl").rename(tmp_path / "a.jsonl")
    capsys.readouterr()
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n')
    assert read_prompts(tmp_path) == ["a", "own"]
    assert "Passed over: pairs.bad.jsonl.\n" in capsys.readouterr().out
