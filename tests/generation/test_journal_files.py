"""Journals that something else wrote: merged by hand, of another format, of another run; and rows that are refused."""

import json

import pytest
from test_journal import ROWS, SETTINGS, by_id, content, write

from distill.basics.jsonl import CHECKSUM, sealed_line
from distill.generation.journal import Journal


@pytest.mark.parametrize("sealed", [True, False])
def test_a_merged_file_may_repeat_rows_but_not_contradict_itself(tmp_path, sealed):
    path = tmp_path / "p.jsonl"
    data, line = write(path), sealed_line
    if not sealed:  # as the first format wrote it
        line = lambda row: json.dumps(row).encode() + b"\n"  # noqa: E731
        data = b"".join(map(line, ROWS))
        (tmp_path / "p.settings.json").write_text(json.dumps(SETTINGS))
    path.write_bytes(data + line(ROWS[1]))
    assert content(path) == by_id(ROWS)
    path.write_bytes(data + line({**ROWS[1], "completion": "other"}))
    if not sealed:
        (tmp_path / "p.settings.json").write_text(json.dumps(SETTINGS))
    with pytest.raises(ValueError, match=r"p\.jsonl:5: a second row with the id row1"):
        Journal(path, SETTINGS)


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


def test_a_journal_of_the_first_format_is_read_and_continued(tmp_path):
    """No version in the settings file, no checksums in the lines."""
    path = tmp_path / "p.jsonl"
    (tmp_path / "p.settings.json").write_text(json.dumps(SETTINGS))
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:2]) + '{"id": "torn')
    assert content(path) == by_id(ROWS[:2])
    write(path)
    assert content(path) == by_id(ROWS)
    lines = path.read_text().splitlines()
    assert [CHECKSUM in line for line in lines] == [False, False, True, True]
    size = sum(len(line) + 1 for line in lines[:2])
    version = {"journal_format": 2, "unsealed_bytes": size}
    assert json.loads((tmp_path / "p.settings.json").read_text()) == {**version, **SETTINGS}
    path.write_text("\n".join(lines[2:] + lines[:2]) + "\n")
    with pytest.raises(ValueError, match=r"p\.jsonl:\d: its row_crc32 is missing"):
        Journal(path, SETTINGS)


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
            "journal of format 3, from another version of distill; this one reads 1 to 2",
        ),
        ({"journal_format": "new", **SETTINGS}, "journal of format 'new'"),
        ({**SETTINGS, "seed": 1}, "seed: 1 there, 0 now"),
        ({**SETTINGS, "revision": None}, "revision: None there, 'nothing' now"),
        ([], "holds a list, not settings"),
        (None, r"exists but p\.settings\.json does not"),
        (b"\xff", "is damaged"),
        (b'{"seed": ', "is damaged"),
    ],
)
def test_a_journal_that_is_not_this_runs_is_left_alone(tmp_path, settings, words):
    path, beside = tmp_path / "p.jsonl", tmp_path / "p.settings.json"
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
