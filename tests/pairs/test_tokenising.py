"""Rows of text on their way to tokens, in whatever form they come: what each says is honoured, carried or refused, alike in all."""

import datasets
import pytest
from conftest import TEMPLATE, build_tokenizer, json_lines
from tokenizers.processors import TemplateProcessing
from tool_chats import ASK, CALL, SAY, chat_tokenizer

from distill.pairs import kept_key, load_pairs
from distill.pairs.tokenising import tokenised
from distill.pairs.tokenizer_state import tokenizer_state
from distill.text import dates
from distill.text.rows import encode_rows

FORMS = {
    "list": list,
    "dataset": datasets.Dataset.from_list,
    "stream": lambda rows: datasets.Dataset.from_list(rows).to_iterable_dataset(),
    "generator": lambda rows: datasets.IterableDataset.from_generator(lambda: iter(rows)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("said", ["eos", "STOP", "end_turn", "FinishReason.STOP", "", None])
def test_a_turn_that_ended_under_any_known_name_has_its_end(form, said):
    tokenizer = build_tokenizer(TEMPLATE)
    rows = [{"messages": [ASK, SAY], "finish_reason": said}, {"prompt": "a", "completion": "b", "finish_reason": said}]
    for row in rows:
        (made,) = tokenised(FORMS[form]([row]), tokenizer)
        assert tokenizer.decode(made["completion_ids"]).endswith("<|im_end|>")
    (cut,) = tokenised(FORMS[form]([{**rows[0], "finish_reason": "MAX_TOKENS"}]), tokenizer)
    assert not tokenizer.decode(cut["completion_ids"]).endswith("<|im_end|>")
    assert cut["finish_reason"] == "length"


@pytest.mark.parametrize("form", FORMS)
def test_an_end_for_the_sake_of_calls_is_one_where_there_are_calls(form):
    tokenizer = chat_tokenizer("qwen3")
    (made,) = tokenised(FORMS[form]([{"messages": [ASK, CALL], "finish_reason": "tool_calls"}]), tokenizer)
    assert tokenizer.decode(made["completion_ids"]).endswith("</tool_call><|im_end|>")
    for row, told in (
        (
            {"messages": [ASK, SAY], "finish_reason": "tool_calls"},
            "finish_reason is 'tool_calls', but the turn has no calls",
        ),
        ({"prompt": "a", "completion": "b", "finish_reason": "done"}, "finish_reason is 'done', which is not known"),
        ({"prompt": "a", "completion": "b", "finish_reason": "content_filter"}, "its text is not whole"),
    ):
        with pytest.raises(ValueError, match=f"row 0: .*{told}"):
            list(tokenised(FORMS[form]([row]), tokenizer))


@pytest.mark.parametrize("form", FORMS)
def test_a_rows_own_ids_and_mask_are_kept_and_a_mask_beside_text_is_refused(form):
    tokenizer = build_tokenizer(TEMPLATE)
    text = {"prompt": "a", "completion": "b", "prompt_ids": None, "completion_ids": None, "loss_mask": None}
    pair = {"prompt": "a", "completion": "b", "prompt_ids": [5, 6], "completion_ids": [7, 8], "loss_mask": [0, 1]}
    if form != "stream":  # a typed stream with ids is one of pairs
        bare = (
            text if form == "dataset" else {k: v for k, v in text.items() if v}
        )  # from_list takes the first row's keys
        first, second = tokenised(FORMS[form]([bare, pair]), tokenizer)
        assert first["completion_ids"] == tokenizer("b<|im_end|>")["input_ids"]
        assert [second[name] for name in ("prompt_ids", "completion_ids", "loss_mask")] == [[5, 6], [7, 8], [0, 1]]
        half = {**pair, "prompt_ids": None}
        with pytest.raises(ValueError, match="both of prompt_ids and completion_ids"):
            list(tokenised(FORMS[form]([bare, half]), tokenizer))
    with pytest.raises(ValueError, match="row 0: a loss_mask beside text"):
        list(tokenised(FORMS[form]([{"prompt": "a", "completion": "b", "loss_mask": [0, 1]}]), tokenizer))


def test_nulls_of_arrow_are_no_arguments_in_a_stream_that_forgot_its_types():
    tokenizer = chat_tokenizer("qwen3")
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": "1"}}}]}
    other = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "g", "arguments": {"y": "2"}}}]}
    rows = [{"messages": [ASK, call]}, {"messages": [ASK, other]}]
    wanted = [pairs[0]["completion_ids"] for pairs in encode_rows(rows, tokenizer)]
    typed = datasets.Dataset.from_list(rows).to_iterable_dataset()
    for stream in (typed.map(lambda row: row), typed.map(lambda row: {"n": 1}).shuffle(1, buffer_size=1)):
        assert stream.features is None
        assert [row["completion_ids"] for row in tokenised(stream, tokenizer)] == wanted
    talks = typed.rename_column("messages", "talk").map(lambda row: {"messages": row["talk"]}, remove_columns="talk")
    assert [row["completion_ids"] for row in tokenised(talks, tokenizer)] == wanted
    written = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "f", "arguments": {"x": None}}}],
    }
    (made,) = tokenised(
        datasets.IterableDataset.from_generator(lambda: iter([{"messages": [ASK, written]}])), tokenizer
    )
    assert "null" in tokenizer.decode(made["completion_ids"]), "a null that somebody wrote stays"


