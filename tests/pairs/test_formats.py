"""Files as people have them: every format gives the same rows, and what is no row is named or set aside."""

import bz2
import gzip
import json
import lzma

import datasets
import pyarrow as pa
import pytest
import yaml
from conftest import build_pairs

from distill.basics.json_array import read_array
from distill.pairs import load_pairs, save_pairs
from distill.pairs.blocks import Block
from distill.pairs.evaluation_sets import read_evaluation
from distill.pairs.formats import BLOCK_BYTES, blocks_of
from distill.pairs.prompts import read_prompts
from distill.pairs.sources import find_parts

# texts that other readers change: a date, a null, a number, a comma, quotes, ends of lines that are none, characters of markup
TEXTS = [
    "Name a colour, please.", "2020-01-01", "NA", "null", "007", '"', "a\u2028b\u0085c\x0cd", "[", "{", "- a: b", "é🙂", "\ufeffx", "no", "1e5",
]  # fmt: skip
ROWS = [{"prompt": text, "completion": f"{text} indeed"} for text in TEXTS]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def csv_of(rows, divider=",", quote='"'):
    cells = [list(rows[0]), *(row.values() for row in rows)]
    escaped = ([f"{quote}{value.replace(quote, quote * 2)}{quote}" for value in line] for line in cells)
    return "".join(divider.join(line) + "\r\n" for line in escaped)


def write(folder, name):
    """The rows in the format that the name says."""
    path, kind = folder / name, name.lower().split(".")[1]
    if kind in ("jsonl", "ndjson"):
        data = LINES.encode()
    elif kind == "json":
        data = json.dumps(ROWS, indent=1, ensure_ascii=False).encode()
    elif kind in ("csv", "tsv"):
        data = csv_of(ROWS, "\t" if kind == "tsv" else ",").encode()
    elif kind in ("yaml", "yml"):
        data = yaml.safe_dump(ROWS, allow_unicode=False).encode()
    else:
        table = pa.Table.from_pylist(ROWS)
        if kind == "parquet":
            pa.parquet.write_table(table, path)
        else:
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
        return path
    packers = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    packers[".zst"] = lambda data: pa.compress(data, codec="zstd", asbytes=True)
    path.write_bytes(packers.get(path.suffix.lower(), bytes)(data))
    return path


NAMES = [
    "p.jsonl", "p.JSONL", "p.ndjson", "p.json", "p.csv", "p.tsv", "p.yaml", "p.yml", "p.parquet", "p.arrow", "p.jsonl.gz", "p.json.GZ",
    "p.csv.zst", "p.jsonl.bz2", "p.json.xz", "p.jsonl.zst",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_same_prompts_pairs_and_questions(tmp_path, name, tokenizer):
    path = write(tmp_path, name)
    assert read_prompts(path) == TEXTS
    assert read_prompts(path, limit=3) == TEXTS[:3]
    assert read_evaluation(path) == [tuple(row.values()) for row in ROWS]
    pairs = load_pairs(path, tokenizer, chat=False)
    assert pairs["prompt"][:] == TEXTS
    assert pairs["completion"][:] == [row["completion"] for row in ROWS]
    assert load_pairs(path, tokenizer, chat=False, limit=2)["prompt"][:] == TEXTS[:2]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_blanks_around_a_prompt_of_a_text_file_are_the_users(tmp_path, end):
    """A model that continues plain text continues them; a line of nothing else is no prompt."""
    texts = ["  def f(x):", "Once upon a time ", "\tq\t", "q"]
    (tmp_path / "p.txt").write_bytes(end.join([*texts, "", "  ", "\t", ""]).encode())
    assert read_prompts(tmp_path / "p.txt") == texts


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_text_end_where_lines_end_and_nowhere_else(tmp_path, bom, end):
    texts = ["a\u2028b", "c\u0085d", "e\x0cf", "g\x0bh\x1ci", "\ufeffj", '{"prompt": "k"}']
    (tmp_path / "p.txt").write_bytes((bom + end.join(["", *texts, "  ", ""])).encode())
    found = read_prompts(tmp_path / "p.txt")
    assert found == texts
    assert read_evaluation(tmp_path / "p.txt") == [(text,) for text in texts]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "yaml"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path, kind):
    path = write(tmp_path, f"p.{kind}")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_prompts(path) == TEXTS


