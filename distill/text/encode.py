"""Chat templates and tokens: text to token ids. The only module that applies chat templates."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import encode_marked_chat, mark_control_tokens, render_jinja_template

Messages = list[dict[str, str]]
Prompt = str | Messages

# The tags of a trace. Only in an assistant's own words are they tokens; anywhere else they are characters.
OPEN, CLOSE = "<think>", "</think>"
_MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")  # around what the assistant says, in templates that mark it


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
    message or a plain prompt are encoded as the characters they are written with, so text can never forge a turn or a
    trace. The one exception: `<think>` and `</think>` in an earlier assistant turn are what the assistant said; where
    the template shows them, they are the tokenizer's own tokens.

    Raises:
        ValueError: the prompt gives no token at all (an empty text and a tokenizer without a BOS token).
    """
    ids = _encode_text(prompt, tokenizer) if isinstance(prompt, str) else _encode_messages(prompt, tokenizer)
    if not ids:
        raise ValueError(f"The prompt {prompt!r} has no token; a model needs at least one to continue from.")
    return ids


def encode_conversation(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a whole conversation, its last turn ended; control tokens as in `encode_prompt`."""
    return _encode_messages(messages, tokenizer, ended=True)


def encode_completion(text: str, tokenizer: PreTrainedTokenizerBase, finish_reason: str) -> list[int]:
    """Token ids of a completion that is only known as text, e.g. one written by a person.

    Where a teacher's own ids are known they are used instead: decoding and encoding again is not the identity.
    `<think>` and `</think>` become the tokenizer's own tokens where it has them; all other control tokens in the text
    stay characters. A completion that stopped ends with the tokenizer's EOS token; one that was cut (`"length"`) does
    not.

    Raises:
        ValueError: the completion stopped, but the tokenizer has no EOS token to end it with.
    """
    forbidden = control_tokens(tokenizer) - {OPEN, CLOSE}
    if found := _pattern(forbidden).search(text):
        ids = encode_marked_chat(tokenizer, mark_control_tokens(text, found.re))
    else:
        ids = list(tokenizer(text, add_special_tokens=False, return_attention_mask=False)["input_ids"])
    if finish_reason == "stop":
        if tokenizer.eos_token_id is None:
            raise ValueError(
                "The completion stopped, but the tokenizer has no eos_token to mark its end with; set one."
            )
        ids.append(tokenizer.eos_token_id)
    return ids


def opens_trace(prompt: Prompt | Sequence[int], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the prompt ends inside an open `<think>`, so that a completion begins in the middle of a trace.

    So it is with the templates of DeepSeek-R1-Distill (the newer ones) and Qwen3-2507-Thinking.

    Args:
        prompt: as it is asked (see `as_prompt`), or its token ids.
    """
    if not isinstance(prompt, str) and (not prompt or isinstance(prompt[0], dict)):
        text = _render(list(prompt), tokenizer)  # type: ignore[arg-type]
    else:
        # the tags may be characters; no tokenizer spells <think> and a line's end with more than 16 tokens
        text = prompt if isinstance(prompt, str) else str(tokenizer.decode(list(prompt)[-16:]))  # type: ignore[arg-type]
    return text.rstrip().endswith(OPEN)


def template_with(tokenizer: PreTrainedTokenizerBase, **values: Any) -> str:
    """The chat template with some of its variables fixed, e.g. `enable_thinking=False` of Qwen3.

    A variable that is part of the template is part of everything that is keyed by the template, such as a journal.

    Raises:
        ValueError: the tokenizer has no chat template.

    Example:
        >>> tokenizer.chat_template = template_with(tokenizer, enable_thinking=False)
    """
    if tokenizer.chat_template is None:
        raise ValueError(f"This tokenizer has no chat template in which {', '.join(values)} could be set.")
    lines = [f"{{%- set {name} = {value!r} -%}}" for name, value in values.items()]
    return "".join(lines) + str(tokenizer.chat_template)


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """The tokens that mean something to the template: text from outside must not become one of them.

    These are the special tokens, the tags of a trace, and other added tokens that the template writes. `special` alone
    is not enough: DeepSeek's `<｜User｜>` is an added token that is not special. Nor is the template's source, because
    some put a token together from pieces (Phi-4-mini); so a conversation is rendered and looked through as well.
    """
    special = tuple((name, token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str))
    written = _written_by(str(tokenizer.chat_template or ""), special)
    listed = {OPEN, CLOSE, *(tokenizer.chat_control_tokens or ())}
    return frozenset(
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.content.strip() and (token.special or token.content in listed or token.content in written)
    )


@lru_cache(maxsize=32)
def _written_by(template: str, special_tokens: tuple[tuple[str, str], ...]) -> str:
    """The template's source, and what it writes around a conversation."""
    user, assistant = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    rendered: list[str] = []
    render: Any = render_jinja_template
    for conversation in ([{"role": "system", "content": "c"}, user, assistant], [user, assistant], [user]):
        try:
            rendered += render(
                [conversation], chat_template=template, add_generation_prompt=True, **dict(special_tokens)
            )[0]
        except TemplateError:  # a template may refuse a role or an order; the others show what it writes
            continue
    return "\0".join([template, *rendered])


@lru_cache(maxsize=64)
def _pattern(tokens: frozenset[str]) -> re.Pattern[str]:
    """Any of the tokens, a longer one before those it contains."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=lambda t: (-len(t), t)))) or "(?!)")


def _encode_text(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    pattern = _pattern(control_tokens(tokenizer))
    usual = list(tokenizer("a" if pattern.search(text) else text, return_attention_mask=False)["input_ids"])
    if not pattern.search(text):
        return usual
    # what the tokenizer puts around any text, such as a BOS token, is there around this one too
    bare = list(tokenizer("a", add_special_tokens=False, return_attention_mask=False)["input_ids"])
    start = next(i for i in range(len(usual)) if usual[i : i + len(bare)] == bare)
    ids = encode_marked_chat(tokenizer, mark_control_tokens(text, pattern))
    return [*usual[:start], *ids, *usual[start + len(bare) :]]


def _encode_messages(messages: Messages, tokenizer: PreTrainedTokenizerBase, ended: bool = False) -> list[int]:
    control = control_tokens(tokenizer)
    theirs, own = _pattern(control), _pattern(control - {OPEN, CLOSE})
    marked = [mark_control_tokens(m, own if m["role"] == "assistant" else theirs) for m in messages]
    return list(encode_marked_chat(tokenizer, _render(marked, tokenizer, ended)))


def _render(messages: Messages, tokenizer: PreTrainedTokenizerBase, ended: bool = False) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=not ended, tokenize=False))
    except TemplateError as error:  # a template may refuse a role, e.g. Gemma's a system turn
        roles = ", ".join(message["role"] for message in messages)
        raise ValueError(f"The chat template refuses a prompt with the roles {roles}: {error}") from None


def assistant_mask(messages: Messages, whole: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
    """Which of a conversation's tokens (`whole`) its template marks as the assistant's, 0 or 1; None without such marks.

    Raises:
        ValueError: text that looks like a control token.
    """
    if not _MARKERS.search(str(tokenizer.chat_template)):
        return None
    found: Any = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    if found["input_ids"] != whole:
        raise ValueError(
            "A message has text that looks like a control token, where transformers cannot say which tokens the template "
            "marks; remove that text, or give one row a turn and turns='last'."
        )
    return list(found["assistant_masks"])


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