@pytest.mark.parametrize("kind", ["numpy", "torch", "arrow", "pandas"])
def test_a_format_of_the_data_set_does_not_reach_the_messages(kind):
    tokenizer = build_tokenizer(TEMPLATE)
    plain = datasets.Dataset.from_list([{"messages": [ASK, SAY]}] * 2)
    wanted = tokenised(plain, tokenizer)[0]["completion_ids"]
    for given in (plain.with_format(kind), plain.to_iterable_dataset().with_format(kind)):
        made = tokenised(given, tokenizer)
        assert [list(row["completion_ids"]) for row in made.with_format(None)] == [wanted] * 2
    assert tokenised(plain.with_format(kind), tokenizer).format["type"] == kind


def test_all_that_decides_the_tokens_is_in_the_key(monkeypatch):
    def changed(change):
        tokenizer = build_tokenizer(TEMPLATE)
        change(tokenizer)
        return tokenizer_state(tokenizer)

    def post(tokenizer):
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<|im_start|> $A", None, [("<|im_start|>", 1)])

    plain = changed(lambda t: None)
    assert changed(lambda t: t(["a", "a b"], padding=True, truncation=True, max_length=1)) == plain
    changes = {
        "control tokens": lambda t: setattr(t, "chat_control_tokens", ["<think>"]),
        "special tokens": lambda t: setattr(t, "eos_token", "<|im_start|>"),
        "template": lambda t: setattr(t, "chat_template", TEMPLATE + " "),
        "added token": lambda t: t.add_tokens(["<x>"]),
        "around a text": post,
    }
    states = {name: changed(change) for name, change in changes.items()}
    dated = lambda t: setattr(t, "chat_template", "{{ strftime_now('%d') }}" + TEMPLATE)  # noqa: E731
    for day in ("2031-01-31", "2031-02-01"):
        with dates.on_day(day):
            states[day] = changed(dated)
    assert len({plain, *states.values()}) == len(states) + 1


@pytest.mark.parametrize("form", ["text", "question", "ids"])
def test_what_other_code_made_of_a_data_set_is_not_found_again(tmp_path, monkeypatch, form):
    """Tokens of older code were taken up, with its columns; and so were rows of before marks were read."""
    beside = {"weight": [1, 0]}
    made = {
        "text": {"prompt": ["a", "b"], "completion": ["a", "b"]},
        "question": {"question": ["a", "b"], "answer": ["a", "b"], "history": [None, None]},
        "ids": {"prompt_ids": [[1], [2]], "completion_ids": [[3], [4]]},
    }[form]
    datasets.Dataset.from_dict(made | beside).save_to_disk(tmp_path / "rows")

    def kept():
        kept_key.program.cache_clear()
        found = tokenised(datasets.load_from_disk(tmp_path / "rows"), build_tokenizer(TEMPLATE))
        assert len(found) == 1
        return [file["filename"] for file in found.cache_files]

    first = kept()
    assert kept() == first, "found again"
    with monkeypatch.context() as patch:
        patch.setattr(kept_key, "version", lambda name: "another")
        assert not {*kept()[form == "ids" :]} & {*first}
    kept_key.program.cache_clear()


