"""What stands beside what is read: shown to the template, carried along, or refused; never lost unsaid."""

import json

import datasets
import pytest
from conftest import TEMPLATE, build_tokenizer, json_lines

from distill.pairs import load_pairs, retokenize
from distill.pairs.prompts import read_asked, read_prompts
from distill.pairs.schema import complete_row, pairs_from_rows
from distill.pairs.tokenising import tokenised

USER, SAID = {"role": "user", "content": "what is a cat"}, {"role": "assistant", "content": "the dog"}
PAIR = {"prompt": "what is a cat", "completion": "the dog"}
SHAPES = {
    "messages": [{"role": "user", "content": "a dog"}, {"role": "assistant", "content": "sat"}],
    "conversation": [USER, SAID],
    "conversations": [{"from": "human", "value": "a dog"}, {"from": "gpt", "value": "sat"}],
    "question": "a dog",
    "answer": "sat",
    "instruction": "a dog",
    "input": "the cat",
    "output": "sat",
    "context": "the mat",
    "text": "the dog sat",
}


@pytest.mark.parametrize("other", SHAPES)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_another_shape_beside_prompt_and_completion_is_carried_along_and_said(tmp_path, tokenizer, capsys, other, kind):
    """`messages` beside them were lost without a word."""
    row = {**PAIR, other: SHAPES[other]}
    path = json_lines(tmp_path / "p.jsonl", [row] * 2)
    if kind == "parquet":
        path = tmp_path / "p.parquet"
        datasets.Dataset.from_list([row] * 2).to_parquet(str(path))
    pairs = load_pairs(path, tokenizer)
    said = capsys.readouterr().out
    wanted = load_pairs(json_lines(tmp_path / "plain.jsonl", [PAIR] * 2), tokenizer)
    assert pairs.select_columns(wanted.column_names).to_list() == wanted.to_list()
    assert pairs[other][0] == SHAPES[other]
    assert f"prompt/completion. Carried along: {other}." in said
    again = load_pairs(json_lines(tmp_path / "again.jsonl", pairs.to_list()))
    assert again.to_list() == pairs.to_list()


def test_every_column_of_a_text_row_is_somewhere(tmp_path, tokenizer, capsys):
    """In the pair, in what the template was shown, or in the sentence; for every shape beside every other."""
    for taken in ("messages", "conversations", "question", "instruction"):
        for other in SHAPES:
            row = {taken: SHAPES[taken], "answer": "sat", "output": "sat", other: SHAPES[other], "difficulty": 3}
            pairs = load_pairs(json_lines(tmp_path / "p.jsonl", [row]), tokenizer)
            said = capsys.readouterr().out
            for name in row:
                assert name in pairs.column_names or name in said, (taken, other, name)


@pytest.mark.parametrize("name", ["system", "system_prompt"])
@pytest.mark.parametrize(
    "shape", [PAIR, {"question": "what is a cat", "answer": "the dog"}, {"messages": [USER, SAID]}]
)
def test_a_system_text_under_either_name_is_shown_beside_every_shape(tmp_path, tokenizer, capsys, name, shape):
    """`system_prompt` beside `prompt` and `completion` was not."""
    pairs = load_pairs(json_lines(tmp_path / "p.jsonl", [{**shape, name: "be short"}]), tokenizer)
    assert pairs["prompt"][0] == [{"role": "system", "content": "be short"}, USER]
    assert name not in pairs.column_names
    assert f"Shown to the chat template: {name}" in capsys.readouterr().out


def test_two_system_texts_that_differ_are_refused(tmp_path, tokenizer):
    path = json_lines(tmp_path / "p.jsonl", [{**PAIR, "system": "be short", "system_prompt": "be long"}])
    for read in (lambda: load_pairs(path, tokenizer), lambda: read_prompts(path)):
        with pytest.raises(ValueError, match=r"p\.jsonl:1: system and system_prompt differ"):
            read()


@pytest.mark.parametrize(
    ("beside", "words"),
    [
        ({"functions": [["x"]]}, "functions must be a list of JSON schemas"),
        ({"functions": [{"description": "x"}]}, "functions must be a list of functions with a name"),
        ({"functions": "no JSON"}, "functions is a text that is no JSON"),
        (
            {"functions": [{"name": "f"}], "tools": [{"type": "function", "function": {"name": "g"}}]},
            "tools and functions differ; keep one",
        ),
    ],
)
def test_functions_that_no_template_would_see_are_refused(tmp_path, tokenizer, beside, words):
    with pytest.raises(ValueError, match=rf"p\.jsonl:1: {words}"):
        load_pairs(json_lines(tmp_path / "p.jsonl", [{"messages": [USER, SAID], **beside}]), tokenizer)


