"""Results of calls: each answers a call. Fields of calls: shown, or refused by name."""

import pytest
from tool_chats import ASK, CALL, RESULT, SAY, chat_tokenizer

from distill.text.encode import as_prompt
from distill.text.messages import read_messages
from distill.text.rows import encode_rows

IDS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.tool_call_id %} of {{ m.tool_call_id }}{% endif %}{{ '\\n' + m.content }}"
    "{% for c in m.tool_calls or [] %}[{{ c.id }} {{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{{ '\\n' }}{% endif %}"
)
TWO = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": i, "type": "function", "function": {"name": i, "arguments": {}}} for i in ("one", "two")],
}


def result(content, of=None):
    return {"role": "tool", "content": content} | ({"tool_call_id": of} if of else {})


def pair_of(messages, tokenizer):
    ((found,),) = [
        found if isinstance(found, list) else [found] for found in encode_rows([{"messages": messages}], tokenizer)
    ]
    if isinstance(found, ValueError):
        raise found
    return found


def test_results_stand_in_the_order_of_their_calls_where_the_template_goes_by_it():
    first, second = result("1", "one"), result("2", "two")
    tokenizer = chat_tokenizer("qwen3")
    wanted = pair_of([ASK, TWO, first, second, SAY], tokenizer)
    assert pair_of([ASK, TWO, second, first, SAY], tokenizer) == wanted
    assert pair_of([ASK, TWO, result("1"), result("2"), SAY], tokenizer)["prompt_ids"] == wanted["prompt_ids"]
    assert as_prompt([ASK, TWO, second, first], tokenizer) == wanted["prompt"]
    shows = chat_tokenizer("ids", IDS)
    there = pair_of([ASK, TWO, second, first, SAY], shows)
    assert there["prompt"][2:] == [second, first], "the template says which is which, so nothing is moved"
    assert shows.decode(there["prompt_ids"]).index("of two") < shows.decode(there["prompt_ids"]).index("of one")


@pytest.mark.parametrize(
    "results",
    [
        [result("2", "two")],
        [result("1", "one")],
        [result("1", "one"), result("1", "one")],
        [result("1", "one"), result("2")],
        [result("1")],
        [result("1", "one"), result("2", "two"), result("3", "two")],
    ],
    ids=str,
)
def test_results_that_do_not_answer_their_calls_are_refused(results):
    with pytest.raises(ValueError, match="has 2 calls .*the template does not show ids"):
        pair_of([ASK, TWO, *results, SAY], chat_tokenizer("qwen3"))


@pytest.mark.parametrize("template", ["qwen3", "ids"])
def test_a_result_of_no_call_is_refused_of_one_call_too(template):
    tokenizer = chat_tokenizer(template, IDS if template == "ids" else None)
    for talk in (
        [ASK, CALL, {**RESULT, "tool_call_id": "zzz"}, SAY],
        [ASK, TWO, result("1", "one"), result("2", "zzz"), SAY],
    ):
        with pytest.raises(
            ValueError, match=r"is the result of the call 'zzz' \(tool_call_id\), but the calls of message 1"
        ):
            pair_of(talk, tokenizer)
        with pytest.raises(ValueError, match="is the result of the call 'zzz'"):
            as_prompt(talk[:-1], tokenizer)


def test_results_of_the_older_function_call_are_those_of_a_tool():
    called = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    older = [ASK, called, {"role": "function", "name": "f", "content": "x"}, SAY]
    newer = [
        ASK,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}],
        },
        {"role": "tool", "name": "f", "content": "x"},
        SAY,
    ]
    for name in ("qwen3", "llama3_1", "qwen2_5", "gptoss"):
        tokenizer = chat_tokenizer(name)
        assert pair_of(older, tokenizer) == pair_of(newer, tokenizer)
        assert "x" in tokenizer.decode(pair_of(older, tokenizer)["prompt_ids"])
    other = [*older[:2], {**older[2], "name": "g"}]
    assert read_messages(other)[0][2]["role"] == "function", "of another name, it is not that call's"


FIELDS = {
    "thought_signature": {
        "id": "c",
        "index": 0,
        "thought_signature": "abc",
        "function": {"name": "f", "arguments": {"a": 1}},
    },
    "comment": {"id": "c", "function": {"name": "f", "arguments": {"a": 1}, "comment": "why"}},
    "extra": {"function": {"name": "f", "arguments": {}}, "extra": {"google": {"sign": "x"}}},
    "type": {"type": "custom", "function": {"name": "f", "arguments": {}}},
    "cost": {"name": "f", "arguments": {"a": 1}, "cost": 3},
}


@pytest.mark.parametrize("field", FIELDS)
def test_what_else_a_call_says_is_shown_or_refused_by_name(field):
    tokenizer = chat_tokenizer("qwen3")
    plain = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}
    pair_of([ASK, plain], tokenizer)  # a kind that is known to be shown says nothing of one with more
    with pytest.raises(ValueError, match=rf"does not show tool_calls\[0\]\.{field} of message 1"):
        pair_of([ASK, {**plain, "tool_calls": [FIELDS[field]]}], tokenizer)


def test_a_template_that_writes_calls_whole_shows_what_else_they_say():
    whole = IDS.replace("{{ c.function.name }} {{ c.function.arguments | tojson }}", "{{ c | tojson }}")
    tokenizer = chat_tokenizer("whole", whole)
    for field, call in FIELDS.items():
        if "name" not in call:
            assert field in tokenizer.decode(pair_of([ASK, {**TWO, "tool_calls": [call]}], tokenizer)["completion_ids"])
