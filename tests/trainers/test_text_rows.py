"""Data sets of text in a trainer's hands: the same tokens as the file's pairs, once, in whatever form they come."""

import json

import datasets
import pytest
from conftest import build_model, build_tokenizer
from tool_chats import ASK, CALL, LONGER, SAY, TALK, WEATHER, chat_tokenizer

from distill import BlackBoxTrainer, load_pairs
from distill.pairs import tokenising
from distill.pairs.tokenising import tokenised
from distill.text import dates

TEXT = [{"prompt": f"the cat {i}", "completion": "the dog ran " * (i % 4 + 1)} for i in range(10)]
CHATS = [{"messages": TALK, "tools": [WEATHER]}, {"messages": [ASK, SAY], "tools": None}]
FORMS = ["from_list", "json", "stream", "list"]


def rows_as(form, rows, folder):
    if form == "list":
        return rows
    if form == "from_list":
        return datasets.Dataset.from_list(rows, on_mixed_types="use_json")
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return datasets.load_dataset(
        "json", data_files=str(path), split="train", streaming=form == "stream", cache_dir=str(folder / "cache")
    )


def pairs_of(rows, tokenizer, folder, **settings):
    path = folder / "file.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return load_pairs(path, tokenizer, **settings)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rows", "turns"), [(TEXT, "last"), (CHATS, "last"), (CHATS, "all"), (CHATS, "each")], ids=str)
def test_the_tokens_are_those_of_the_same_rows_in_a_file(form, rows, turns, tmp_path):
    tokenizer = chat_tokenizer("llama3_1")
    wanted = list(pairs_of(rows, tokenizer, tmp_path, turns=turns))
    found = list(tokenised(rows_as(form, rows, tmp_path), tokenizer, turns=turns))
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        for column in ("prompt_ids", "completion_ids", "loss_mask"):
            assert one.get(column) == other.get(column)


def with_object(turn):
    """The turn with its arguments as an object, not as text."""
    calls = [
        {**c, "function": {**c["function"], "arguments": json.loads(c["function"]["arguments"])}}
        for c in turn["tool_calls"]
    ]
    return {**turn, "tool_calls": calls}


def test_arrows_nulls_in_calls_and_tools_are_no_keys(tmp_path):
    """`from_list` makes structs: each call gets the arguments of all others, each tool the properties."""
    other = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}]}  # fmt: skip
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "number"}}}},
    }
    rows = [{"messages": [ASK, with_object(call)], "tools": [one]} for call, one in ((CALL, WEATHER), (other, tool))]
    tokenizer = chat_tokenizer("llama3_1")
    structs = datasets.Dataset.from_list(rows)
    assert structs[0]["messages"][1]["tool_calls"][0]["function"]["arguments"].keys() == {"city", "days", "x"}
    wanted = pairs_of(rows, tokenizer, tmp_path)
    found = tokenised(structs, tokenizer)
    assert found["completion_ids"][:] == wanted["completion_ids"][:]
    assert found["prompt_ids"][:] == wanted["prompt_ids"][:]


def test_other_columns_stay_and_rows_of_several_pairs_have_ids_of_their_own(tmp_path):
    tokenizer = chat_tokenizer("llama3_1")
    rows = [{"id": "a", "source": {"url": "x"}, "messages": LONGER, "weight": 0.5}, {"id": "b", "source": {"url": "y"}, "messages": [ASK, SAY], "weight": 1.0}]  # fmt: skip
    for form in FORMS:
        given = rows_as(form, rows, tmp_path)
        each = list(tokenised(given, tokenizer, turns="each"))
        assert [row["id"] for row in each] == ["a#0", "a#1", "a#2", "a#3", "b"]
        assert [row["source"]["url"] for row in each] == ["x"] * 4 + ["y"]
        assert [row["weight"] for row in tokenised(given, tokenizer)] == [0.5, 1.0]