@pytest.mark.parametrize("name", ["tools", "functions", "chat_template_kwargs"])
@pytest.mark.parametrize("question", [{"prompt": "q"}, {"question": "q"}, {"messages": [USER, SAID]}])
def test_what_a_prompt_cannot_be_asked_with_is_refused(tmp_path, name, question):
    """Variables of the template and functions were dropped without a word."""
    value = {"enable_thinking": False} if name == "chat_template_kwargs" else [{"name": "f"}]
    with pytest.raises(ValueError, match=rf"p\.jsonl:1: the row has {name}, which cannot be asked"):
        read_prompts(json_lines(tmp_path / "p.jsonl", [{**question, name: value}]))
    for empty in (None, [], "", {}):
        read_prompts(json_lines(tmp_path / "p.jsonl", [{**question, name: empty}]))


def test_messages_beside_a_prompt_are_not_what_is_asked(tmp_path, capsys):
    """UltraChat has both; the shape that is said is the one that is read."""
    path = json_lines(tmp_path / "p.jsonl", [{"prompt": "q", "messages": [USER, SAID]}])
    assert read_asked(path) == ["q"]
    assert "Left out, because pairs have their own: messages." in capsys.readouterr().out


def test_columns_beside_prompts_go_along_or_are_said_to_be_left_out(tmp_path, capsys):
    row = {
        "id": 7,
        "question": "q",
        "context": "the mat",
        "source": "web",
        "answer": "4",
        "completion": "old",
        "teacher": "x",
    }
    path = json_lines(tmp_path / "p.jsonl", [row])
    (found,) = read_asked(path)
    assert found == {"prompt": "q", "context": "the mat", "source": "web", "answer": "4", "prompt_id": "7"}
    said = capsys.readouterr().out
    assert "question. Carried along into the pairs: id (as prompt_id), context, source, answer." in said
    assert "Left out, because pairs have their own: completion, teacher." in said
    assert said.count("\n") == 1
    assert read_prompts(path) == ["q"]
    assert "Left out of prompts alone: id, context, source, answer, completion, teacher." in capsys.readouterr().out
    json_lines(path, [{"prompt": "q"}])
    assert read_asked(path) == ["q"]
    assert capsys.readouterr().out == ""


def test_nulls_of_arrow_are_no_arguments_of_a_call_in_a_prompt(tmp_path):
    """A table of structs has every key in every row; JSON in a table is as it was written."""

    def talk(arguments):
        call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
        return [
            USER,
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "3"},
            USER,
        ]

    rows = [{"messages": talk({"a": 1}), "own": {"x": None}}, {"messages": talk({"b": "x"}), "own": {"x": 1}}]
    structs = datasets.Dataset.from_list(rows)
    structs.to_parquet(str(tmp_path / "structs.parquet"))
    found = read_prompts(tmp_path / "structs.parquet")
    assert [turns[1]["tool_calls"][0]["function"]["arguments"] for turns in found] == [{"a": 1}, {"b": "x"}]
    features = datasets.Features({"messages": datasets.List(datasets.Json())})
    as_json = datasets.Dataset.from_list([{"messages": talk({"a": None})}], features=features)
    as_json.to_parquet(str(tmp_path / "json.parquet"))
    (turns,) = read_prompts(tmp_path / "json.parquet")
    assert turns[1]["tool_calls"][0]["function"]["arguments"] == {"a": None}


def test_a_table_with_columns_that_nobody_filled_is_of_the_shape_that_is_filled(tmp_path, tokenizer):
    """One schema for all: ids, messages and answers that are null in every row."""
    row = {**PAIR, "prompt_ids": None, "completion_ids": None, "messages": None, "question": None, "answer": None}
    path = json_lines(tmp_path / "p.jsonl", [row])
    assert load_pairs(path, tokenizer)["prompt"][0] == [USER]
    assert read_prompts(path) == ["what is a cat"]


FORMS = {
    "list": list,
    "dataset": datasets.Dataset.from_list,
    "stream": lambda rows: datasets.Dataset.from_list(rows).to_iterable_dataset(),
    "generator": lambda rows: datasets.IterableDataset.from_generator(lambda: iter(rows)),
}
IDS = ("prompt_ids", "completion_ids")


def ids(rows):
    return [[list(row[name]) for name in IDS] for row in rows]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("turns", ["last", "each"])
