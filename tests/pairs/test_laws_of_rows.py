"""Laws of rows and files: what is told apart, what is not padded, and what a broken-off save leaves."""

import json

import pytest
from conftest import build_pairs, build_tokenizer

from distill.pairs import PairCollator, load_pairs, save_pairs, writing


@pytest.mark.parametrize("multiple", [1, 4, 8])
@pytest.mark.parametrize("length", range(3, 18))
def test_a_row_is_padded_to_the_next_multiple_and_not_beyond(length, multiple):
    row = {"id": "a", "prompt_ids": [5] * 2, "completion_ids": [6] * (length - 2)}
    padded = PairCollator(build_tokenizer(), pad_to_multiple_of=multiple)([row])["input_ids"].shape[1]
    assert padded % multiple == 0
    assert length <= padded < length + multiple


@pytest.mark.parametrize("name", ["prompt_ids", "completion_ids", "sample", "teacher"])
def test_rows_that_differ_in_anything_that_tells_draws_apart_have_different_ids(tmp_path, name):
    """Two equal answers of one teacher to one prompt are two draws."""
    row = {key: value for key, value in build_pairs(1).to_list()[0].items() if key != "id"}
    other = {**row, name: {"sample": 1, "teacher": "another"}.get(name, [7, 8, 9])}
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in (row, other, row)))
    ids = load_pairs(path)["id"]
    assert ids[0] == ids[2] != ids[1]


def test_a_save_that_breaks_off_leaves_no_file_that_looks_whole(tmp_path, monkeypatch):
    """Wherever it breaks off: nothing lies under the name before all of it is written."""
    pairs, path = build_pairs(4), tmp_path / "p.jsonl"
    real, written = writing.json_lines, []

    def json_lines(table):
        for line in real(table):
            assert not path.exists()
            written.append(1)
            if len(written) == 3:
                raise OSError("the disk is gone")
            yield line

    monkeypatch.setattr(writing, "json_lines", json_lines)
    with pytest.raises(OSError, match="the disk is gone"):
        save_pairs(pairs, path)
    assert not path.exists()
    monkeypatch.undo()
    save_pairs(pairs, path)
    assert load_pairs(path).to_list() == pairs.to_list()
    assert [file.name for file in tmp_path.iterdir()] == ["p.jsonl"]
