"""Journals that something else wrote: merged by hand, of another format, of another run; and rows that are refused."""

import json

import pytest
from conftest import build_tokenizer
from test_journal import ROWS, SETTINGS, by_id, content, write

from distill.basics.jsonl import sealed_line
from distill.generation.journal import Journal
from distill.pairs import load_pairs


def test_a_merged_file_may_repeat_rows_but_not_contradict_itself(tmp_path):
    path = tmp_path / "p.jsonl"
    data = write(path)
    path.write_bytes(data + sealed_line(ROWS[1]))
    assert content(path) == by_id(ROWS)
    path.write_bytes(data + sealed_line({**ROWS[1], "completion": "other"}))
    with pytest.raises(ValueError, match=r"p\.jsonl:5: a second row with the id row1"):
        Journal(path, SETTINGS)


VERSION = {"journal_format": 2}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"completion": "other"}, "with another content"),
        ({"id": "new", "completion": "\ud800"}, "surrogates not allowed"),
        ({"id": "new", "score": float("nan")}, "score must be a finite number"),
        ({"id": "new", "completion_ids": []}, "no completion token"),
    ],
)
def test_a_row_that_could_not_be_read_again_is_not_written(tmp_path, change, words):
    data = write(tmp_path / "p.jsonl", ROWS[:1])
    with Journal(tmp_path / "p.jsonl", SETTINGS) as made, pytest.raises(ValueError, match=words):
        made.append([ROWS[1], {**ROWS[0], **change}])
    assert (tmp_path / "p.jsonl").read_bytes() == data


def test_a_journal_of_the_first_format_is_refused_and_its_rows_are_read_as_pairs(tmp_path):
    """No version in the settings file, no checksums in the lines."""
    path = tmp_path / "p.jsonl"
    (tmp_path / "p.jsonl.settings.json").write_text(json.dumps(SETTINGS))
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with pytest.raises(ValueError, match=r"a journal of format 1, .* reads 2\. Give another path \(load_pairs"):
        Journal(path, SETTINGS)
    assert by_id(load_pairs(path)) == by_id(ROWS)


def test_a_line_that_lost_its_checksum_is_damaged(tmp_path):
    """Seen by fuzzing: a piece is missing, from the middle of a text to the middle of the checksum."""
    path = tmp_path / "p.jsonl"
    data = write(path, ROWS[:1])
    lost = data.replace(b'random", "row_crc32": "', b"")
    assert len(lost) < len(data)
    path.write_bytes(lost)
    with pytest.raises(ValueError, match=r"p\.jsonl:1: its row_crc32 is missing"):
        Journal(path, SETTINGS)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"journal_format": 3, **SETTINGS},
            "journal of format 3, from another version of distill; this one reads 2",
        ),
        ({"journal_format": "new", **SETTINGS}, "journal of format 'new'"),
        ({**VERSION, **SETTINGS, "seed": 1}, "seed: 1 there, 0 now"),
        ({**VERSION, **SETTINGS, "revision": None}, "revision: None there, 'nothing' now"),
        ([], "holds a list, not settings"),
        (None, r"exists but p\.jsonl\.settings\.json does not"),
        (b"\xff", "is damaged"),
        (b'{"seed": ', "is damaged"),
    ],
)
def test_a_journal_that_is_not_this_runs_is_left_alone(tmp_path, settings, words):
    path, beside = tmp_path / "p.jsonl", tmp_path / "p.jsonl.settings.json"
    data = write(path) + b'{"torn'
    path.write_bytes(data)
    if settings is None:
        beside.unlink()
    else:
        beside.write_bytes(settings if isinstance(settings, bytes) else json.dumps(settings).encode())
    with pytest.raises(ValueError, match=words):
        Journal(path, SETTINGS)
    assert path.read_bytes() == data


def test_a_folder_is_no_journal(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        Journal(tmp_path, SETTINGS)


def test_a_journal_of_an_earlier_version_has_the_address_in_its_settings_and_is_continued(tmp_path):
    """The address was part of the settings and of every id; it decides nothing now, and the rows are paid for."""
    from fake_server import FakeServer

    from distill import generate
    from distill.teachers import ServerTeacher

    class Earlier(ServerTeacher):
        def identity(self):
            return {**super().identity(), "teacher_url": self.urls[0]}

        def incidental(self):
            return {}

    prompts, settings = [f"question {i}" for i in range(8)], {"output": tmp_path / "p.jsonl", "progress": False}
    with FakeServer() as server, FakeServer() as moved:
        generate(Earlier(server.url, tokenizer=build_tokenizer()), prompts[:5], **settings)
        assert "incidental" not in json.loads((tmp_path / "p.jsonl.settings.json").read_text())
        for _ in range(2):
            generate(ServerTeacher(moved.url, tokenizer=build_tokenizer()), prompts[:5], **settings)
        assert not moved.asked
        pairs = generate(ServerTeacher(moved.url, tokenizer=build_tokenizer()), prompts, **settings)
        assert (len(pairs), len(moved.asked)) == (8, 3)


def test_a_journal_without_the_day_that_its_template_wrote_says_so(tmp_path):
    write(tmp_path / "p.jsonl")
    with pytest.raises(
        ValueError, match="did not record the day.*nobody knows whether its prompts are these.*load_pairs"
    ):
        Journal(tmp_path / "p.jsonl", {**SETTINGS, "template_day": "2026-11-27"})
    with pytest.raises(ValueError, match="or the old settings"):
        Journal(tmp_path / "p.jsonl", {**SETTINGS, "more": 1})