def test_messages_beside_prompt_and_completion_are_carried_into_a_training_and_said(tokenizer, capsys, form, turns):
    """A trainer's data set lost them without a word, where `load_pairs` of the same rows kept them."""
    rows = [{**PAIR, "messages": SHAPES["messages"], "source": "web"}] * 2
    made = list(tokenised(FORMS[form](rows), tokenizer, turns=turns, name="train_dataset"))
    assert "train_dataset: prompt/completion. Carried along: messages." in capsys.readouterr().out
    assert [row["messages"] for row in made] == [SHAPES["messages"]] * 2
    assert {row["source"] for row in made} == {"web"}
    assert ids(made) == ids(tokenised([PAIR] * 2, tokenizer))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("form", FORMS)
def test_a_prompt_beside_messages_is_said_to_be_left_out_of_a_training(tokenizer, capsys, form):
    rows = [{"prompt": "q", "messages": [USER, SAID]}] * 2
    made = tokenised(FORMS[form](rows), tokenizer, name="eval_dataset")
    assert ids(made) == ids(tokenised([{"messages": [USER, SAID]}] * 2, tokenizer))
    assert "eval_dataset: messages. Left out, because pairs have their own: prompt." in capsys.readouterr().out


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [PAIR, {"messages": [USER, SAID]}])
def test_a_training_is_shown_a_system_text_under_either_name_as_a_file_is(tmp_path, tokenizer, form, shape):
    wanted = ids(load_pairs(json_lines(tmp_path / "p.jsonl", [{**shape, "system": "be short"}]), tokenizer))
    assert wanted != ids(tokenised([shape], tokenizer))
    for name in ("system", "system_prompt"):
        assert ids(tokenised(FORMS[form]([{**shape, name: "be short"}]), tokenizer)) == wanted
    with pytest.raises(ValueError, match="row 0: system and system_prompt differ"):
        list(tokenised(FORMS[form]([{**shape, "system": "be short", "system_prompt": "be long"}]), tokenizer))


@pytest.mark.parametrize("form", FORMS)
def test_a_column_that_is_null_in_a_row_says_nothing_there(tokenizer, form):
    """Rows of a table that has both forms, as a list, too."""
    both = [{**PAIR, "messages": None, "system": None}, {"prompt": None, "completion": None, "messages": [USER, SAID]}]
    rows = [{"system": None, **row} for row in both]
    assert ids(tokenised(FORMS[form](rows), tokenizer)) == ids(tokenised([PAIR, {"messages": [USER, SAID]}], tokenizer))
    rows[1]["prompt"] = "q"  # the answer is missing, and the messages are no answer to it
    with pytest.raises(ValueError, match="row 1: completion is null beside a prompt and messages"):
        list(tokenised(FORMS[form](rows), tokenizer))


@pytest.mark.parametrize("form", FORMS)
def test_pairs_whose_teachers_prompt_alone_becomes_tokens_keep_all_their_columns(form, capsys):
    """Their prompt and completion were taken away with it, and whatever else has a name that says something in a row of text."""
    tokenizer = build_tokenizer(TEMPLATE)
    (pair,) = tokenised([{"messages": [USER, SAID]}], tokenizer)
    row = {**pair, "teacher_prompt": [USER], "functions": "none", "messages": SHAPES["messages"], "source": "web"}
    (made,) = tokenised(FORMS[form]([row]), tokenizer, teacher_rows=True)
    assert capsys.readouterr().out == ""
    assert made["teacher_prompt_ids"] == pair["prompt_ids"]
    for name, value in row.items():
        assert made[name] == value, name


def test_an_own_column_of_pairs_with_ids_is_no_turn_in_another_tokenizer(tokenizer, capsys):
    """`system` there may be an operating system; what was asked is the prompt."""
    pair = {**PAIR, "prompt": [USER], "prompt_ids": [5, 6], "completion_ids": [7, 2], "finish_reason": "stop"}
    own = {"system": "linux", "functions": "none", "messages": SHAPES["messages"], "source": "web"}
    plain, beside = (retokenize(pairs_from_rows(complete(row), "here"), tokenizer) for row in (pair, {**pair, **own}))
    assert ids(plain) == ids(beside) != ids([pair])
    assert plain["prompt"][:] == beside["prompt"][:]
    assert {name: beside[name][0] for name in own} == own
    assert "Carried along, and not shown to the chat template: system, functions, messages." in capsys.readouterr().out


def complete(row):
    return [complete_row(row, "here")]


BEFORE = [["what is a dog", "a cat"], ["why", "so it is"]]
ALPACA = {"instruction": "what is a cat", "input": "", "output": "the dog"}


