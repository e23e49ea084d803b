"""Shapes of rows as the field's data sets have them: recognised, said, translated; and a user's own columns, which stay."""

import json

import datasets
import pytest
from conftest import build_pairs, json_lines

from distill.pairs import load_pairs, retokenize, save_pairs
from distill.pairs.prompts import read_prompts
from distill.pairs.shapes import parse_columns, shape_of_pairs

USER, SAID = {"role": "user", "content": "what is a cat"}, {"role": "assistant", "content": "the dog"}
SHAPES = {
    "prompt/completion": {"prompt": "what is a cat", "completion": "the dog"},
    "prompt/completion, messages": {"prompt": [USER], "completion": "the dog"},
    "messages": {"messages": [USER, SAID]},
    "messages as text": {"messages": json.dumps([USER, SAID])},
    "conversation": {"conversation": [USER, SAID]},
    "ShareGPT": {"conversations": [{"from": "human", "value": "what is a cat"}, {"from": "gpt", "value": "the dog"}]},
    "Alpaca": {"instruction": "what is a cat", "input": "", "output": "the dog"},
    "Dolly": {"instruction": "what is a cat", "context": "", "response": "the dog", "category": "open_qa"},
    "question/answer": {"question": "what is a cat", "answer": "the dog"},
    "problem/solution": {"problem": "what is a cat", "solution": "the dog"},
    "query/response": {"query": "what is a cat", "response": "the dog"},
    "input/output": {"input": "what is a cat", "output": "the dog"},
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_the_shapes_of_the_field_become_one_pair(tmp_path, name, kind, tokenizer, capsys):
    row = {**SHAPES[name], "source": "web", "difficulty": 3}
    path = json_lines(tmp_path / "p.jsonl", [row] * 2)
    if kind == "parquet":
        path = tmp_path / "p.parquet"
        datasets.Dataset.from_list([row] * 2).to_parquet(str(path))
    pairs = load_pairs(path, tokenizer)
    said = capsys.readouterr().out
    wanted = load_pairs(json_lines(tmp_path / "plain.jsonl", [SHAPES["prompt/completion"]] * 2), tokenizer)
    for column in wanted.column_names:
        assert pairs[column][:] == wanted[column][:], column
    assert pairs["source"][:] == ["web"] * 2
    assert pairs["difficulty"][:] == [3, 3]
    assert said.count("\n") == 1, "one line a file"
    assert str(path) in said
    assert "source, difficulty" in said


@pytest.mark.parametrize("name", SHAPES)
def test_prompts_are_read_from_the_same_shapes(tmp_path, name):
    expected = [USER] if any(n in SHAPES[name] for n in ("messages", "conversation", "conversations")) or isinstance(
        SHAPES[name].get("prompt"), list
    ) else USER["content"]  # fmt: skip
    assert read_prompts(json_lines(tmp_path / "p.jsonl", [SHAPES[name]] * 2)) == [expected] * 2


def test_what_stands_below_an_instruction_is_asked_with_it(tmp_path, tokenizer, capsys):
    row = {"instruction": "say it again", "input": "the cat", "output": "the cat"}
    path = json_lines(tmp_path / "alpaca.jsonl", [row])
    assert load_pairs(path, tokenizer)["prompt"][0][0]["content"] == "say it again\nthe cat"
    assert "instruction/input/output (Alpaca)" in capsys.readouterr().out
    assert read_prompts(path) == ["say it again\nthe cat"]


def test_a_system_text_beside_a_question_is_shown_to_the_template(tmp_path, tokenizer):
    """OpenOrca has system_prompt, question and response."""
    row = {"system_prompt": "be short", "question": "what is a cat", "response": "the dog"}
    asked = [{"role": "system", "content": "be short"}, USER]
    wanted = load_pairs(json_lines(tmp_path / "q.jsonl", [{"prompt": asked, "completion": "the dog"}]), tokenizer)
    assert load_pairs(json_lines(tmp_path / "p.jsonl", [row]), tokenizer).to_list() == wanted.to_list()


def test_a_turn_of_sharegpt_keeps_what_it_says(tmp_path):
    calls = {
        "from": "function_call",
        "value": '{"name": "weather", "arguments": {"place": "Rome", "unit": null}}',
        "weight": 0,
    }
    row = {
        "conversations": [
            {"from": "system", "value": "s"},
            {"from": "human", "value": "q"},
            calls,
            {"from": "observation", "value": "3"},
        ]
    }
    made = shape_of_pairs([row], {}, "here").translate(row)["messages"]
    call = {"type": "function", "function": {"name": "weather", "arguments": {"place": "Rome", "unit": None}}}
    assert made == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [call], "weight": 0},
        {"role": "tool", "content": "3"},
    ]
    bad = {"conversations": [{"from": "narrator", "value": "q"}]}
    shape = shape_of_pairs([bad], {}, "here")
    with pytest.raises(ValueError, match="a turn is from 'narrator'"):
        shape.translate(bad)