def test_a_slow_tokenizers_key_holds_more_than_its_words():
    """One in Python has no backend to write down; words alone say nothing of merges."""

    class Slow:
        chat_template, chat_control_tokens, special_tokens_map, added_tokens_decoder = None, None, {}, {}
        merges, before = "a b", []

        def __init__(self, **settings):
            self.init_kwargs = {"name_or_path": "somewhere", **settings}

        def __len__(self):
            return 2

        def __call__(self, text, **settings):
            return {"input_ids": [*self.before, 0]}

        def get_vocab(self):
            return {"a": 0, "b": 1}

        def save_vocabulary(self, folder):
            with open(f"{folder}/merges.txt", "w") as file:
                file.write(self.merges)

    plain, merged, begun, other = Slow(), Slow(), Slow(), Slow(add_prefix_space=True)
    merged.merges, begun.before = "b a", [1]
    assert tokenizer_state(plain) == tokenizer_state(Slow(vocab_file="/elsewhere"))
    assert len({tokenizer_state(one) for one in (plain, merged, begun, other)}) == 4


TURNS = [
    {"from": "system", "value": "be short"},
    {"from": "human", "value": "what is a cat"},
    {"from": "gpt", "value": "the dog"},
]
CALLED = [
    {"from": "human", "value": "what is a cat"},
    {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Rome"}}'},
    {"from": "observation", "value": "3"},
    {"from": "gpt", "value": "the dog", "weight": 1},
]
SHAPED = {
    "conversations (ShareGPT)": [{"conversations": TURNS, "source": "web"}, {"conversations": TURNS[1:], "source": "x"}],
    "conversations with a mark": [{"conversations": [*TURNS[1:2], {**TURNS[2], "weight": 0}, *TURNS[1:]], "source": "x"}, {"conversations": TURNS, "source": "y"}],
    "instruction/input/output (Alpaca)": [{"instruction": "say it", "input": "the cat", "output": "sat", "source": "web"}] * 2,
    "question/answer": [{"question": "what is a cat", "answer": "the dog", "system_prompt": "be short", "source": "web"}] * 2,
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("turns", ["last", "each"])
@pytest.mark.parametrize("shape", SHAPED)
def test_rows_in_other_shapes_are_recognised_as_those_of_a_file(tmp_path, capsys, form, turns, shape):
    """A data set of ShareGPT at hand was refused, with a function that reads files."""
    tokenizer, rows = build_tokenizer(TEMPLATE), SHAPED[shape]
    wanted = load_pairs(json_lines(tmp_path / "p.jsonl", rows), tokenizer, turns=turns)
    capsys.readouterr()
    made = list(tokenised(FORMS[form](rows), tokenizer, turns=turns, name="train_dataset"))
    assert f"train_dataset: {shape.replace(' with a mark', ' (ShareGPT)')}." in capsys.readouterr().out
    for name in ("prompt_ids", "completion_ids"):
        assert [list(row[name]) for row in made] == wanted[name][:]
    assert {row["source"] for row in made} <= {"web", "x", "y"}
    assert not {"conversations", "instruction", "question", "answer", "messages"} & set(made[0])


@pytest.mark.parametrize("form", FORMS)
def test_calls_in_another_shape_reach_the_template(tmp_path, form):
    tokenizer, rows = chat_tokenizer("llama3_1"), [{"conversations": CALLED}]
    wanted = load_pairs(json_lines(tmp_path / "p.jsonl", rows), tokenizer, turns="all")
    (made,) = tokenised(FORMS[form](rows), tokenizer, turns="all")
    assert list(made["completion_ids"]) == wanted["completion_ids"][0]
    assert list(made["loss_mask"]) == wanted["loss_mask"][0]


@pytest.mark.parametrize("form", FORMS)
def test_a_bad_row_in_another_shape_is_named_by_its_number(form):
    rows = [{"conversations": TURNS}, {"conversations": [{"from": "narrator", "value": "q"}]}]
    with pytest.raises(ValueError, match="eval_dataset, row 1: a turn is from 'narrator'"):
        list(tokenised(FORMS[form](rows), build_tokenizer(TEMPLATE), name="eval_dataset"))


def test_rows_of_no_known_shape_are_as_they_were(capsys):
    rows = datasets.Dataset.from_list([{"chosen": "a", "rejected": "b"}])
    assert tokenised(rows, build_tokenizer(TEMPLATE)) is rows
    assert capsys.readouterr().out == ""
