"""Evaluation sets: contents in parts, cells and turns of every form are compared, and what is no text is refused by name."""

import json

import datasets
import pytest

from distill.pairs.evaluation_sets import read_evaluation, read_evaluations

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
        ({"messages": [{"role": "user", "text": "two?"}]}, ("two?",)),
        ({"messages": [{"role": "user", "content": None, "text": "two?"}]}, ("two?",)),
        ({"conversations": [{"from": "human", "value": None, "text": "two?"}]}, ("two?",)),
        ({"question": "how many?", "answer": 42}, ("how many?", "42")),
        ({"question": "how many?", "answer": {"text": ["two", "2"], "answer_start": [3, 9]}}, ("how many?", "two\n2")),
        ({"question": {"stem": "hot?", "choices": [{"text": "ice", "label": "A"}]}}, ("hot?\nice",)),
        ({"question": "a", "answer": None}, ("a",)),
        ({"question": {"text": "", "value": "two?"}}, ("two?",)),
        ({"question": {"text": " ", "stem": "two?", "label": None}}, ("two?",)),
        ({"question": {"text": [""], "words": ["two?"]}}, ("two?",)),
        ({"question": "a", "answer": {"text": [], "answer_start": []}}, ("a",)),
        ({"prompt": [{"type": "text", "text": ""}, "a"]}, ("a",)),
        ({"messages": [{"role": "user", "content": "", "text": "two?"}]}, ("two?",)),
        ({"messages": [{"role": "user", "content": [], "value": "", "text": "two?"}]}, ("two?",)),
        ({"conversations": [{"from": "human", "value": " ", "text": "two?"}]}, ("two?",)),
        *(
            (
                {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, name: empty}]},
                ("a",),
            )
            for name, empty in (("tool_calls", []), ("function_call", {}), ("refusal", ""), ("audio", None), ("n", 3))
        ),
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
        ({"prompt": [{"type": "image", "image": "x.png"}]}, "prompt: its content has a part of the type 'image'"),
        ({"messages": [{"role": "user", "content": None, "words": "a"}]}, "messages: a turn without content has words"),
        ({"messages": [{"from": "human", "message": "a"}]}, "messages: a turn without content has message"),
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


ARC = {"question": "what is hot?", "choices": {"text": ["ice", "fire"], "label": ["A", "B"]}, "answerKey": "B"}


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "json"])
def test_objects_in_columns_that_are_named_are_compared(tmp_path, capsys, kind):
    """`--against_columns question,choices` left ARC's choices out without a word, because they are an object."""
    path = tmp_path / f"arc.{kind}"
    if kind == "parquet":
        datasets.Dataset.from_list([ARC]).to_parquet(str(path))
    else:
        path.write_text(json.dumps([ARC] if kind == "json" else ARC))
    assert read_evaluation(path, ["question", "choices"]) == [("what is hot?", "ice\nfire")]
    assert "each by its question and choices" in capsys.readouterr().out


def test_a_column_that_no_row_has_is_refused(tmp_path):
    path = written(tmp_path / "arc.jsonl", ARC, {"question": "and?"})
    with pytest.raises(ValueError, match=r"arc\.jsonl: no column choises; there are question, choices, answerKey"):
        read_evaluation(path, ["question", "choises"])
    assert read_evaluation(path, ["question", "answerKey"]) == [("what is hot?", "B"), ("and?",)]


def test_each_of_the_columns_is_in_one_of_the_sets(tmp_path):
    """The flag is one for all sets."""
    paths = [written(tmp_path / "a.jsonl", {"question": "a"}), written(tmp_path / "b.jsonl", {"problem": "b"})]
    found = read_evaluations(paths, ["question", "problem"])
    assert found == {str(paths[0]): [("a",)], str(paths[1]): [("b",)]}
    with pytest.raises(ValueError, match=r"a\.jsonl, .*b\.jsonl: no column frage"):
        read_evaluations(paths, ["question", "problem", "frage"])
