"""Evaluation sets: contents in parts, cells and turns of every form are compared, and what is no text is refused by name."""

import json

import pytest

from distill.pairs.evaluation_sets import read_evaluation

PARTS = [{"type": "text", "text": "what is "}, {"type": "input_text", "text": "two?"}, " and three"]


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "texts"),
    [
        ({"messages": [{"role": "user", "content": PARTS}]}, ("what is two? and three",)),
        ({"conversations": [{"from": "human", "value": PARTS}]}, ("what is two? and three",)),
        ({"prompt": PARTS}, ("what is \ntwo?\n and three",)),
        ({"messages": json.dumps([{"role": "user", "content": PARTS}])}, ("what is two? and three",)),
        ({"question": "how many?", "answer": ["two", 3]}, ("how many?", "two\n3")),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{"name": "f"}]}]},
            ("a",),
        ),
        ({"messages": [{"role": "tool", "content": {"degrees": 3}}]}, ('{"degrees": 3}',)),
    ],
)
def test_all_that_a_row_says_in_words_is_compared(tmp_path, row, texts):
    assert read_evaluation(written(tmp_path / "set.jsonl", row)) == [texts]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "messages: its content has a part of the type 'image_url'",
        ),
        ({"question": "a", "answer": [None]}, "answer: 'None' is neither text nor a message"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages: its content is '3', which is no text"),
        ({"prompt": [{"question": "a"}]}, "prompt: its content has a part"),
    ],
)
def test_contents_that_are_no_text_are_refused_by_the_column(tmp_path, row, words):
    path = written(tmp_path / "set.jsonl", {"question": "a"}, row)
    with pytest.raises(ValueError, match=rf"set\.jsonl:2: {words}.*--against_columns"):
        read_evaluation(path)
    if "question" in row:
        assert read_evaluation(path, columns=["question"]) == [("a",), ("a",)]


@pytest.mark.parametrize("name", ["set.csv", "set.yaml"])
def test_cells_of_an_evaluation_set_are_read_as_those_of_pairs(tmp_path, name):
    talk = [{"role": "user", "content": "two?"}]
    if name.endswith("csv"):
        quoted = json.dumps(talk).replace('"', '""')
        (tmp_path / name).write_text(f'messages,question\n"{quoted}",42\n')
    else:
        (tmp_path / name).write_text(f"- messages: {json.dumps(talk)}\n  question: 42\n")
    assert read_evaluation(tmp_path / name) == [("42", "two?")]
