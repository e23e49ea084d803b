"""Rows that say themselves that they are not to be trained on: left out and counted, by whatever way they come."""

import json

import datasets
import pytest
from conftest import TEMPLATE, build_model, build_tokenizer, json_lines

from distill import BlackBoxTrainer
from distill.pairs import load_pairs
from distill.pairs.prompts import prompt_rows, read_asked, read_asked_and_shown
from distill.pairs.tokenising import tokenised
from distill.text.messages import MARKS

TALK = [{"role": "user", "content": "what is a cat"}, {"role": "assistant", "content": "the dog"}]
ROWS = {
    "text": {"prompt": "what is a cat", "completion": "the dog"},
    "messages": {"messages": TALK},
    "question": {"question": "what is a cat", "answer": "the dog"},
    "ids": {"prompt": "a", "completion": "b", "prompt_ids": [5, 6], "completion_ids": [7, 2]},
}
NO = [("weight", 0), ("weight", 0.0), ("weight", "0"), *((name, False) for name in MARKS), ("train", "False")]
FORMS = {
    "list": list,
    "dataset": datasets.Dataset.from_list,
    "stream": lambda rows: datasets.Dataset.from_list(rows).to_iterable_dataset(),
    "generator": lambda rows: datasets.IterableDataset.from_generator(lambda: iter(rows)),
}


FORMATS = ("torch", "numpy", "pandas", "arrow")


def marked(shape, name, no):
    """The second of three says no."""
    yes = (
        {False: True, "False": "True", "0": "1"}.get(no, 1.0)
        if no is not False and isinstance(no, str)
        else (True if no is False else type(no)(1))
    )
    return [{**ROWS[shape], "id": f"r{i}", name: no if i == 1 else yes} for i in range(3)]


def write(path, kind, rows):
    """Rows as a file of this kind, or as a saved data set."""
    table = datasets.Dataset.from_list(rows)
    if kind == "jsonl":
        json_lines(path, rows)
    elif kind == "csv":
        texts = [{n: v if isinstance(v, str) else json.dumps(v) for n, v in row.items()} for row in rows]
        datasets.Dataset.from_list(texts).to_csv(str(path))
    else:
        table.to_parquet(str(path)) if kind == "parquet" else table.save_to_disk(str(path))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "saved"])
@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize(("name", "no"), NO)
def test_a_marked_row_of_a_file_is_left_out_and_counted(tmp_path, capsys, kind, shape, name, no):
    """`weight: 0` beside a prompt was carried along, and the row was trained on."""
    rows, tokenizer = marked(shape, name, no), build_tokenizer(TEMPLATE)
    path = tmp_path / f"p.{kind}"
    write(path, kind, rows)
    pairs = load_pairs(path, tokenizer)
    assert pairs["id"][:] == ["r0", "r2"]
    assert f"{path}: 1 rows are left out, because they are marked as not to be trained on" in capsys.readouterr().out


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize(("name", "no"), NO)
def test_a_marked_row_of_a_data_set_is_left_out_and_said(capsys, form, shape, name, no):
    made = tokenised(FORMS[form](marked(shape, name, no)), build_tokenizer(TEMPLATE), name="train_dataset")
    assert [row["id"] for row in made] == ["r0", "r2"]
    counted = "" if form in ("stream", "generator") else "1 "
    assert f"train_dataset: {counted}rows are left out, because they are marked" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["dataset", "stream", "generator"])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("name", "no"), [("weight", 0), ("weight", 0.0), ("weight", "0"), ("train", False)])
def test_a_mark_in_a_formatted_data_set_is_read_and_the_format_kept(capsys, form, format, name, no):
    """A tensor is not False itself: with_format("torch") hid all marks, and pandas ended in a TypeError."""
    given = FORMS[form](marked("text", name, no)).with_format(format)
    made = tokenised(given, build_tokenizer(TEMPLATE), name="train_dataset")
    assert [row["id"] for row in made.with_format(None)] == ["r0", "r2"]
    kept = made.format["type"] if form == "dataset" else made._formatting.format_type
    assert kept == format
    assert "rows are left out, because they are marked" in capsys.readouterr().out


