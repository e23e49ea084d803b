"""Conversations of several turns: which of their tokens carry loss."""

from typing import Any

from transformers import PreTrainedTokenizerBase

from distill.text.encode import (
    CLOSE,
    OPEN,
    Messages,
    as_prompt,
    assistant_mask,
    check_messages,
    control_tokens,
    encode_conversation,
    encode_prompt,
)

TURNS = ("last", "all")


def conversation_row(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase | None, turns: str) -> dict[str, Any]:
    """A row with `messages`, a conversation that ends with an assistant's turn, as one with a prompt and a completion.

    `"last"`: the last turn is the completion and all before it the prompt, as if it had been written so. `"all"`: the prompt
    ends where the first assistant's turn begins, the completion holds all that follows, and its `loss_mask` is 1 in the
    assistant's turns. A turn reaches from behind the generation prompt up to and with the control token that ends it, which
    is what is generated when the conversation is asked; what a template writes after that token (a line's end) has no loss.
    Where a template marks the assistant's words (`{% generation %}`), only marked tokens and the ends of turns have loss.

    Args:
        row: with `messages`; other columns are kept.
        tokenizer: the student's, with a chat template.
        turns: `"last"` or `"all"`.

    Raises:
        ValueError: no such choice, no tokenizer, no template; messages of another shape, or that do not end with the assistant;
            a template that shows a turn otherwise once the conversation goes on, or whose turns do not end with a token.
    """
    if turns not in TURNS:
        raise ValueError(f"turns is {turns!r}, expected one of {TURNS}.")
    messages = row["messages"]
    check_messages(messages)
    if messages[-1]["role"] != "assistant" or len(messages) < 2:
        raise ValueError(
            f"The conversation has the roles {', '.join(m['role'] for m in messages)}; it must have two messages or more "
            "and end with the assistant's."
        )
    if tokenizer is None:
        raise ValueError("A row of messages needs the student's tokenizer; pass it to load_pairs.")
    messages = as_prompt(messages, tokenizer)
    assert not isinstance(messages, str)
    others = {name: value for name, value in row.items() if name != "messages"}
    spoken = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if turns == "last" or len(spoken) == 1:
        return {**others, "prompt": messages[:-1], "completion": messages[-1]["content"]}
    if spoken[0] == 0:
        raise ValueError(
            "The conversation begins with the assistant's turn, which has no prompt; begin with the user's."
        )
    return {**others, **_all_turns(messages, spoken, tokenizer)}


def _all_turns(messages: Messages, spoken: list[int], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    whole = encode_conversation(messages, tokenizer)
    marked = assistant_mask(messages, whole, tokenizer)
    mask, first, end = [0] * len(whole), 0, 0
    for turn in spoken:
        start, end = _span(messages, turn, whole, tokenizer)
        first = first or start
        for place in range(start, end):
            mask[place] = int(marked is None or marked[place] or place == end - 1)
    completion = whole[first:end]
    return {
        "prompt": messages[: spoken[0]],
        "completion": str(tokenizer.decode(completion, skip_special_tokens=True)),
        "prompt_ids": whole[:first],
        "completion_ids": completion,
        "loss_mask": mask[first:end],
    }


def _span(messages: Messages, turn: int, whole: list[int], tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """From the first token of a turn to behind the token that ends it."""
    asked = encode_prompt(messages[:turn], tokenizer)
    answered = encode_conversation(messages[: turn + 1], tokenizer)
    names = control_tokens(tokenizer) - {OPEN, CLOSE}
    control = {i for i, token in tokenizer.added_tokens_decoder.items() if token.content in names}
    end = max((place + 1 for place, i in enumerate(answered) if i in control), default=0)
    said, after = (str(tokenizer.decode(ids)) for ids in (answered[len(asked) : end], answered[end:]))
    if end <= len(asked) or after.strip():
        raise ValueError(
            f"The chat template ends message {turn}, an assistant's turn, with no control token, so a student trained on it "
            "would not learn to stop. Use a template that does, or give one row a turn and turns='last', which adds the EOS."
        )
    if whole[: len(asked)] != asked or whole[:end] != answered[:end] or messages[turn]["content"].strip() not in said:
        raise ValueError(
            f"The chat template shows message {turn}, an assistant's turn, otherwise than it was asked for or said (it may "
            "take traces out of earlier turns), so it cannot be trained on within this conversation. Give one row a turn, each "
            "ending with that turn, and turns='last'."
        )
    return len(asked), end
