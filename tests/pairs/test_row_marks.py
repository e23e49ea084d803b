"""Rows that say themselves that they are not to be trained on: left out and counted, by whatever way they come."""

import json

import datasets
import pytest
from conftest import TEMPLATE, build_model, build_tokenizer, json_lines

from distill import BlackBoxTrainer
from distill.pairs import load_pairs
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


def marked(shape, name, no):
    """The second of three says no."""
    yes = (
        {False: True, "False": "True", "0": "1"}.get(no, 1.0)
        if no is not False and isinstance(no, str)
        else (True if no is False else type(no)(1))
    )
    return [{**ROWS[shape], "id": f"r{i}", name: no if i == 1 else yes} for i in range(3)]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "saved"])
@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize(("name", "no"), NO)
def test_a_marked_row_of_a_file_is_left_out_and_counted(tmp_path, capsys, kind, shape, name, no):
    """`weight: 0` beside a prompt was carried along, and the row was trained on."""
    rows, tokenizer = marked(shape, name, no), build_tokenizer(TEMPLATE)
    path = tmp_path / f"p.{kind}"
    table = datasets.Dataset.from_list(rows)
    if kind == "jsonl":
        json_lines(path, rows)
    elif kind == "csv":
        texts = [{n: v if isinstance(v, str) else json.dumps(v) for n, v in row.items()} for row in rows]
        datasets.Dataset.from_list(texts).to_csv(str(path))
    else:
        table.to_parquet(str(path)) if kind == "parquet" else table.save_to_disk(str(path))
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


@pytest.mark.parametrize(
    ("name", "value"), [("loss", 0.0), ("loss", 0), ("training", 0), ("train", "0"), ("weight", 0.5), ("weight", None)]
)
def test_a_column_that_may_mean_something_else_marks_nothing(tmp_path, capsys, name, value):
    """A measured loss, the number of a split, a share: carried along as any own column."""
    rows = [{**ROWS["text"], name: value}] * 2
    assert len(load_pairs(json_lines(tmp_path / "p.jsonl", rows), build_tokenizer(TEMPLATE))) == 2
    assert len(tokenised(datasets.Dataset.from_list(rows), build_tokenizer(TEMPLATE))) == 2
    assert "left out" not in capsys.readouterr().out


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
