"""The law of exports: what is read again is the pair that was, or a note names what differs."""

import json
import math
from functools import partial

import datasets
import pytest
from conftest import build_pairs
from tool_chats import chat_tokenizer

from distill.pairs import load_pairs, save_pairs
from distill.pairs.exporting import export_pairs
from distill.pairs.schema import complete_row, pairs_from_rows

ASK = {"role": "user", "content": "What is the weather in Rome?"}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"place": "Rome", "unit": None}}}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}
TURN = {"role": "assistant", "content": "", "tool_calls": [CALL]}
TALKS = {
    "words": [ASK, {"role": "assistant", "content": "Sun."}],
    "system": [{"role": "system", "content": "Be short."}, ASK, {"role": "assistant", "content": "Sun.\n\nAnd rain?"}],
    "several": [ASK, {"role": "assistant", "content": "Sun."}, ASK, {"role": "assistant", "content": "Rain."}],
    "call": [ASK, TURN],
    "words and a call": [ASK, {**TURN, "content": "I look it up."}],
    "two calls": [ASK, {**TURN, "tool_calls": [CALL, CALL]}],
    "a result": [ASK, TURN, {"role": "tool", "content": "18 degrees"}, {"role": "assistant", "content": "18 degrees."}],
    "words, a call, a result": [
        ASK,
        {**TURN, "content": "I look it up."},
        {"role": "tool", "content": "18"},
        {"role": "assistant", "content": "18."},
    ],
    "a trace": [ASK, {"role": "assistant", "content": "Sun.", "reasoning_content": "Rome is sunny."}],
}


def pair_of(talk, tokenizer, **more):
    tools = {"tools": [TOOL]} if any("tool_calls" in message for message in talk) else {}
    row = {
        "id": "a1",
        "messages": talk,
        "source": "web",
        "level": 3,
        "tags": ["x"],
        "deep": {"k": [1, None]},
        **tools,
        **more,
    }
    return pairs_from_rows([complete_row(row, "here", tokenizer)], "here")


def differing(one, other):
    """Columns that are not the same; stored JSON by what it says, because `datasets` decodes it its own way."""
    rows = [{k: v for k, v in pairs.to_list()[0].items() if v is not None} for pairs in (one, other)]
    return {name for name in {**rows[0], **rows[1]} if rows[0].get(name) != rows[1].get(name)}


@pytest.mark.parametrize("form", ["messages", "sharegpt", "parquet"])
@pytest.mark.parametrize("talk", TALKS)
def test_what_is_exported_is_read_again_as_the_same_pair_or_a_note_says_what_differs(tmp_path, form, talk):
    tokenizer = chat_tokenizer("qwen3")
    pairs = pair_of(TALKS[talk], tokenizer)
    path = tmp_path / ("p.parquet" if form == "parquet" else "p.jsonl")
    notes = export_pairs(pairs, form, path)
    again = load_pairs(path, tokenizer)
    lost = differing(pairs, again)
    if form == "parquet":
        assert (lost, notes) == (set(), [])
    elif form == "sharegpt" and talk == "a trace":
        assert any(note.startswith("reasoning_content of 1 turns") for note in notes)
        assert lost <= {"completion", "completion_ids", "message", "prompt_ids"}
    else:
        assert lost == set(), "these tokens were made from text, so they are the same"
        earlier = sum(message["role"] == "assistant" for message in TALKS[talk][:-1])
        wanted = [f"{earlier} earlier turns of the assistant carry no loss"] * bool(earlier)
        assert [note.partition(":")[0].partition(" in these")[0] for note in notes] == [
            "token ids are left out",
            *wanted,
        ]


@pytest.mark.parametrize("form", ["messages", "sharegpt"])
@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("talk", ["several", "words, a call, a result"])
def test_a_turn_that_carries_no_loss_carries_none_when_all_turns_are_read(tmp_path, form, marked, talk):
    """A bad turn that was marked came out unmarked; nor is one that was before the last trained on by another tool."""
    tokenizer = chat_tokenizer("qwen3")
    said = [
        {**message, "weight": 0} if marked and message["role"] == "assistant" and i < len(TALKS[talk]) - 1 else message
        for i, message in enumerate(TALKS[talk])
    ]
    pairs = pair_of(said, tokenizer)
    notes = export_pairs(pairs, form, tmp_path / "p.jsonl")
    assert any(
        "earlier turns of the assistant carry no loss in these pairs and are marked with weight 0" in n for n in notes
    )
    assert differing(pairs, load_pairs(tmp_path / "p.jsonl", tokenizer, turns="all")) == set()


