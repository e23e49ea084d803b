"""Tokenizers with the chat templates of `tests/chats`, and conversations with calls for them."""

import re
from pathlib import Path

from conftest import build_tokenizer
from tokenizers import AddedToken

CHATS = Path(__file__).parent / "chats"
SPECIAL = re.compile(r"<\|[a-z_]+\|>|<(?:start|end)_of_turn>|<bos>|<eos>")
ADDED = re.compile(r"</?(?:think|tool_call|tool_response)>")
EOS = {"gemma": "<eos>", "gemma3": "<eos>", "phi3": "<|endoftext|>", "gptoss": "<|return|>"}
EOS |= {"llama3_1": "<|eot_id|>", "llama3_2": "<|eot_id|>"}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SYSTEM = {"role": "system", "content": "be so"}
ASK = {"role": "user", "content": "what is the weather in Oslo"}
ARGUMENTS = {"city": "Oslo", "days": 2}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo", "days": 2}'}}],
}  # fmt: skip
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "c1", "content": '{"degrees": -3}'}
SAY = {"role": "assistant", "content": "It is three below zero."}
TALK = [SYSTEM, ASK, CALL, RESULT, SAY]
LONGER = [*TALK, {"role": "user", "content": "and in Rome"}, CALL, RESULT, {"role": "assistant", "content": "Warm."}]
THOUGHT = {**CALL, "reasoning_content": "I must ask."}
THOUGHTFUL = [SYSTEM, ASK, THOUGHT, RESULT, {**SAY, "reasoning_content": "Cold, then."}]


def chat_tokenizer(name: str, template: str | None = None):
    """A small tokenizer with this template and every control token that it writes."""
    template = (CHATS / f"{name}.jinja").read_text(encoding="utf-8") if template is None else template
    eos = EOS.get(name, "<|im_end|>")
    tokenizer = build_tokenizer(template)
    control = dict.fromkeys([*SPECIAL.findall(template), eos], True) | dict.fromkeys(ADDED.findall(template), False)
    tokenizer.add_tokens([AddedToken(token, special=special, normalized=False) for token, special in control.items()])
    tokenizer.eos_token = tokenizer.pad_token = eos
    tokenizer.bos_token = "<bos>" if name.startswith("gemma") else "<|endoftext|>"
    return tokenizer