@pytest.mark.parametrize("format", ["torch", "numpy"])
@pytest.mark.parametrize(("name", "no"), [("weight", 0), ("weight", 0.0), ("train", False)])
def test_a_mark_in_rows_taken_from_a_formatted_data_set_is_read(format, name, no):
    listed = list(datasets.Dataset.from_list(marked("text", name, no)).with_format(format, [name], True))
    assert [row["id"] for row in tokenised(listed, build_tokenizer(TEMPLATE))] == ["r0", "r2"]


def test_chosen_columns_and_a_function_of_a_format_are_kept():
    rows = datasets.Dataset.from_list(marked("ids", "weight", 0))
    chosen = tokenised(rows.with_format("torch", ["completion_ids"], True), None)
    assert (len(chosen), chosen.format["columns"], chosen.format["output_all_columns"]) == (2, ["completion_ids"], True)
    shouted = tokenised(rows.with_transform(lambda batch: {"id": [one.upper() for one in batch["id"]]}), None)
    assert shouted[:]["id"] == ["R0", "R2"]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("shape", ["text", "messages", "question", "ids"])
def test_a_mark_that_only_one_row_of_a_stream_has_is_read(capsys, shape, place):
    """A stream that does not say its columns: a mark behind its first row was missed, and one in it alone ended in a KeyError."""
    rows = [{**ROWS[shape], "id": f"r{i}"} for i in range(3)]
    rows[place]["weight"] = 0
    made = tokenised(FORMS["generator"](rows), build_tokenizer(TEMPLATE), name="train_dataset")
    assert [row["id"] for row in made] == [f"r{i}" for i in range(3) if i != place]
    assert capsys.readouterr().out.count("train_dataset: rows are left out, because they are marked") == 1


def test_a_stream_without_marks_says_nothing_of_them(capsys):
    rows = FORMS["generator"]([{**ROWS["text"], "id": "r0"}] * 2)
    assert len(list(tokenised(rows, build_tokenizer(TEMPLATE)))) == 2
    assert "left out" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "value"), [("loss", 0.0), ("loss", 0), ("training", 0), ("train", "0"), ("weight", 0.5), ("weight", None)]
)
def test_a_column_that_may_mean_something_else_marks_nothing(tmp_path, capsys, name, value):
    """A measured loss, the number of a split, a share: carried along as any own column."""
    rows = [{**ROWS["text"], name: value}] * 2
    assert len(load_pairs(json_lines(tmp_path / "p.jsonl", rows), build_tokenizer(TEMPLATE))) == 2
    assert len(tokenised(datasets.Dataset.from_list(rows), build_tokenizer(TEMPLATE))) == 2
    assert "left out" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize(("name", "no"), [("weight", 0), ("weight", 0.0), ("train", False)])
def test_a_column_that_is_taken_for_a_mark_is_one(tmp_path, capsys, kind, shape, name, no):
    """`--columns weight=x`: the row was asked for its marks before its columns had their names, and trained on."""
    rows = [{"x" if n == name else n: v for n, v in row.items()} for row in marked(shape, name, no)]
    path = tmp_path / f"p.{kind}"
    write(path, kind, rows)
    assert load_pairs(path, build_tokenizer(TEMPLATE), columns=f"{name}=x")["id"][:] == ["r0", "r2"]
    assert "1 rows are left out" in capsys.readouterr().out
    assert len(load_pairs(path, build_tokenizer(TEMPLATE))) == 3


def test_a_column_of_such_a_name_that_is_taken_for_something_else_is_no_mark(tmp_path, capsys):
    """A weight in kilograms, say; its own name is the way out."""
    path = json_lines(tmp_path / "p.jsonl", marked("text", "weight", 0))
    pairs = load_pairs(path, build_tokenizer(TEMPLATE), columns="kilograms=weight")
    assert pairs["kilograms"][:] == [1, 0, 1]
    assert "left out" not in capsys.readouterr().out