def test_columns_are_named(tmp_path, tokenizer):
    path = json_lines(tmp_path / "p.jsonl", [{"q": "the cat", "a": "sat", "id": 7, "prompt": "old"}])
    pairs = load_pairs(path, tokenizer, chat=False, columns="prompt=q,completion=a")
    assert (pairs["prompt"][0], pairs["completion"][0], pairs["id"][0]) == ("the cat", "sat", "7")
    assert read_prompts(path, columns={"prompt": "q"}) == read_prompts(path, "q") == ["the cat"]
    for columns, words in (
        ("prompt=x,completion=a", r"p\.jsonl: no column x; it has q, a, id, prompt"),
        ("prompt", "expected names and columns"),
        ("prompt=q,prompt=a", "each name once"),
    ):
        with pytest.raises(ValueError, match=words):
            load_pairs(path, tokenizer, columns=columns)
    assert parse_columns(" prompt = q , completion=a") == {"prompt": "q", "completion": "a"}


def test_rows_of_no_known_shape_are_refused_with_their_columns(tmp_path, tokenizer):
    path = json_lines(tmp_path / "p.jsonl", [{"chosen": "a", "rejected": "b"}])
    for read in (lambda: load_pairs(path, tokenizer), lambda: read_prompts(path)):
        with pytest.raises(ValueError, match=r"it has chosen, rejected.*prompt=q"):
            read()


def test_the_shape_is_decided_once_a_file_and_never_a_row(tmp_path, tokenizer):
    text, ids = (
        {"prompt": "p", "completion": "c"},
        {"prompt": "p", "completion": "c", "prompt_ids": [5], "completion_ids": [6]},
    )
    for first, second, words in (
        (text, ids, "token ids, and others of this file have none"),
        (ids, text, "no token ids, which others of this file have"),
        (
            SHAPES["question/answer"],
            SHAPES["Alpaca"],
            "no 'question' and no 'answer'; the row has instruction, input, output",
        ),
        (SHAPES["messages"], SHAPES["Alpaca"], "no messages; the row has instruction"),
    ):
        path = json_lines(tmp_path / "p.jsonl", [first] * 150 + [second])
        with pytest.raises(ValueError, match=rf"p\.jsonl:151: {words}"):
            load_pairs(path, tokenizer)


def test_a_column_that_pairs_make_themselves_is_said_to_be_left_out(tmp_path, tokenizer, capsys):
    """UltraChat has the first question beside the messages."""
    row = {"prompt": "what is a cat", "prompt_id": "x1", **SHAPES["messages"]}
    pairs = load_pairs(json_lines(tmp_path / "p.jsonl", [row]), tokenizer)
    assert pairs["prompt"][0] == [USER]
    assert pairs["prompt_id"][0] == "x1"
    assert "Left out, because pairs have their own: prompt." in capsys.readouterr().out


OWN = {
    "text": ["web", "007", None], "truth": [True, False, None], "whole": [3, -(2**40), None], "broken": [0.009, 1.0, None],
    "both": [1, 2.5, None], "texts": [["a", "b"], [], None], "numbers": [[1, 2], [3], None], "object": [{"k": None, "f": 0.009}, {}, None],
    "objects": [[{"a": 1}], [{"b": [1, "x"]}], None], "when": ["2020-01-01", "2020-01-01T00:00:00", None], "none": [None] * 3,
    "": ["a name", "that is", "empty"],
}  # fmt: skip


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("name", ["again.jsonl", "again.jsonl.gz", "again.jsonl.zst", "again.parquet", "again"])
def test_own_columns_go_to_arrow_and_back_as_they_were(tmp_path, tokenizer, ids, name):
    had = {"prompt_ids": [5], "completion_ids": [6, 2]} if ids else {}
    rows = [
        {"prompt": "p", "completion": "c", **had, **{key: values[i] for key, values in OWN.items()}} for i in range(3)
    ]
    pairs = load_pairs(json_lines(tmp_path / "p.jsonl", rows), tokenizer)
    save_pairs(pairs, tmp_path / name)
    for loaded in (pairs, load_pairs(tmp_path / name)):
        for key, values in OWN.items():
            if key == "object":  # stored exactly, decoded by datasets with an error in the last digit
                stored = loaded.with_format("arrow")[:][key].to_pylist()
                assert [v if v is None else json.loads(v) for v in stored] == values
            else:
                assert loaded[key][:] == values, key
                assert [type(v) for v in loaded[key][:]] == [float if key == "both" and v else type(v) for v in values]


