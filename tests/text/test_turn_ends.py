"""The end of a turn: as the chat template ends it, in rows of text, messages and answers of servers; never between prompt and completion."""

import json

import pytest
from conftest import build_model, build_tokenizer
from tokenizers.processors import TemplateProcessing
from tool_chats import chat_tokenizer

from distill import load_pairs
from distill.curation.preflight import preflight
from distill.models.eos import eos_ids
from distill.teachers.answers import Answer, completion_of
from distill.text.encode import encode_completion, encode_prompt, turn_end_id

ASK, SAY = {"role": "user", "content": "the cat"}, {"role": "assistant", "content": "the dog"}
ENDS = {
    "gemma": "<end_of_turn>", "gemma3": "<end_of_turn>", "phi3": "<|end|>", "qwen3": "<|im_end|>", "llama3_1": "<|eot_id|>",
    "llama3_2": "<|eot_id|>", "gptoss": "<|return|>", "smollm3_tools": "<|im_end|>",
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_rows_of_text_and_of_messages_end_with_the_same_token_the_templates(name, tmp_path):
    tokenizer = chat_tokenizer(name)
    rows = [
        {"prompt": "the cat", "completion": "the dog"},
        {"prompt": [ASK], "completion": "the dog"},
        {"messages": [ASK, SAY]},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs = load_pairs(tmp_path / "rows.jsonl", tokenizer)
    end = tokenizer.convert_tokens_to_ids(ENDS[name])
    assert turn_end_id(tokenizer) == end
    assert [ids[-1] for ids in pairs["completion_ids"]] == [end] * 3
    assert end in eos_ids(None, tokenizer), "a student that stops so must be stopped so"
    whole = tokenizer.apply_chat_template([ASK, SAY], return_dict=False)
    for pair in [pairs[2]] if name in ("qwen3", "gptoss") else pairs:  # these two write more before the words of a turn
        ours = pair["prompt_ids"] + pair["completion_ids"]
        assert whole[: len(ours)] == ours
    assert preflight(pairs, tokenizer).figures["eos"]["supervised"] == 3
    cut = load_pairs_cut(rows, tokenizer, tmp_path)
    assert all(end not in ids for ids in cut["completion_ids"]), "what was cut has no end"


def load_pairs_cut(rows, tokenizer, folder):
    (folder / "cut.jsonl").write_text("\n".join(json.dumps({**row, "finish_reason": "length"}) for row in rows))
    return load_pairs(folder / "cut.jsonl", tokenizer)


@pytest.mark.parametrize("name", ["gemma", "phi3"])
def test_an_answer_of_a_server_ends_as_the_template_ends_a_turn(name):
    tokenizer = chat_tokenizer(name)
    said = tokenizer("the dog", add_special_tokens=False)["input_ids"]
    for ids in (None, said):
        answer = Answer("the dog", None, "stop", ids, None, None)
        assert completion_of(answer, [ASK], tokenizer).ids == [*said, turn_end_id(tokenizer)]
        assert completion_of(answer, "the cat", tokenizer).ids == [*said, tokenizer.eos_token_id]


def test_a_plain_text_and_a_template_without_an_end_end_with_eos():
    tokenizer = chat_tokenizer("gemma")
    assert encode_completion("the dog", tokenizer, "stop", chat=False)[-1] == tokenizer.eos_token_id
    plain = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    tokenizer = build_tokenizer(plain)
    assert encode_completion("the dog", tokenizer, "stop")[-1] == tokenizer.eos_token_id
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no eos_token to mark its end with"):
        encode_completion("the dog", tokenizer, "stop")


def test_what_a_tokenizer_puts_behind_a_text_does_not_stand_between_prompt_and_completion(tmp_path):
    """As with `add_eos_token=True`: the student would be asked behind an end."""
    tokenizer = build_tokenizer(None)
    bos, eos = tokenizer.convert_tokens_to_ids("<|im_start|>"), tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        "<|im_start|> $A <|im_end|>", None, [("<|im_start|>", bos), ("<|im_end|>", eos)]
    )
    assert tokenizer("the cat")["input_ids"][-1] == eos
    bare = tokenizer("the cat", add_special_tokens=False)["input_ids"]
    assert encode_prompt("the cat", tokenizer) == [bos, *bare]
    assert encode_prompt("the cat<|im_end|>", tokenizer).count(eos) == 0
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "the cat", "completion": "ran"}))
    pair = load_pairs(tmp_path / "rows.jsonl", tokenizer)[0]
    assert (pair["prompt_ids"] + pair["completion_ids"]).count(eos) == 1
    assert (pair["prompt_ids"] + pair["completion_ids"]).count(bos) == 1


def test_a_local_teacher_stops_where_its_template_ends_a_turn():
    from distill.teachers import LocalTeacher

    tokenizer = chat_tokenizer("gemma")
    teacher = LocalTeacher(build_model(vocab_size=len(tokenizer)), tokenizer)
    assert {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")} <= teacher.eos_ids()