@pytest.mark.parametrize("shape", ["ids", "text"])
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved"])
@pytest.mark.parametrize(
    ("limit", "kept", "left"), [(1, [1], 1), (2, [1, 3], 2), (4, [1, 3, 5, 7], 4), (99, [*range(1, 20, 2)], 10)]
)
def test_a_limit_counts_those_left_out_before_it(tmp_path, capsys, kind, shape, limit, kept, left):
    """All of the block were counted, however few rows were read."""
    rows = [{**ROWS[shape], "id": f"r{i}", "weight": i % 2} for i in range(20)]
    path, table = tmp_path / f"p.{kind}", datasets.Dataset.from_list(rows)
    if kind == "jsonl":
        json_lines(path, rows)
    else:
        table.to_parquet(str(path)) if kind == "parquet" else table.save_to_disk(str(path))
    pairs = load_pairs(path, build_tokenizer(TEMPLATE), limit=limit)
    assert pairs["id"][:] == [f"r{i}" for i in kept]
    assert f"{left} rows are left out" in capsys.readouterr().out


def test_marked_rows_of_a_block_that_is_read_twice_are_counted_once(tmp_path, capsys):
    """Where prompts are of another kind than before, a table is read row by row behind being read whole, so that the bad row is told."""
    (folder := tmp_path / "d").mkdir()
    for name, row in (("a", ROWS["ids"]), ("b", {**ROWS["ids"], "prompt": TALK[:1]})):
        rows = [{**row, "weight": weight} for weight in (0, 1, 0, 1)]
        datasets.Dataset.from_list(rows).to_parquet(str(folder / f"{name}.parquet"))
    assert len(load_pairs(folder, skip_bad=tmp_path / "bad.jsonl")) == 2
    assert "4 rows are left out, because they are marked" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("by", [None, "mark"])
@pytest.mark.parametrize(("name", "no", "yes"), [("weight", 0, 1), ("train", False, True)])
def test_a_marked_prompt_is_not_asked(tmp_path, capsys, kind, by, name, no, yes):
    """It was, for money, and the pair was then left out of every training."""
    marks = [yes, no, yes, no]
    rows = [{"prompt": f"q{i}", "teacher_prompt": f"t{i}", by or name: mark} for i, mark in enumerate(marks)]
    path = tmp_path / f"p.{kind}"
    if kind == "csv":
        datasets.Dataset.from_list(rows).to_csv(str(path))
    else:
        json_lines(path, rows)
    columns = {name: by} if by else None
    for read in (read_asked, lambda *a, **k: [one for one, _ in read_asked_and_shown(*a, **k)]):
        assert [one["prompt"] for one in read(path, columns=columns)] == ["q0", "q2"]
        assert f"{path}: 2 rows are left out, because they are marked" in capsys.readouterr().out
        assert [one["prompt"] for one in read(path, columns=columns, limit=2)] == ["q0", "q2"]
        assert f"{path}: 1 rows are left out" in capsys.readouterr().out
    assert len(prompt_rows(path, columns=columns, whole=True)) == 4, "a verifier reads of all of them"
    json_lines(path := tmp_path / "none.jsonl", rows[1:2])
    with pytest.raises(ValueError, match=r"none\.jsonl has no prompts"):
        read_asked(path, columns=columns)


def test_nothing_is_left_of_a_file_whose_rows_are_all_marked(tmp_path, capsys):
    path = json_lines(tmp_path / "p.jsonl", [{**ROWS["text"], "weight": 0}] * 2)
    with pytest.raises(ValueError, match=r"p\.jsonl has no pairs"):
        load_pairs(path, build_tokenizer(TEMPLATE))
    assert "2 rows are left out" in capsys.readouterr().out


def test_a_trainer_takes_other_shapes_and_leaves_marked_rows_out(arguments):
    turns = [{"from": "human", "value": "what is a cat"}, {"from": "gpt", "value": "the dog"}]
    rows = datasets.Dataset.from_list([{"conversations": turns, "weight": weight} for weight in (1, 0, 1)])
    run = BlackBoxTrainer(
        model=build_model(), args=arguments(max_steps=1), train_dataset=rows, processing_class=build_tokenizer(TEMPLATE)
    )
    assert len(run.train_dataset) == 2
    run.train()