def test_values_of_several_kinds_in_one_column_are_text(tmp_path):
    values = ["a", 1, True, {"k": [1]}, 2**70, None]
    rows = [{**build_pairs(1)[0], "mixed": value} for value in values]
    pairs = load_pairs(json_lines(tmp_path / "p.jsonl", rows))
    assert pairs["mixed"][:] == ["a", "1", "true", '{"k": [1]}', str(2**70), None]


def test_a_column_that_comes_late_or_changes_its_kind(tmp_path, tokenizer):
    """Beyond the rows that are looked at first, and beyond the block in which they stand."""
    rows = [{**build_pairs(1)[0], "id": f"r{i}", "level": i} for i in range(2500)]
    rows[1500]["late"], rows[2400]["level"] = "x", "hard"
    pairs = load_pairs(json_lines(tmp_path / "p.jsonl", rows))
    assert pairs["late"][1499:1502] == [None, "x", None]
    assert pairs["level"][2399:2402] == ["2399", "hard", "2401"]
    assert pairs["id"][:] == [f"r{i}" for i in range(2500)]


def test_another_tokenizer_keeps_what_stands_beside_a_pair(tmp_path, tokenizer):
    row = {"prompt": "what is a cat", "completion": "the dog", "source": "web", "tags": ["a"], "score": 1.0}
    pairs = load_pairs(json_lines(tmp_path / "p.jsonl", [row]), tokenizer)
    again = retokenize(pairs, tokenizer)
    assert again.column_names == pairs.column_names
    assert again.to_list() == pairs.to_list()


def test_nulls_of_a_table_are_as_good_as_none(tmp_path):
    """What was never said is null in a table that was exported."""
    full = dict.fromkeys(("id", "finish_reason", "sample", "teacher", "token_source", "score", "loss_mask"))
    row = {"prompt": "p", "completion": "c", "prompt_ids": [5], "completion_ids": [6, 2]}
    wanted = load_pairs(json_lines(tmp_path / "p.jsonl", [row])).to_list()
    assert load_pairs(json_lines(tmp_path / "q.jsonl", [{**row, **full}])).to_list() == wanted
    said = {**row, "id": wanted[0]["id"], "finish_reason": "stop", "sample": 0, "teacher": "unknown"}
    datasets.Dataset.from_list([{**row, **full}, said]).to_parquet(str(tmp_path / "q.parquet"))
    assert load_pairs(tmp_path / "q.parquet").to_list() == wanted * 2


def test_bad_rows_are_set_aside_with_where_and_why(tmp_path, tokenizer, capsys):
    good = [{"question": f"q{i}", "answer": "the dog"} for i in range(3)]
    bad = ['{"question": "q", "answer": 5}', "{", '{"question": "q"}', "[1]"]
    path = tmp_path / "p.jsonl"
    path.write_text(
        "\n".join([json.dumps(good[0]), bad[0], "", bad[1], json.dumps(good[1]), bad[2], bad[3], json.dumps(good[2])])
        + "\n"
    )
    with pytest.raises(ValueError, match=r"p\.jsonl:2: "):
        load_pairs(path, tokenizer)
    pairs = load_pairs(path, tokenizer, chat=False, skip_bad=tmp_path / "out.bad.jsonl")
    assert pairs["prompt"][:] == ["q0", "q1", "q2"]
    told = [json.loads(line) for line in (tmp_path / "out.bad.jsonl").read_text().splitlines()]
    assert sorted(one["where"].rpartition(":")[2] for one in told) == ["2", "4", "6", "7"]
    assert all(one["error"].startswith(one["where"]) for one in told)
    rows = {one["where"].rpartition(":")[2]: one["row"] for one in told}
    assert rows["2"] == json.loads(bad[0])
    assert rows["4"].strip() == bad[1]
    assert "4 bad rows are left out and stand in" in capsys.readouterr().out
    assert len(read_prompts(path, skip_bad=tmp_path / "prompts.bad.jsonl")) == 5
    assert len((tmp_path / "prompts.bad.jsonl").read_text().splitlines()) == 2