def test_rows_are_tokenised_once(tmp_path, monkeypatch):
    """A second call, with a tokenizer that was loaded anew and has padded meanwhile, finds what the first one made."""
    calls = []
    encode_rows = tokenising.encode_rows
    monkeypatch.setattr(
        tokenising, "encode_rows", lambda rows, *a, **k: calls.append(len(rows)) or encode_rows(rows, *a, **k)
    )
    monkeypatch.setattr(tokenising, "ROWS_AT_ONCE", 4)
    given = rows_as("json", TEXT, tmp_path)
    first = tokenised(given, build_tokenizer())
    assert calls == [4, 4, 2]
    tokenizer = build_tokenizer()
    tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=2)
    again = datasets.load_dataset(
        "json", data_files=str(tmp_path / "rows.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert tokenised(again, tokenizer)[:] == first[:]
    assert calls == [4, 4, 2]
    for other in (build_tokenizer("{{ messages[0].content }}x"), chat_tokenizer("gemma")):
        assert tokenised(given, other)["prompt_ids"][:] != first["prompt_ids"][:], "another template, another tokenizer"
    assert len(calls) == 9


@pytest.mark.parametrize("form", FORMS)
def test_a_training_on_text_ends_with_the_weights_of_one_on_its_pairs(form, arguments, tmp_path):
    tokenizer = build_tokenizer()
    ends = []
    for train in (pairs_of(TEXT, tokenizer, tmp_path), rows_as(form, TEXT, tmp_path)):
        model = build_model()
        trainer = BlackBoxTrainer(
            model=model, args=arguments(max_steps=3, per_device_train_batch_size=2, train_sampling_strategy="sequential"),
            train_dataset=train, eval_dataset={"one": train, "two": train} if form != "stream" else None, processing_class=tokenizer,
        )  # fmt: skip
        trainer.train()
        ends.append((model.state_dict(), trainer.evaluate() if form != "stream" else {}))
    assert all(bool((a == b).all()) for a, b in zip(ends[0][0].values(), ends[1][0].values(), strict=True))
    losses = [{name: value for name, value in end[1].items() if name.endswith("_loss")} for end in ends]
    assert losses[0] == losses[1]


def test_bad_rows_are_named(arguments):
    tokenizer = build_tokenizer()
    bad = [*TEXT[:2], {"prompt": "the cat", "completion": ""}]
    for rows in (bad, datasets.Dataset.from_list(bad)):
        with pytest.raises(ValueError, match="train_dataset, row 2: the completion is empty"):
            BlackBoxTrainer(model=build_model(), args=arguments(), train_dataset=rows, processing_class=tokenizer)
    with pytest.raises(ValueError, match="eval_dataset, row 0: The chat template does not show name of message 0"):
        BlackBoxTrainer(
            model=build_model(), args=arguments(), train_dataset=TEXT, processing_class=tokenizer,
            eval_dataset=[{"messages": [{**ASK, "name": "Ada"}, SAY]}],
        )  # fmt: skip
    with pytest.raises(ValueError, match="has text and no token ids"):
        tokenised(TEXT, None)


def test_a_resumed_training_on_text_writes_the_day_on_which_it_began(arguments, tmp_path, monkeypatch):
    dated = "{{ strftime_now('%Y-%m-%d') }}" + str(build_tokenizer().chat_template)
    import datetime

    def trainer(**more):
        settings = arguments(output_dir=str(tmp_path / "run"), max_steps=4, save_strategy="steps", save_steps=2, **more)
        return BlackBoxTrainer(
            model=build_model(),
            args=settings,
            train_dataset=datasets.Dataset.from_list(TEXT),
            processing_class=build_tokenizer(dated),
        )

    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 2

    monkeypatch.setattr(dates, "_fixed", [])
    monkeypatch.setattr(dates, "_today", lambda: datetime.date(2031, 1, 31))
    first = trainer()
    first.add_callback(Stop())
    first.train()
    monkeypatch.setattr(dates, "_fixed", [])
    monkeypatch.setattr(dates, "_today", lambda: datetime.date(2031, 2, 1))
    again = trainer()
    assert "2031-01-31" in build_tokenizer().decode(again.train_dataset[0]["prompt_ids"])
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4
