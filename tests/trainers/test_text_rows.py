"""Data sets of text in a trainer's hands: the same tokens as the file's pairs, once, in whatever form they come."""

import contextlib
import datetime
import json

import datasets
import pytest
from conftest import build_model, build_tokenizer
from tool_chats import ASK, CALL, LONGER, SAY, TALK, WEATHER, chat_tokenizer
from transformers import TrainerCallback

from distill import BlackBoxTrainer, load_pairs
from distill.pairs import tokenising
from distill.pairs.collate import PairCollator
from distill.pairs.tokenising import tokenised
from distill.text import dates
from distill.trainers import text_rows
from distill.trainers.checkpoints import read_record

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


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 2


@pytest.fixture
def today(monkeypatch):
    """`today(2031, 1, 31)`: a process that begins on that day."""

    def begin(*day):
        monkeypatch.setattr(dates, "_fixed", [])
        monkeypatch.setattr(dates, "_today", lambda: datetime.date(*day))

    return begin


DATED = "{{ strftime_now('%Y-%m-%d') }}" + str(build_tokenizer().chat_template)


def dated_trainer(arguments, folder, **more):
    settings = arguments(output_dir=str(folder), max_steps=4, save_strategy="steps", save_steps=2)
    return BlackBoxTrainer(
        model=build_model(), args=settings, train_dataset=datasets.Dataset.from_list(TEXT),
        eval_dataset=datasets.Dataset.from_list(TEXT[:2]), processing_class=build_tokenizer(DATED), **more,
    )  # fmt: skip


def days_of(trainer):
    written = [
        build_tokenizer().decode(rows[0]["prompt_ids"])[:10] for rows in (trainer.train_dataset, trainer.eval_dataset)
    ]
    return [*written, trainer.identity()["template_day"]]


def test_a_resumed_training_on_text_writes_the_day_on_which_it_began(arguments, tmp_path, today):
    today(2031, 1, 31)
    first = dated_trainer(arguments, tmp_path / "run", callbacks=[Stop()])
    first.train()
    today(2031, 2, 1)
    again = dated_trainer(arguments, tmp_path / "run")
    assert days_of(again) == ["2031-01-31"] * 3
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4
    elsewhere = dated_trainer(arguments, tmp_path / "other")
    assert days_of(elsewhere) == ["2031-02-01"] * 3
    elsewhere.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert elsewhere.state.global_step == 4
    assert days_of(elsewhere) == ["2031-01-31"] * 3


def test_a_training_that_begins_anew_in_an_old_folder_writes_its_own_day(arguments, tmp_path, today):
    today(2031, 1, 31)
    dated_trainer(arguments, tmp_path / "run", callbacks=[Stop()]).train()
    today(2031, 2, 1)
    anew = dated_trainer(arguments, tmp_path / "run", callbacks=[Stop()])
    anew.train()
    assert days_of(anew) == ["2031-02-01"] * 3
    assert read_record(tmp_path / "run" / "checkpoint-2")["settings"]["template_day"] == "2031-02-01"
    put = dated_trainer(arguments, tmp_path / "run", callbacks=[Stop()])
    put.train_dataset = mine = tokenised(TEXT[:4], put.processing_class)
    today(2031, 2, 2)
    put.train()
    assert put.train_dataset is mine, "rows that somebody put there are let be"


def test_the_first_process_decides_the_day_for_all(monkeypatch, today):
    """At midnight, one process of two has the next day already."""
    told = []
    monkeypatch.setattr(
        text_rows, "broadcast_object_list", lambda values: told.append(values[:]) or values.__setitem__(0, "2031-01-31")
    )
    today(2031, 2, 1)

    class Two:
        output_dir, resume_from_checkpoint, world_size = "nowhere", None, 2

        def main_process_first(self, desc):
            assert told, "decided before the first process begins, which may take till the next day"
            return contextlib.nullcontext()

    made = text_rows.TextRows(TEXT, None, build_tokenizer(DATED), "last", Two())
    assert told == [["2031-02-01"]]
    assert made.day == {"template_day": "2031-01-31"}
    assert build_tokenizer().decode(made.train[0]["prompt_ids"]).startswith("2031-01-31")


@pytest.mark.parametrize("form", FORMS)
def test_an_own_collator_gets_the_rows_as_they_are(form, arguments, tmp_path):
    seen, tokenizer = [], build_tokenizer()
    pairs = pairs_of(TEXT, tokenizer, tmp_path)

    def collate(rows):
        seen.extend(row["completion"] for row in rows)
        return PairCollator(tokenizer)(
            [pairs[TEXT.index({k: row[k] for k in ("prompt", "completion")})] for row in rows]
        )

    trainer = BlackBoxTrainer(
        model=build_model(),
        args=arguments(max_steps=2),
        data_collator=collate,
        train_dataset=rows_as(form, TEXT, tmp_path),
    )
    trainer.train()
    assert seen
    assert set(seen) <= {row["completion"] for row in TEXT}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("turns", ["all", "each"])
def test_a_black_box_reads_no_teachers_prompt_beside_several_turns(form, turns, tmp_path):
    """It learns what it learns without; where a teacher is asked behind it, it is refused, and the way out is said."""
    talk = [{"role": role, "content": "the cat"} for role in ("user", "assistant") * 2]
    rows = [{"messages": talk, "teacher_prompt": "the mat"}, {"messages": talk[:2], "teacher_prompt": None}]
    bare = [{"messages": row["messages"]} for row in rows]
    tokenizer = build_tokenizer()
    learned = [list(tokenised(rows_as(form, given, tmp_path), tokenizer, turns=turns)) for given in (rows, bare)]
    names = ("prompt_ids", "completion_ids", "loss_mask")
    one, other = ([[row.get(name) for name in names] for row in found] for found in learned)
    assert one == other
    assert len(one) == (2 if turns == "all" else 3)
    with pytest.raises(
        ValueError, match="row 0: a teacher_prompt beside several turns .* take the column teacher_prompt away"
    ):
        list(tokenised(rows_as(form, rows, tmp_path), tokenizer, turns=turns, teacher_rows=True))