def test_nothing_but_bad_rows_is_an_error_that_counts_them(tmp_path, tokenizer):
    path = tmp_path / "p.jsonl"
    path.write_text("{\n[\n")
    with pytest.raises(ValueError, match=r"has no pairs, and 2 bad rows \(the first: .*p\.jsonl:1"):
        load_pairs(path, tokenizer, skip_bad=tmp_path / "bad.jsonl")


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(tmp_path, limit):
    path = json_lines(tmp_path / "p.jsonl", build_pairs(3).to_list())
    for read in (load_pairs, read_prompts):
        with pytest.raises(ValueError, match=f"limit is {limit}; it must be at least 1"):
            read(path, limit=limit)


def test_a_system_text_stands_before_a_prompt(tmp_path):
    rows = [{"system": "be short", "instruction": "what is a cat"}, {"system": "", "instruction": "a dog"}]
    assert read_prompts(json_lines(tmp_path / "p.jsonl", rows)) == [
        [{"role": "system", "content": "be short"}, USER],
        "a dog",
    ]


def test_prompts_that_cannot_be_asked_whole_are_refused(tmp_path):
    tools = {**SHAPES["messages"], "tools": [{"type": "function"}]}
    two = {"system": "one", "messages": [{"role": "system", "content": "another"}, USER]}
    for row, words in (
        (tools, "the row has tools"),
        (two, "the row has a system text and another one"),
        ({"prompt": ""}, "the prompt is empty"),
    ):
        with pytest.raises(ValueError, match=rf"p\.jsonl:1: {words}"):
            read_prompts(json_lines(tmp_path / "p.jsonl", [row]))


def test_a_file_that_begins_with_a_hundred_bad_rows_keeps_the_good_ones(tmp_path, tokenizer):
    good = [json.dumps({"prompt": f"what is {i}", "completion": "a cat"}) for i in range(30)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(["{broken"] * 150 + good) + "\n", encoding="utf-8")
    aside = tmp_path / "out.bad.jsonl"
    assert len(load_pairs(path, tokenizer, chat=False, skip_bad=aside)) == 30
    assert len(aside.read_text(encoding="utf-8").splitlines()) == 150
    assert len(read_prompts(path, skip_bad=tmp_path / "prompts.bad.jsonl")) == 30
    path.write_text("{broken\n" * 150, encoding="utf-8")
    with pytest.raises(ValueError, match="150 bad rows"):
        load_pairs(path, tokenizer, chat=False, skip_bad=tmp_path / "all.bad.jsonl")


def test_a_row_without_a_completion_is_refused_by_its_line(tmp_path, tokenizer):
    """Not by a KeyError or a TypeError; and it can be set aside."""
    path = tmp_path / "rows.jsonl"
    first = {"prompt": "what is a cat", "completion": "the dog"}
    for bad in ({"prompt": "q"}, {"prompt": "q", "completion": None}):
        json_lines(path, [first, bad])
        with pytest.raises(ValueError, match=r":2: no completion"):
            load_pairs(path, tokenizer, chat=False)
        assert len(load_pairs(path, tokenizer, chat=False, skip_bad=tmp_path / "bad.jsonl")) == 1


@pytest.mark.parametrize("ids", [{}, {"prompt_ids": [5], "completion_ids": [6, 2]}])
@pytest.mark.parametrize(
    ("said", "means"),
    [("eos", "stop"), ("end_turn", "stop"), ("STOP", "stop"), ("max_tokens", "length"), (None, "stop")],
)
def test_a_row_that_ended_under_any_known_name_is_read(tmp_path, tokenizer, ids, said, means):
    """`text/ends.py` knew them, and `load_pairs` refused them."""
    row = {"prompt": "what is a cat", "completion": "the dog", **ids, "finish_reason": said}
    assert load_pairs(json_lines(tmp_path / "p.jsonl", [row] * 2), tokenizer)["finish_reason"][:] == [means] * 2
    json_lines(tmp_path / "p.jsonl", [row, {**row, "finish_reason": "gone"}])
    with pytest.raises(ValueError, match=r"p\.jsonl:2: finish_reason is 'gone'"):
        load_pairs(tmp_path / "p.jsonl", tokenizer)
