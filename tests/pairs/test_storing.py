"""What was read is kept under all that decided it, by one process at a time, and nothing of a killed one stays."""

import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from conftest import build_pairs, build_tokenizer

from distill.pairs import kept_key, load_pairs, storing
from distill.pairs.kept_key import key_of
from distill.pairs.storing import Store, stored
from distill.pairs.tables import table_of
from distill.text.dates import on_day

ROW = {**build_pairs(1)[0], "id": "x"}
DATED = "{{ strftime_now('%d %B %Y') }}{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "distill"


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_key, "LARGE", 1)
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "q", "completion": "a"}) + "\n")
    return tmp_path / "p.jsonl"


def test_all_that_decides_the_rows_is_in_the_key(file, monkeypatch):
    tokenizer, other = build_tokenizer(), build_tokenizer()
    other.chat_template = DATED
    keys = [key_of([file], None, []), key_of([file], tokenizer, []), key_of([file], tokenizer, [1])]
    assert key_of([file], build_tokenizer(), []) == keys[1]
    for day in ("2026-11-27", "2026-11-28"):
        with on_day(day):
            keys.append(key_of([file], other, []))
    other.chat_template += " "
    with on_day("2026-11-28"):
        keys.append(key_of([file], other, []))
    other.add_tokens(["<new>"])
    with on_day("2026-11-28"):
        keys.append(key_of([file], other, []))
    for library in ("transformers", "tokenizers", "datasets"):
        kept_key.program.cache_clear()
        monkeypatch.setattr(kept_key, "version", lambda name, one=library: "0" if name == one else "1")
        keys.append(key_of([file], tokenizer, []))
    kept_key.program.cache_clear()
    monkeypatch.setattr(kept_key, "version", lambda name: "1")
    before = key_of([file], tokenizer, [])
    read = Path.read_bytes
    for room in ("basics", "text", "pairs"):  # a change of the code of a room
        kept_key.program.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(
                Path,
                "read_bytes",
                lambda path, room=room: read(path) + b"#" * (path.name == "__init__.py" and path.parent.name == room),
            )
            keys.append(key_of([file], tokenizer, []))
    kept_key.program.cache_clear()
    assert len({*keys, before}) == len(keys) + 1
    monkeypatch.setattr(kept_key, "LARGE", 10**6)
    assert key_of([file], tokenizer, []) is None


def test_what_a_template_with_a_date_wrote_is_not_found_on_another_day(file, cache, monkeypatch):
    monkeypatch.setattr(storing, "IN_MEMORY", 0)
    monkeypatch.setattr(Store.__init__, "__defaults__", (None, 0))
    tokenizer = build_tokenizer()
    tokenizer.chat_template = DATED + "{% if add_generation_prompt %}:{% endif %}"
    texts = []
    for day in ("2026-11-27", "2026-11-28", "2026-11-27"):
        with on_day(day):
            texts.append(tokenizer.decode(load_pairs(file, tokenizer)["prompt_ids"][0]))
    assert texts[0] == texts[2] != texts[1]
    assert len(list(cache.iterdir())) == 2, "one for each day, and nothing of the writing"


WRITER = """
import os, sys, datasets
datasets.config.HF_DATASETS_CACHE = sys.argv[1]
from distill.pairs.storing import Store
from distill.pairs.tables import table_of
store = Store(sys.argv[2] or None, in_memory=0)
store.add(table_of([{"id": "x", "prompt": "p", "completion": "c", "prompt_ids": [1], "completion_ids": [2], "finish_reason": "stop", "sample": 0, "teacher": "t"}]))
print("writing", flush=True)
sys.stdin.readline()
print(len(store.dataset("said")), flush=True)
"""


def writer(cache, key):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(cache.parent), key], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "writing\n"
    return process


def test_what_a_killed_process_left_goes_and_what_lives_stays(cache):
    killed, living = writer(cache, "one"), writer(cache, "one")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    other_machine = cache / "writing-another_machine-0123"
    other_machine.mkdir()
    (other_machine / "lock").touch()
    assert len(list(cache.glob("writing-*"))) == 3
    store = Store("two", in_memory=0)
    store.add(table_of([ROW]))
    left = [folder.name for folder in cache.glob("writing-*")]
    assert len(left) == 3, "the killed one's is gone; there are the living one's, mine and the other machine's"
    assert other_machine.name in left
    assert len(store.dataset("mine")) == 1
    print(file=living.stdin, flush=True)
    assert living.stdout.readline() == "1\n"
    living.wait()
    assert [folder.name for folder in cache.glob("writing-*")] == [other_machine.name]
    assert stored("one")[1] == "said"
    assert stored("two")[1] == "mine"


def test_two_that_write_the_same_rows_at_once_both_have_them(cache):
    stores = [Store("key", in_memory=0) for _ in range(2)]
    for store in stores:
        store.add(table_of([ROW] * 3))
    made = [store.dataset("said") for store in stores]
    assert made[0].to_list() == made[1].to_list() == stored("key")[0].to_list()
    assert sorted(path.name for path in (cache / "key").iterdir()) == ["rows.arrow", "said.txt"]