@pytest.mark.parametrize("history", [BEFORE, '[["what is a dog", "a cat"], ["why", "so it is"]]'])
def test_a_history_before_an_instruction_is_asked(tmp_path, tokenizer, capsys, history):
    """LLaMA-Factory's; it was carried along, and the question was asked without what it is about."""
    before = [
        {"role": role, "content": said}
        for pair in BEFORE
        for role, said in zip(("user", "assistant"), pair, strict=True)
    ]
    rows = [
        {**ALPACA, "history": history, "source": "web"},
        {**ALPACA, "history": [], "source": "web"},
        {**ALPACA, "history": None},
    ]
    path = json_lines(tmp_path / "p.jsonl", rows)
    pairs = load_pairs(path, tokenizer)
    assert pairs["prompt"][:] == [[*before, USER], [USER], [USER]]
    assert pairs["completion"][:] == ["the dog"] * 3
    assert "history" not in pairs.column_names
    said = capsys.readouterr().out
    assert "history/instruction/input/output (Alpaca). Carried along: source." in said
    assert read_prompts(path) == [[*before, USER], "what is a cat", "what is a cat"]
    assert "Left out of prompts alone: output, source." in capsys.readouterr().out
    assert len(load_pairs(path, tokenizer, turns="each")) == 5, "as other tools train on it"
    assert [row["prompt_ids"] for row in tokenised(rows, tokenizer)] == pairs["prompt_ids"][:]


@pytest.mark.parametrize("bad", [["a"], [["a"]], [["a", 3]], '[["a"]]'])
def test_a_history_of_another_form_is_refused(tmp_path, tokenizer, bad):
    path = json_lines(tmp_path / "p.jsonl", [{**ALPACA, "history": bad}])
    for read in (lambda: load_pairs(path, tokenizer), lambda: read_prompts(path)):
        with pytest.raises(
            ValueError, match=r"p\.jsonl:1: history must be a list of question and answer.*--columns own"
        ):
            read()
    assert load_pairs(path, tokenizer, columns="own_history=history")["prompt"][0] == [USER], "as the message says"


@pytest.mark.parametrize("own", ["of Rome", {"a": "b"}, 3])
def test_a_history_that_is_no_list_is_a_column_of_ones_own(tmp_path, tokenizer, capsys, own):
    """A text column of that name ended the run."""
    path = json_lines(tmp_path / "p.jsonl", [{**ALPACA, "history": own}] * 2)
    pairs = load_pairs(path, tokenizer)
    assert (pairs["prompt"][0], pairs["history"][0]) == ([USER], own)
    assert "instruction/input/output (Alpaca). Carried along: history. Not asked: history;" in capsys.readouterr().out
    assert read_prompts(path) == ["what is a cat"] * 2


