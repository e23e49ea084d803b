"""Chat templates and tokens: one prompt, one completion, one conversation to token ids."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distill.text.chat import CLOSE, OPEN, WORD, chat_of, control_tokens
from distill.text.messages import Messages, Prompt, check_messages, read_messages
from distill.text.results import in_order_of_calls
from distill.text.shown import check_shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "CLOSE", "OPEN", "Messages", "Prompt", "as_prompt", "check_messages", "control_tokens", "encode_completion",
    "encode_conversation", "encode_prompt", "opens_trace", "template_with", "turn_end_id", "user_header_ids",
]  # fmt: skip


def as_prompt(
    prompt: Prompt,
    tokenizer: "PreTrainedTokenizerBase",
    chat: bool | None = None,
    tools: Sequence[dict[str, Any]] | None = None,
    values: dict[str, Any] | None = None,
) -> Prompt:
    """What is really asked: a bare string becomes one user turn if the tokenizer has a chat template.

    Args:
        prompt: text, or messages `[{"role": ..., "content": ...}, ...]`, with whatever else the template shows
            (`distill.text.messages`).
        chat: `None` wraps a string when there is a template; `False` leaves strings as plain text to be continued;
            `True` demands a template.
        tools, values: what the template is given beside the messages.

    Raises:
        ValueError: messages, or `chat=True`, with a tokenizer that has no chat template; messages of another shape, or with a
            field that the template does not show.
    """
    has_template = tokenizer.chat_template is not None
    if isinstance(prompt, str):
        if chat is True and not has_template:
            raise ValueError("chat=True, but this tokenizer has no chat template; give plain prompts with chat=False.")
        wrap = has_template if chat is None else chat
        return [{"role": "user", "content": prompt}] if wrap else prompt
    messages, _ = read_messages(prompt)
    if not has_template:
        raise ValueError("The prompt is a list of messages, but this tokenizer has no chat template; give plain text.")
    known = chat_of(tokenizer)
    messages = in_order_of_calls(known, messages, tools, values)
    check_shown(known, messages, tools, values)
    return messages


def encode_prompt(
    prompt: Prompt,
    tokenizer: "PreTrainedTokenizerBase",
    tools: Sequence[dict[str, Any]] | None = None,
    values: dict[str, Any] | None = None,
) -> list[int]:
    """Token ids of a prompt, up to where the completion begins.

    Messages go through the chat template with the generation prompt. Control tokens such as `<|im_end|>` inside a
    message or a plain prompt are encoded as the characters they are written with, so text can never forge a turn or a
    trace. The one exception: `<think>` and `</think>` in an earlier assistant turn are what the assistant said; where
    the template shows them, they are the tokenizer's own tokens. A plain prompt begins with what the tokenizer puts before any
    text (BOS); what it puts behind one (`add_eos_token`) would end the text before its completion, and is left out.

    Raises:
        ValueError: the prompt gives no token at all (an empty text and a tokenizer without a BOS token).
    """
    chat = chat_of(tokenizer)
    if isinstance(prompt, str):
        ids = chat.before_text + chat.encode([chat.marked(prompt)])[0]
    else:
        ids = chat.encode([chat.render(chat.marked_messages(prompt), chat.marked(tools), values=chat.marked(values))])[
            0
        ]
    if not ids:
        raise ValueError(f"The prompt {prompt!r} has no token; a model needs at least one to continue from.")
    return ids


def encode_conversation(messages: Messages, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Token ids of a whole conversation, its last turn ended; control tokens as in `encode_prompt`."""
    chat = chat_of(tokenizer)
    return chat.encode([chat.render(chat.marked_messages(messages), ended=True)])[0]


def encode_completion(
    text: str, tokenizer: "PreTrainedTokenizerBase", finish_reason: str, *, chat: bool = True
) -> list[int]:
    """Token ids of a completion that is only known as text, e.g. one written by a person.

    Where a teacher's own ids are known they are used instead: decoding and encoding again is not the identity.
    `<think>` and `</think>` become the tokenizer's own tokens where it has them; all other control tokens in the text
    stay characters. A completion that stopped ends as the chat template ends an assistant's turn (Gemma: `<end_of_turn>`,
    Phi-3: `<|end|>`), which need not be the tokenizer's EOS; one that continues a plain text, or whose template has no such token,
    ends with EOS. One that was cut (`"length"`) has no end.

    Args:
        text: without its end.
        tokenizer: the student's.
        finish_reason: `"stop"` or `"length"`.
        chat: whether the prompt is messages; False: a plain text that is continued.

    Raises:
        ValueError: the completion stopped, but there is no token to end it with.
    """
    known = chat_of(tokenizer)
    said = known.marked(text, own=True)
    if finish_reason != "stop":
        return known.encode([said])[0]
    if chat and known.end is not None:
        return known.encode([said + known.end])[0]
    return [*known.encode([said])[0], eos_id(tokenizer)]


def eos_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The tokenizer's EOS.

    Raises:
        ValueError: it has none.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("The completion stopped, but the tokenizer has no eos_token to mark its end with; set one.")
    return int(tokenizer.eos_token_id)


def turn_end_id(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The token with which the chat template ends an assistant's turn, else EOS; None where there is neither."""
    known = chat_of(tokenizer)
    return tokenizer.eos_token_id if known.end is None else known.encode([known.end])[0][-1]


def opens_trace(prompt: Prompt | Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the prompt ends inside an open `<think>`, so that a completion begins in the middle of a trace.

    So it is with the templates of DeepSeek-R1-Distill (the newer ones) and Qwen3-2507-Thinking.

    Args:
        prompt: as it is asked (see `as_prompt`), or its token ids.
    """
    if not isinstance(prompt, str) and (not prompt or isinstance(prompt[0], dict)):
        text = chat_of(tokenizer).render(list[Any](prompt))
    else:
        # the tags may be characters; no tokenizer spells <think> and a line's end with more than 16 tokens
        text = prompt if isinstance(prompt, str) else str(tokenizer.decode(list(prompt)[-16:]))  # type: ignore[arg-type]
    return text.rstrip().endswith(OPEN)


def template_with(tokenizer: "PreTrainedTokenizerBase", **values: Any) -> str:
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


def user_header_ids(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Token ids of the chat template up to where a user's words would begin (Magpie, Xu et al. 2024).

    Raises:
        ValueError: the tokenizer has no chat template, or its template changes the user's words.
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            "Prompts written by the teacher itself need a chat template, and this tokenizer has none; give prompts."
        )
    chat = chat_of(tokenizer)
    header, found, _ = chat.render([{"role": "user", "content": WORD}], ended=True).partition(WORD)
    if not found:
        raise ValueError("The chat template does not show the user's words as they are; give prompts instead.")
    return chat.encode([header])[0]
