"""Text to token ids, for prompts and completions. The only module that knows about chat templates."""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

Messages = list[dict[str, str]]
Prompt = str | Messages


def as_prompt(prompt: Prompt, tokenizer: PreTrainedTokenizerBase, chat: bool | None = None) -> Prompt:
    """What is really asked: a bare string becomes one user turn if the tokenizer has a chat template.

    Args:
        prompt: text, or messages `[{"role": ..., "content": ...}, ...]`.
        chat: `None` wraps a string when there is a template; `False` leaves strings as plain text to be continued;
            `True` demands a template.

    Raises:
        ValueError: messages, or `chat=True`, with a tokenizer that has no chat template; messages of another shape.
    """
    has_template = tokenizer.chat_template is not None
    if isinstance(prompt, str):
        if chat is True and not has_template:
            raise ValueError("chat=True, but this tokenizer has no chat template; give plain prompts with chat=False.")
        wrap = has_template if chat is None else chat
        return [{"role": "user", "content": prompt}] if wrap else prompt
    check_messages(prompt)
    if not has_template:
        raise ValueError("The prompt is a list of messages, but this tokenizer has no chat template; give plain text.")
    return [{"role": message["role"], "content": message["content"]} for message in prompt]


def check_messages(messages: Any) -> None:
    """Raise `ValueError` unless `messages` is a non-empty list of `{"role": str, "content": str}`."""
    good = isinstance(messages, Sequence) and not isinstance(messages, str) and len(messages) > 0
    if not good or not all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in messages
    ):
        raise ValueError(
            f"A prompt is text or a non-empty list of {{'role': str, 'content': str}}, not {str(messages)[:80]!r}."
        )


def encode_prompt(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a prompt, up to where the completion begins.

    Messages go through the chat template with the generation prompt. Control tokens such as `<|im_end|>` inside a
    message or a plain prompt are encoded as the characters they are written with, so text can never forge a turn.

    Raises:
        ValueError: the prompt gives no token at all (an empty text and a tokenizer without a BOS token).
    """
    if isinstance(prompt, str):
        ids = tokenizer(prompt, split_special_tokens=True, return_attention_mask=False)["input_ids"]
    else:
        try:
            ids = tokenizer.apply_chat_template(
                prompt, add_generation_prompt=True, sanitize_control_tokens=True, return_dict=False
            )
        except TemplateError as error:  # a template may refuse a role, e.g. Gemma's a system turn
            roles = ", ".join(message["role"] for message in prompt)
            raise ValueError(f"The chat template refuses a prompt with the roles {roles}: {error}") from None
    if not ids:
        raise ValueError(f"The prompt {prompt!r} has no token; a model needs at least one to continue from.")
    return list(ids)


def encode_completion(text: str, tokenizer: PreTrainedTokenizerBase, finish_reason: str) -> list[int]:
    """Token ids of a completion that is only known as text, e.g. one written by a person.

    Where a teacher's own ids are known they are used instead: decoding and encoding again is not the identity. A
    completion that stopped ends with the tokenizer's EOS token; one that was cut (`"length"`) does not.

    Raises:
        ValueError: the completion stopped, but the tokenizer has no EOS token to end it with.
    """
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False)
    ids = list(encoded["input_ids"])
    if finish_reason == "stop":
        if tokenizer.eos_token_id is None:
            raise ValueError(
                "The completion stopped, but the tokenizer has no eos_token to mark its end with; set one."
            )
        ids.append(tokenizer.eos_token_id)
    return ids


def user_header_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of the chat template up to where a user's words would begin (Magpie, Xu et al. 2024).

    Raises:
        ValueError: the tokenizer has no chat template, or its template changes the user's words.
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            "Prompts written by the teacher itself need a chat template, and this tokenizer has none; give prompts."
        )
    mark = "distillusermark"
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": mark}], tokenize=False)
    header, found, _ = str(rendered).partition(mark)
    if not found:
        raise ValueError("The chat template does not show the user's words as they are; give prompts instead.")
    return list(tokenizer(header, add_special_tokens=False, return_attention_mask=False)["input_ids"])