def test_json_is_told_by_how_it_begins(tmp_path):
    """Arrays under the name of lines and lines under the name of an array; and the list in an object."""
    (tmp_path / "lines.json").write_text(LINES)
    (tmp_path / "array.jsonl").write_text(json.dumps(ROWS))
    (tmp_path / "object.json").write_text(json.dumps({"version": 1, "data": ROWS}, indent=2))
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    (tmp_path / "pairs.v1").write_text(LINES)
    for name in ("lines.json", "array.jsonl", "object.json", "texts.json", "pairs.v1"):
        assert read_prompts(tmp_path / name) == TEXTS, name
    (tmp_path / "other.json").write_text('{\n"a": 1\n}')
    with pytest.raises(ValueError, match="other.json: no column that is a prompt; it has a"):
        read_prompts(tmp_path / "other.json")


@pytest.mark.parametrize("name", ["p.md", "p.xml", "p.xlsx", "p.pdf", "p.html", "p.v2"])
def test_what_is_not_read_is_refused_by_its_name(tmp_path, name):
    (tmp_path / name).write_text("What is rain?\n")
    with pytest.raises(ValueError, match=r"of a kind that is not read here.*call it \.txt"):
        read_prompts(tmp_path / name)


def test_text_is_no_pairs(tmp_path, tokenizer):
    (tmp_path / "p.txt").write_text("What is rain?\n")
    with pytest.raises(ValueError, match="is text, and a pair needs a prompt and a completion"):
        load_pairs(tmp_path / "p.txt", tokenizer)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("p.csv", "prompt,completion\na,b\nc\n", r"p\.csv:3: 1 values for 2 columns"),
        ("p.csv", 'prompt,completion\na,b\n\n"c\nd",e,f\n', r"p\.csv:4: 3 values for 2 columns"),
        ("p.csv", 'prompt,completion\na,"b" c\n', r"p\.csv:2: not CSV"),
        ("p.csv", "prompt,prompt\na,b\n", r"p\.csv:1: a name is empty or stands twice"),
        (
            "p.json",
            '[{"prompt": "a", "completion": "b"},\n\n{"prompt": "a",\n "completion": NaN}]',
            r"p\.json:3: not JSON \(NaN",
        ),
        ("p.json", '[{"prompt": "a", "completion": "b"}\n{"prompt": 1}]', r"p\.json:2: a comma is missing"),
        ("p.json", '[{"prompt": "a", "completion": "b"}', r"p\.json:1: the array has no end"),
        ("p.json", '[{"prompt": "a", "completion": "b"}]\n{}', r"p\.json:2: more stands behind the array"),
        ("p.json", '[{"prompt": "a", "completion": "b"},\n 7]', r"p\.json:2: a int, expected an object"),
        ("p.json", '[{"prompt": "a", "prompt": "b"}]', r"p\.json:1: not JSON \(the name 'prompt' stands twice"),
        ("p.json", '[{"prompt": "\\ud800", "completion": "b"}]', r"p\.json:1: not JSON"),
        ("p.yaml", "- prompt: [a\n", r"p\.yaml: not YAML"),
        ("p.yaml", "- prompt: a\n  completion: b\n- true\n", r"p\.yaml:3: a bool, expected an object"),
        ("p.yaml", "- prompt: a\n  completion:\n", r"p\.yaml:1: no completion"),
        ("p.jsonl.gz", b"\x1f\x8b\x08nothing", r"p\.jsonl\.gz cannot be read"),
        ("p.parquet", b"PAR1 no", r"p\.parquet cannot be read as Parquet"),
        ("p.csv", b"prompt,completion\ncaf\xe9,b\n", r"p\.csv is not text in UTF-8"),
    ],
)
def test_a_bad_row_of_any_format_is_named(tmp_path, name, data, words, tokenizer):
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(ValueError, match=words):
        load_pairs(tmp_path / name, tokenizer)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10**6])
def test_an_array_is_the_same_in_pieces_of_any_size(tmp_path, size):
    values = [12, 1.5e3, 'a\nb"\\', True, None, [], {}, {"a": [1, {"b": "é" * 100}]}, "😀"]
    for indent in (None, 1):
        (tmp_path / "a.json").write_text(json.dumps(values, indent=indent))
        with (tmp_path / "a.json").open(encoding="utf-8", newline="") as file:
            found = list(read_array(file, "a.json", size))
        assert [value for _, value in found] == values
        if indent:
            assert [where for where, _ in found][:4] == ["a.json:2", "a.json:3", "a.json:4", "a.json:5"]