def test_what_a_teacher_emitted_and_what_a_server_said_is_told(tmp_path):
    top = [{"tokens": ["a"], "logprobs": [-0.5]}] * 2
    rows = [
        {**build_pairs(1)[0], "completion_ids": [5, 6], "token_source": "teacher", "top_logprobs": top},
        {**build_pairs(1)[0], "id": "b", "token_source": "text"},
    ]
    notes = export_pairs(pairs_from_rows(rows, "here"), "messages", tmp_path / "m.jsonl")
    assert any(note.startswith("token_source of 1 rows is left out") for note in notes)
    assert any(note.startswith("top_logprobs of 1 rows are left out") for note in notes)


@pytest.mark.parametrize("form", ["messages", "sharegpt"])
@pytest.mark.parametrize("name", ["messages", "conversations", "conversation", "system", "system_prompt", "functions"])
def test_an_own_column_is_never_taken_for_the_talk(tmp_path, tokenizer, form, name):
    """It replaced it, or was read as a part of it; it has another name, and a note says so."""
    mine = [{"from": "human", "value": "mine"}] if name.startswith("conv") else "mine"
    pairs = pairs_from_rows(
        [{**complete_row({"prompt": "q", "completion": "c"}, "here", tokenizer), name: mine}], "here"
    )
    notes = export_pairs(pairs, form, tmp_path / "p.jsonl")
    assert any(note.startswith(f"the column {name} stands as own_{name}") for note in notes)
    again = load_pairs(tmp_path / "p.jsonl", tokenizer)
    assert (again["prompt"][0], again["completion"][0]) == (pairs["prompt"][0], "c")
    assert again[f"own_{name}"][0] == pairs[name][0]


@pytest.mark.parametrize("value", [math.nan, math.inf, [1.0, math.nan], {"a": math.nan}])
@pytest.mark.parametrize("form", ["messages", "sharegpt", "jsonl"])
def test_no_number_that_json_has_not_is_written(tmp_path, form, value):
    rows = [{**build_pairs(1)[0], "own": value}]
    pairs = pairs_from_rows(rows, "here")
    write = save_pairs if form == "jsonl" else partial(export_pairs, form=form)
    with pytest.raises(ValueError, match="The column own has NaN or Infinity"):
        write(pairs, path=tmp_path / "p.jsonl") if form == "jsonl" else write(pairs, output=tmp_path / "p.jsonl")
    assert not (tmp_path / "p.jsonl").exists()


def test_values_of_a_table_that_are_no_json_are_told(tmp_path, tokenizer):
    import datetime

    pairs = build_pairs(2).add_column("when", [datetime.datetime(2020, 1, 2), None])
    notes = export_pairs(pairs, "messages", tmp_path / "m.jsonl")
    assert any(note.startswith("values of the column when in 1 rows are no JSON (datetime)") for note in notes)
    assert json.loads((tmp_path / "m.jsonl").read_text().splitlines()[0])["when"] == "2020-01-02 00:00:00"


def test_roles_and_calls_that_sharegpt_has_no_word_for_are_told(tmp_path):
    talk = [
        {"role": "developer", "content": "be short"},
        ASK,
        {"role": "assistant", "content": "", "tool_calls": [{**CALL, "id": "c1"}]},
        {"role": "ipython", "content": {"degrees": 18}},
        {"role": "critic", "content": "hm"},
    ]
    row = {**build_pairs(1)[0], "prompt": talk, "completion": "18"}
    notes = export_pairs(pairs_from_rows([row], "here"), "sharegpt", tmp_path / "s.jsonl")
    turns = json.loads((tmp_path / "s.jsonl").read_text())["conversations"]
    assert [turn["from"] for turn in turns] == ["system", "human", "function_call", "observation", "critic", "gpt"]
    assert turns[3]["value"] == '{"degrees": 18}'
    for words in (
        "1 turns of the role developer stand as system", "1 turns of the role ipython stand as observation", "id of 1 calls",
        "1 turns are of the role critic", "1 contents of the role ipython are objects",
    ):  # fmt: skip
        assert any(note.startswith(words) for note in notes), words


def test_turns_of_sharegpt_that_carry_marks_of_their_own_stay_two(tmp_path, tokenizer):
    """Words that are not to be trained on, and a call that is."""
    from distill.pairs.shapes import shape_of_pairs

    call = {"from": "function_call", "value": json.dumps(CALL["function"])}
    row = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "I look.", "weight": 0}, call]}
    made = shape_of_pairs([row], {}, "here").translate(row)["messages"]
    assert [message["role"] for message in made] == ["user", "assistant", "assistant"]
    del row["conversations"][1]["weight"]
    made = shape_of_pairs([row], {}, "here").translate(row)["messages"]
    assert made[1:] == [{"role": "assistant", "content": "I look.", "tool_calls": [CALL]}]


def test_the_hub_and_parquet_keep_every_column(tmp_path):
    pairs = build_pairs(2).add_column("messages", ["a", "b"])
    export_pairs(pairs, "parquet", tmp_path / "p.parquet")
    assert load_pairs(tmp_path / "p.parquet").to_list() == pairs.to_list()
    assert isinstance(pairs, datasets.Dataset)
