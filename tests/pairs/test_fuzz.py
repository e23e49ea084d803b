"""Arbitrary bytes and damaged files: a sentence that names the file, or a correct read; never a wrong row or a crash.

A wrong row is one that an independent strict parser (pydantic's, in Rust) does not find in the same line. Mutated
journals are held to more: every row that is found is one that was written. More examples: `scripts/reliability.py fuzz`.
"""

import json
import os
import random
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from conftest import build_pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import from_json

from distill.basics.jsonl import CHECKSUM, sealed_line
from distill.generation.journal import Journal
from distill.pairs import load_pairs
from distill.pairs.schema import COLUMNS, OPTIONAL, pairs_from_rows

SEEN: Counter[str] = Counter()
FOLDER = tempfile.TemporaryDirectory(
    dir="/dev/shm" if os.path.isdir("/dev/shm") else None
)  # flushes cost nothing there
PATH = Path(FOLDER.name) / "p.jsonl"
ROWS = [
    {**row, "completion": text}
    for row, text in zip(build_pairs(3).to_list(), ("hé \n\t\u2028", "\\u \"'", "🙂"), strict=True)
]
ROWS[1] |= {"score": 0.5, "token_source": "text", "top_logprobs": [{"tokens": ["a", ""], "logprobs": [-0.5, -1e-9]}]}
PIECES = [
    b"NaN", b"-Infinity", b"1e999", b"-0", b"1.0", b"true", b"null", b'"', b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r\n",
    b"\r", b"\0", b"\xef\xbb\xbf", b"\\ud800", b"\\ud83d\\ude00", b"\xed\xa0\x80", b"\xff", b"\xc0\x80", b"\\u0000", b"\x0b", b"2147483648",
    b"9" * 25, b"9" * 5000, b"[" * 3000, b'{"a":' * 150, b"[" * 150 + b"]" * 150,  b'"id": "row1", ', b'"sample": 1, ',
    b'"prompt": "p", "completion": "c", "prompt_ids": [1], "completion_ids": [2]', b'"score": NaN, ', b'"score": 1e400, ',
    b'{"prompt": "p", "completion": "c", "prompt_ids": [1], "completion_ids": [2]}\n', b', "%s": "00000000"' % CHECKSUM.encode(),
    "{}".encode("utf-16"), json.dumps(ROWS[0]).encode() + b"\n", sealed_line(ROWS[1]),
]  # fmt: skip
FILES = {"sealed": b"".join(map(sealed_line, ROWS)), "plain": b"".join(json.dumps(r).encode() + b"\n" for r in ROWS)}
examples = settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "120")), deadline=None, derandomize=True)
pieces = st.lists(st.sampled_from(PIECES) | st.binary(max_size=12), max_size=8).map(b"".join)


@st.composite
def mutated(draw, kind):
    """A valid file after some changes, each a place, a length and what is done there."""
    data = FILES[kind]
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        to = min(len(data), at + draw(st.integers(1, 40)))
        how = draw(st.sampled_from(["flip", "insert", "replace", "delete", "truncate", "repeat", "crlf"]))
        new = draw(st.sampled_from(PIECES) | st.binary(min_size=1, max_size=3)) if how in ("insert", "replace") else b""
        if how == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
        elif how == "repeat":
            data = data[:to] + data[at:]
        elif how == "crlf":
            data = data.replace(b"\n", b"\r\n")
        else:
            data = data[:at] + new + {"insert": data[at:], "truncate": b""}.get(how, data[to:])
    return data


def strict(line, first):
    """The object of a line, by another parser; no name twice anywhere."""
    text = line.removeprefix(b"\xef\xbb\xbf") if first else line

    def once(found):
        assert len(dict(found)) == len(found), "a name stands twice"
        return dict(found)

    json.loads(text, object_pairs_hook=once)
    row = from_json(text, allow_inf_nan=False)
    assert isinstance(row, dict)
    return row


def expected(row):
    """What a pair of this line must be; ids made by us are not compared."""
    made = {"finish_reason": "stop", "sample": 0, "teacher": "unknown", **row}
    made = {name: value for name, value in made.items() if value is not None and name != CHECKSUM}
    if isinstance(made["prompt"], list):
        made["prompt"] = [{"role": m["role"], "content": m["content"]} for m in made["prompt"]]
    made["id"] = str(row["id"]) if row.get("id") not in (None, "") else None
    if "score" in made:
        made["score"] = float(made["score"])
    return made


def agree(found, line_row):
    """Equal, and of equal types: 1 is not true and not 1.0."""
    wanted = expected(line_row)
    if wanted["id"] is None:
        wanted["id"] = found["id"]
    found = {name: value for name, value in found.items() if value is not None}
    own = wanted.keys() - {*COLUMNS, *OPTIONAL}
    # a column of the user's own with values of several kinds, or with a number no float holds, is text
    assert all(
        name in found and found[name] in (wanted[name], json.dumps(wanted[name], ensure_ascii=False)) for name in own
    )
    found, wanted = ({n: v for n, v in made.items() if n not in own} for made in (found, wanted))
    return repr(sorted(found.items())) == repr(sorted(wanted.items()))


def lines_of(data):
    return [(line, i == 0) for i, line in enumerate(data.split(b"\n")) if line.strip(b" \t\r\n")]


def refused(error, label):
    SEEN[f"{label}: a sentence"] += 1
    assert "p.jsonl" in str(error) or "p.jsonl.settings.json" in str(error), repr(error)
    assert len(str(error)) < 1000, "a sentence, not the file"