VALUES = {
    "null": pa.nulls(2), "int": pa.array([1, None]), "large": pa.array([2**60 + 1, 1]), "unsigned": pa.array([2**63 + 1, 1], pa.uint64()),
    "float": pa.array([1.5, None]), "text": pa.array(["a", None]), "large text": pa.array(["a", None], pa.large_string()),
    "truth": pa.array([True, None]), "ints": pa.array([[1], None]), "large ints": pa.array([[2**60 + 1], None]),
    "floats": pa.array([[1.5], []]), "texts": pa.array([["a"], [None]]), "nothing": pa.array([[], None], pa.list_(pa.null())),
    "object": pa.array([{"a": 1}, None]), "objects": pa.array([[{"a": 1}], None]), "words": pa.array(["a", None]).dictionary_encode(),
    "lists": pa.array([[["a"]], None]), "large lists": pa.array([[1], None], pa.large_list(pa.int64())),
    "json": pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}', None])),
    "talk": pa.array([[{"role": "u", "content": "c"}], None]), "time": pa.array([0, None], pa.timestamp("us")),
    "money": pa.array(["1.10", None]).cast(pa.decimal128(5, 2)),
}  # fmt: skip


@pytest.mark.parametrize("in_memory", [0, 10**9])
def test_values_of_any_two_kinds_in_two_blocks_are_all_there(cache, in_memory):
    """An error of Arrow's own ended the reading, and a number beyond 2**53 was rounded."""
    for (one, first), (other, second) in itertools.product(VALUES.items(), repeat=2):
        store = Store(None, in_memory=in_memory)
        for column in (first, second):
            store.add(table_of([ROW] * 2).append_column("own", column))
        made = store.dataset().with_format("arrow")[:]["own"].to_pylist()
        assert [value is None for value in made] == [v is None for v in (*first.to_pylist(), *second.to_pylist())], (
            one,
            other,
        )
        for value, was in zip(made, (*first.to_pylist(), *second.to_pylist()), strict=True):
            if isinstance(was, int) and not isinstance(was, bool):
                assert value in (was, str(was)), (one, other)
                assert type(value) is not float or abs(was) <= 2**53
        if store._folder:
            store._folder._remove()


LARGE = 2**53 + 1


@pytest.mark.parametrize("values", [[0.5, LARGE], [LARGE, 0.5], [1, 0.5, LARGE], [[0.5], [LARGE]], [0.5, 1e300]])
@pytest.mark.parametrize("apart", [1, 200, 60_000])
def test_no_number_is_rounded_wherever_it_stands(tmp_path, values, apart):
    """In a column of floats Arrow's reader rounds an integer that no float is; within a block, and over several."""
    if apart > 1000 and (values[0] != 0.5 or values[1] != LARGE):
        pytest.skip("one is enough of the large ones")
    rows = [{**ROW, "id": str(i)} for i in range(apart * len(values))]
    for i, row in enumerate(rows):
        row["own"] = values[i // apart]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = load_pairs(path)["own"][:]
    for was, value in zip((row["own"] for row in rows), own, strict=True):
        read = json.loads(value) if isinstance(value, str) else value
        assert read == was
        assert isinstance(was, list) or isinstance(read, float) or type(read) is type(was)


@pytest.mark.parametrize(
    ("first", "second"),
    [(1, "a"), ("a", 1), (1, 0.5), (1, [1]), ([1], ["a"]), ({"a": 1}, 1), (True, 1), (None, "a"), ("7", 7)],
)
@pytest.mark.parametrize("name", ["own", "id"])
def test_a_column_that_changes_its_kind_between_blocks(tmp_path, monkeypatch, first, second, name):
    from distill.pairs import formats

    monkeypatch.setattr(formats, "BLOCK_BYTES", 2**10)
    if name == "id" and not all(isinstance(v, str | int) and not isinstance(v, bool) for v in (first, second)):
        pytest.skip("an id is text or a whole number")
    rows = [{**ROW, "id": f"r{i}", "pad": "x" * 100, name: first if i < 150 else second} for i in range(300)]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = load_pairs(path).with_format("arrow")[:][name].to_pylist()
    assert [v is None for v in made] == [row[name] is None for row in rows]
    if isinstance(first, str) or isinstance(second, str):
        assert made == [None if row[name] is None else str(row[name]) for row in rows]


def test_prompts_of_two_kinds_are_named_by_the_line_of_the_second(tmp_path, tokenizer):
    rows = [{**ROW, "id": f"r{i}"} for i in range(300)]
    rows[250]["prompt"] = [{"role": "user", "content": "q"}]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"p\.jsonl:251: some prompts are text and others are messages"):
        load_pairs(path)
    assert len(load_pairs(path, skip_bad=tmp_path / "bad.jsonl")) == 299
