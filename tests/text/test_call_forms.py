"""Templates that read calls in another form than most: DeepSeek's; several templates in one tokenizer."""

import pytest
from conftest import TEMPLATE
from tool_chats import ASK, CALL, RESULT, SAY, WEATHER, chat_tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from distill.text.encode import as_prompt, control_tokens
from distill.text.rows import encode_rows

TALK = [ASK, CALL, RESULT, SAY]
# the mechanics of DeepSeek's: arguments joined to texts; R1 shows calls only where the content is null
DEEPSEEK = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<|user|>' + message['content'] }}{% endif %}"
    "{% if message['role'] == 'assistant' and CALLS %}{% for tool in message['tool_calls'] %}{{ '<|assistant|><|tool_call_begin|>' + "
    "tool['type'] + '<|tool_sep|>' + tool['function']['name'] + '\\n```json\\n' + tool['function']['arguments'] + '\\n```<|end_of_sentence|>' }}"
    "{% endfor %}{% endif %}{% if message['role'] == 'assistant' and not (CALLS) %}{{ '<|assistant|>' + message['content'] + "
    "'<|end_of_sentence|>' }}{% endif %}{% if message['role'] == 'tool' %}{{ '<|tool_output|>' + message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def pairs_of(row, tokenizer, **settings):
    (found,) = encode_rows([row], tokenizer, **settings)
    if isinstance(found, ValueError):
        raise found
    return found


@pytest.mark.parametrize("calls", ["message['content'] is none", "message['tool_calls']"])
def test_deepseeks_templates_are_given_arguments_as_text_and_no_content_as_they_ask(calls):
    tokenizer = chat_tokenizer("deepseek", DEEPSEEK.replace("CALLS", calls))
    for talk in (TALK, [*TALK, ASK, {**CALL, "content": ""}]):
        # not apply_chat_template, which takes away null that R1's template asks for
        as_asked = [{**m, "content": m["content"] or None} for m in talk]
        (whole,), _ = render_jinja_template([as_asked], chat_template=tokenizer.chat_template)
        assert '{"city": "Oslo", "days": 2}' in whole
        for pair in pairs_of({"messages": talk}, tokenizer, turns="each"):
            text = tokenizer.decode(pair["prompt_ids"] + pair["completion_ids"])
            assert whole.startswith(text.removesuffix("<|end_of_sentence|>"))
        call = pairs_of({"messages": talk}, tokenizer, turns="each")[0]
        assert '{"city": "Oslo", "days": 2}' in tokenizer.decode(call["completion_ids"])


def test_a_tokenizer_with_a_template_for_tools_is_asked_for_that_one():
    tokenizer = chat_tokenizer("qwen3")
    alone = [pairs_of(row, tokenizer) for row in (ROW, {"messages": TALK, "tools": [WEATHER]})]
    both, plain = control_tokens(tokenizer), tokenizer.chat_template
    tokenizer.chat_template = {"default": TEMPLATE, "tool_use": plain}
    assert [pairs_of(row, tokenizer) for row in (ROW, {"messages": TALK, "tools": [WEATHER]})] == alone
    assert control_tokens(tokenizer) == both
    assert as_prompt(TALK[:3], tokenizer, tools=[WEATHER])[0] == ASK
    with pytest.raises(ValueError, match="does not show tool_calls"):
        as_prompt(TALK[:3], tokenizer)


ROW = {"prompt": TALK[:3], "completion": "so", "tools": [WEATHER]}


def test_a_tag_that_an_argument_quotes_is_characters():
    tokenizer = chat_tokenizer("qwen3")
    close = tokenizer.convert_tokens_to_ids("</think>")
    for said in ("xy", "x</think>y"):
        call = {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "f", "arguments": {"a": said}}}],
        }
        (pair,) = pairs_of({"messages": [ASK, call]}, tokenizer)
        assert pair["completion_ids"].count(close) == 1, "that of the empty trace"
        assert said in tokenizer.decode(pair["completion_ids"])


def test_a_mask_of_blanks_does_not_depend_on_what_the_tokenizer_counts_to_a_token():
    from tokenizers.processors import ByteLevel

    marked = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}NOTE {% generation %}{{ m.content }}"
        "{% endgeneration %}<|im_end|>\n{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    masks = []
    for trim in (False, True):
        tokenizer = chat_tokenizer("marked", marked)
        tokenizer.backend_tokenizer.post_processor = ByteLevel(trim_offsets=trim)
        (pair,) = pairs_of({"messages": [ASK, {"role": "assistant", "content": "the dog\n\n\n  ran   off"}]}, tokenizer)
        kept = [i for i, m in zip(pair["completion_ids"], pair["loss_mask"], strict=True) if m]
        assert tokenizer.decode(kept) in ("the dog\n\n\n  ran   off<|im_end|>", " the dog\n\n\n  ran   off<|im_end|>")
        masks.append(pair["loss_mask"])
    assert masks[0] == masks[1]


def test_what_is_put_before_a_text_is_what_the_tokenizer_puts_now():
    from conftest import build_tokenizer
    from tokenizers.processors import TemplateProcessing

    from distill.text.encode import encode_prompt

    tokenizer = build_tokenizer(None)
    bare = encode_prompt("the cat", tokenizer)
    begin = tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<|im_start|> $A", None, [("<|im_start|>", begin)])
    assert encode_prompt("the cat", tokenizer) == [begin, *bare]