def check_pairs(data, label):
    PATH.write_bytes(data)
    try:
        pairs = load_pairs(PATH)
    except ValueError as error:
        refused(error, label)
        return
    SEEN[f"{label}: rows"] += 1
    rows = [strict(line, first) for line, first in lines_of(data)]
    assert len(pairs) == len(rows)
    for found, row in zip(pairs, rows, strict=True):
        top = found.get("top_logprobs")
        assert top is None or [p["tokens"] for p in top] == [p["tokens"] for p in row["top_logprobs"]]
        assert agree({**found, "top_logprobs": top and row["top_logprobs"]}, row)  # kept as 32-bit floats


def check_journal(data, label, written=None):
    for other in PATH.parent.iterdir():
        other.unlink()
    PATH.with_name(PATH.name + ".settings.json").write_text('{"journal_format": 2}')
    PATH.write_bytes(data)
    new = {**ROWS[0], "id": "new"}
    try:
        with Journal(PATH, {}, sync_seconds=10) as journal:
            found = dict(journal.rows)
            kept = PATH.read_bytes()
            journal.append([new])
    except ValueError as error:
        refused(error, label)
        assert PATH.read_bytes() == data, "a file that is refused is left as it is"
        return
    SEEN[f"{label}: rows"] += 1
    assert kept == data[: data.rfind(b"\n") + 1], "nothing but a torn last line is cut"
    rows = [strict(line, first) for line, first in lines_of(kept)]
    assert found.keys() == {row["id"] for row in rows}
    assert all(agree(found[row["id"]], row) for row in rows)
    if written is not None:
        assert all(found[key] == written.get(key) for key in found), "a row that was never written"
    with Journal(PATH, {}) as journal:
        assert dict(journal.rows) == {**found, "new": new}


@examples
@given(st.binary(max_size=300) | pieces)
def test_pairs_from_arbitrary_bytes(data):
    check_pairs(data, "load_pairs, arbitrary bytes")


@examples
@given(mutated("sealed") | mutated("plain"))
def test_pairs_from_mutated_files(data):
    check_pairs(data, "load_pairs, mutated file")


@examples
@given(st.binary(max_size=300) | pieces)
def test_a_journal_of_arbitrary_bytes(data):
    check_journal(data, "Journal, arbitrary bytes")


@examples
@given(mutated("sealed"))
def test_a_mutated_journal(data):
    """Fragments that are rows themselves may be among what was pasted in."""
    check_journal(data, "Journal, mutated file", {row["id"]: row for row in ROWS})


@examples
@given(
    st.binary(max_size=40)
    | st.sampled_from(
        [b'{"journal_format": 2}', b"{}", b"[]", b"[" * 5000, b'{"journal_format": 1e999}', b"NaN", b'{"a": 1}']
    )
)
def test_a_settings_file_of_arbitrary_bytes(data):
    PATH.write_bytes(FILES["sealed"])
    PATH.with_name(PATH.name + ".settings.json").write_bytes(data)
    try:
        with Journal(PATH, {}) as journal:
            assert len(journal.rows) == len(ROWS)
            assert json.loads(data) == {"journal_format": 2}
    except ValueError as error:
        refused(error, "Journal, settings file")


text = st.text(max_size=20)
ids = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=6)
row = st.fixed_dictionaries(
    {
        "id": text.filter(bool), "prompt": text, "completion": text, "prompt_ids": ids, "completion_ids": ids,
        "finish_reason": st.sampled_from(["stop", "length"]), "sample": st.integers(0, 2**31 - 1), "teacher": text,
    },
    optional={"score": st.floats(-1e30, 1e30), "token_source": st.sampled_from(["teacher", "text"]), "score_error": text},
)  # fmt: skip


@examples
@given(st.lists(row, min_size=1, max_size=4, unique_by=lambda r: r["id"]))
def test_a_journal_gives_back_what_it_was_given(rows):
    for other in PATH.parent.iterdir():
        other.unlink()
    with Journal(PATH, {}, sync_seconds=10) as journal:
        for one in rows:
            journal.append([one])
    with Journal(PATH, {}) as journal:
        assert list(journal.rows.values()) == rows
    SEEN["Journal, valid rows: read back as written"] += 1


@settings(examples, max_examples=max(10, examples.max_examples // 10))
@given(st.lists(row, min_size=1, max_size=4, unique_by=lambda r: r["id"]))
def test_pairs_are_read_in_any_order_of_names_with_any_end_of_line(rows):
    shuffled = [{name: one[name] for name in random.Random(0).sample(list(one), len(one))} for one in rows]
    PATH.write_text("".join(json.dumps(one) + "\r\n" for one in shuffled))
    assert load_pairs(PATH).to_list() == pairs_from_rows(rows, "test").to_list()
    SEEN["load_pairs, valid rows: read back as written"] += 1


@pytest.mark.parametrize("piece", [*PIECES, b"x" * 3_000_000], ids=lambda p: repr(p[:24]))
def test_each_piece_at_each_place_of_a_row(piece):
    """Between any two tokens of a sealed line."""
    line = FILES["sealed"].splitlines(keepends=True)[0]
    for at in [i for i, byte in enumerate(line) if byte in b'":,{}[]\n'][:: 7 if len(piece) > 999 else 3]:
        check_pairs(line[:at] + piece + line[at:], "load_pairs, a piece inserted")