TURNS = [
    {"role": role, "content": said} for pair in BEFORE for role, said in zip(("user", "assistant"), pair, strict=True)
]
AS_SHAREGPT = [{"from": {"user": "human", "assistant": "gpt"}[t["role"]], "value": t["content"]} for t in TURNS]
ANSWERED = [
    ("instruction", "output"), ("query", "response"), ("prompt", "response"), ("question", "answer"), ("problem", "solution"),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
@pytest.mark.parametrize("history", [BEFORE, TURNS, AS_SHAREGPT], ids=["pairs", "turns", "sharegpt"])
@pytest.mark.parametrize(("asked", "answered"), ANSWERED)
def test_a_history_of_any_form_is_asked_before_any_question(
    tmp_path, tokenizer, capsys, asked, answered, history, kind
):
    """Only LLaMA-Factory's pairs before an instruction were; turns ended the run, and ms-swift's (query/response/history) were left away."""
    rows = [{asked: "what is a cat", answered: "the dog", "history": one} for one in (history, [])]
    path = tmp_path / f"p.{kind}"
    if kind == "jsonl":
        json_lines(path, rows)
    elif kind == "csv":
        datasets.Dataset.from_list([{**row, "history": json.dumps(row["history"])} for row in rows]).to_csv(str(path))
    else:
        datasets.Dataset.from_list(rows).to_parquet(str(path))
    pairs = load_pairs(path, tokenizer)
    assert pairs["prompt"][:] == [[*TURNS, USER], [USER]]
    assert pairs["completion"][:] == ["the dog"] * 2
    assert read_prompts(path) == [[*TURNS, USER], "what is a cat"]
    said = capsys.readouterr().out
    assert said.count(f"history/{asked}") == 2
    assert "Not asked" not in said
    for given in (rows, datasets.Dataset.from_list(rows), datasets.IterableDataset.from_generator(lambda: iter(rows))):
        assert [row["prompt_ids"] for row in tokenised(given, tokenizer)] == pairs["prompt_ids"][:]


@pytest.mark.parametrize("first", ["null", "empty", "missing"])
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
@pytest.mark.parametrize(("asked", "answered"), ANSWERED[:2])
def test_a_history_may_begin_behind_the_rows_that_decide(tmp_path, tokenizer, capsys, asked, answered, kind, first):
    """Behind a hundred rows with null all of a file was read without what came before, and nothing said so."""
    none = {"null": {"history": None}, "empty": {"history": []}, "missing": {}}[first]
    pair = {asked: "what is a cat", answered: "the dog"}
    rows = [{**pair, **none}] * 100 + [{**pair, "history": BEFORE}]
    path = tmp_path / f"p.{kind}"
    if kind == "jsonl":
        json_lines(path, rows)
    elif kind == "csv":
        table = [{**pair, "history": json.dumps(row["history"]) if row.get("history") else ""} for row in rows]
        datasets.Dataset.from_list(table).to_csv(str(path))
    else:
        datasets.Dataset.from_list(rows[::-1]).select(range(100, -1, -1)).to_parquet(str(path))
    pairs = load_pairs(path, tokenizer)
    assert (pairs["prompt"][0], pairs["prompt"][100]) == ([USER], [*TURNS, USER])
    assert "history" not in pairs.column_names
    assert read_prompts(path)[99:] == ["what is a cat", [*TURNS, USER]]
    said = capsys.readouterr().out
    assert said.count(f" history/{asked}") == (0 if first == "missing" and kind == "jsonl" else 2)
    given = [rows, datasets.IterableDataset.from_generator(lambda: iter(rows))]
    if first != "missing":
        given.append(datasets.Dataset.from_list(rows))
    for one in given:
        assert [row["prompt_ids"] for row in tokenised(one, tokenizer)] == pairs["prompt_ids"][:]


@pytest.mark.parametrize("own", ["of Rome", {"a": "b"}, 3, 0, False])
def test_turns_behind_a_history_of_ones_own_are_not_lost(tmp_path, tokenizer, own):
    """They would not be asked; a column of zeros was left away."""
    rows = [{**ALPACA, "history": own}] * 100
    path = json_lines(tmp_path / "p.jsonl", rows)
    assert load_pairs(path, tokenizer)["history"][0] == own
    json_lines(path, [*rows, {**ALPACA, "history": BEFORE}])
    for read in (lambda: load_pairs(path, tokenizer), lambda: read_prompts(path)):
        with pytest.raises(
            ValueError, match=r"p\.jsonl:101: history is .*, which would not be asked.*--columns own_hist"
        ):
            read()
    assert len(read_prompts(path, columns="own_history=history")) == 101


def test_a_history_before_messages_is_a_column_of_ones_own(tmp_path, tokenizer, capsys):
    path = json_lines(tmp_path / "p.jsonl", [{"query": [USER], "response": "the dog", "history": BEFORE}])
    assert load_pairs(path, tokenizer)["prompt"][0] == [USER]
    assert "Not asked: history" in capsys.readouterr().out
    json_lines(path, [{"query": "why", "response": "so", "history": BEFORE}, json.loads(path.read_text())])
    with pytest.raises(
        ValueError, match=r"p\.jsonl:2: query is .* and a history stands before a text.*--columns own_hist"
    ):
        load_pairs(path, tokenizer)


def test_a_prompt_beside_its_completion_is_whole(tmp_path, tokenizer, capsys):
    """Whoever reads it, a history beside it is not asked, and that is said."""
    rows = [{"prompt": "why", "completion": "so", "history": BEFORE}]
    path = json_lines(tmp_path / "p.jsonl", rows)
    for read in (
        lambda: load_pairs(path, tokenizer),
        lambda: read_prompts(path),
        lambda: tokenised(rows, tokenizer),
        lambda: tokenised(datasets.Dataset.from_list(rows), tokenizer),
    ):
        read()
        assert "Not asked: history" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["context", "passage", "history"])
def test_that_a_passage_beside_a_question_is_not_asked_is_said(tmp_path, tokenizer, capsys, name):
    """SQuAD's question without its context is not the question."""
    rows = [{"question": "what is a cat", "answer": "the dog", name: "the mat"}]
    path = json_lines(tmp_path / "p.jsonl", rows)
    for read in (lambda: load_pairs(path, tokenizer), lambda: read_prompts(path), lambda: tokenised(rows, tokenizer)):
        read()
        assert f" Not asked: {name}; a question that needs it is another one without it" in capsys.readouterr().out
    json_lines(path, [{**rows[0], name: None}])
    load_pairs(path, tokenizer)
    assert "Not asked" not in capsys.readouterr().out