def test_lines_of_a_large_file_are_counted_over_its_blocks(tmp_path):
    row = json.dumps({"prompt": "p" * 999, "completion": "c"}) + "\n"
    count = BLOCK_BYTES // len(row) + 50
    (tmp_path / "p.jsonl").write_text(row * count)
    blocks = list(blocks_of(tmp_path / "p.jsonl", "JSON Lines"))
    assert len(blocks) == 2
    wheres = [where for block in blocks for where, _ in block.rows()]
    assert wheres == [f"{tmp_path}/p.jsonl:{i}" for i in range(1, count + 1)]


def test_json_of_arrow_keeps_its_numbers():
    """`datasets.Json` decodes 0.009 as 0.009000000000000001."""
    kept = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"f": 0.009, "i": 12345678901234567890}', None]))
    block = Block("here", 1, table=pa.table({"a": kept, "b": pa.array([[None], None], pa.list_(pa.null()))}))
    rows = [row for _, row in block.rows()]
    assert rows[0]["a"] == {"f": 0.009, "i": 12345678901234567890}
    assert rows[1]["a"] is None


def test_a_folder_is_its_files_and_one_of_its_splits(tmp_path, capsys):
    for split, texts in (("train", TEXTS[:2]), ("validation", TEXTS[2:3]), ("test", TEXTS[3:4])):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{split}-00000-of-00001.jsonl").write_text(
            "".join(json.dumps({"prompt": t}) + "\n" for t in texts)
        )
    (tmp_path / "README.md").write_text("a card")
    assert read_prompts(tmp_path) == TEXTS[:2]
    assert read_prompts(tmp_path, split="dev") == TEXTS[2:3]
    assert read_evaluation(tmp_path) == [(TEXTS[3],)]
    with pytest.raises(ValueError, match="has the splits .*train.* but no 'unseen'"):
        read_prompts(tmp_path, split="unseen")


def test_what_lies_beside_pairs_is_no_pairs(tmp_path):
    save_pairs(build_pairs(3), tmp_path / "a.jsonl")
    save_pairs(build_pairs(2), tmp_path / "b.parquet")
    for name in (
        "a.jsonl.settings.json",
        "a.jsonl.steps.json",
        "a.jsonl.refused.jsonl",
        "a.jsonl.bad.jsonl",
        "a.jsonl.lock",
        "notes.txt",
    ):
        (tmp_path / name).write_text('{"prompt": "no", "completion": "row"}\n')
    assert len(load_pairs(tmp_path)) == 5


def test_saved_datasets_of_others(tmp_path, tokenizer):
    saved = datasets.Dataset.from_list([{"q": "the cat", "a": "sat", "source": "web"}] * 3)
    saved.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": saved, "test": saved.select([0])}).save_to_disk(str(tmp_path / "splits"))
    named = {"columns": "prompt=q,completion=a", "chat": False}
    assert load_pairs(tmp_path / "one", tokenizer, **named)["source"][:] == ["web"] * 3
    assert len(load_pairs(tmp_path / "splits", tokenizer, **named)) == 3
    assert len(load_pairs(tmp_path / "splits", tokenizer, split="test", **named)) == 1
    with pytest.raises(ValueError, match="is one dataset without splits"):
        load_pairs(tmp_path / "one", tokenizer, split="test", **named)


@pytest.mark.parametrize(
    ("source", "split", "limit", "asked"),
    [
        ("openai/gsm8k:main:test", None, None, ("openai/gsm8k", "main", "test", False)),
        ("openai/gsm8k:main", "train", None, ("openai/gsm8k", "main", "train", False)),
        ("me/data", None, 1, ("me/data", None, "train", True)),
        ("me/data::dev", None, None, ("me/data", None, "dev", False)),
    ],
)
def test_a_dataset_of_the_hub_with_its_configuration_and_split(monkeypatch, tokenizer, source, split, limit, asked):
    calls = []

    def load_dataset(name, config, *, split, streaming):
        calls.append((name, config, split, streaming))
        rows = datasets.Dataset.from_list([{"question": "the cat", "answer": "sat"}] * 2)
        return rows.to_iterable_dataset() if streaming else rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, config: ["test", "train"])
    pairs = load_pairs(source, tokenizer, split=split, limit=limit, chat=False)
    assert calls == [asked]
    assert pairs["completion"][:] == ["sat"] * (limit or 2)


def test_no_such_file_and_no_such_dataset(tmp_path):
    with pytest.raises(ValueError, match=r"No file .*none\.jsonl"):
        find_parts(tmp_path / "none.jsonl")
    with pytest.raises(
        ValueError, match="No file nobody/nothing, and no dataset of that name could be had from the Hub"
    ):
        find_parts("nobody/nothing")
    with pytest.raises(ValueError, match=r"No file some/rows\.jsonl"):
        find_parts("some/rows.jsonl")
