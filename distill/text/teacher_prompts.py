"""Teacher's prompts: what a teacher is shown in place of a row's prompt, as it would be asked."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distill.text.chat import Chat, chat_of
from distill.text.conversations import Plan
from distill.text.encode import as_prompt, encode_prompt
from distill.text.messages import Prompt, read_tools, read_values

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def teachers_prompt(
    row: Mapping[str, Any], chat: Chat, wrap: bool | None, tools: Any = None, values: Any = None
) -> tuple[Prompt, str]:
    """The row's `teacher_prompt` as it is asked, and what the template writes for it.

    It goes the way of the row's own prompt: a bare text is one user turn, the row's tools and the template's variables are given
    beside it, and its `system` stands before it unless it begins with a system turn of its own.

    Args:
        row: with `teacher_prompt`.
        chat: of the tokenizer.
        wrap: what becomes of a bare text, as in `as_prompt`.
        tools, values: of the row.

    Raises:
        ValueError: see `as_prompt`; variables of a template beside plain text.
    """
    prompt: Prompt = row["teacher_prompt"]
    if row.get("system") or (isinstance(prompt, str) and tools):
        prompt = as_prompt(prompt, chat.tokenizer, True, tools, values)
        assert not isinstance(prompt, str), "it was to be a chat"
        if row.get("system") and prompt[0]["role"] not in ("system", "developer"):
            prompt = [{"role": "system", "content": row["system"]}, *prompt]
    prompt = as_prompt(prompt, chat.tokenizer, wrap, tools, values)
    if not isinstance(prompt, str):
        return prompt, chat.render(chat.marked_messages(prompt), chat.marked(tools), values=chat.marked(values))
    if values:
        raise ValueError("chat_template_kwargs beside a plain text, which no template sees; remove them.")
    return prompt, chat.marked(prompt)


def add_teachers_prompt(
    plans: Sequence[Plan], row: Mapping[str, Any], chat: Chat, wrap: bool | None, tools: Any
) -> None:
    """Write into the plan of a row of text what its teacher was shown, if the row says so.

    Args:
        plans: of the row.
        row: as it was given.
        chat: of the tokenizer.
        wrap: what becomes of a bare text.
        tools: that the row gives to the template, not read yet.

    Raises:
        ValueError: several completions for one such prompt; its ids beside text; as `teachers_prompt`.
    """
    if row.get("teacher_prompt_ids") is not None:
        raise ValueError(
            "teacher_prompt_ids beside text: the row's other tokens are only made now. Give the text alone, teacher_prompt, or prompt_ids "
            "and completion_ids, too."
        )
    if row.get("teacher_prompt") is None:
        return
    if len(plans) > 1 or sum(part.loss for part in plans[0].parts) > 1:
        raise ValueError(
            "a teacher_prompt beside several turns that carry loss: it says what stood before one completion only. Give one row a "
            "completion, each with its own."
        )
    (plan,) = plans
    try:
        found = teachers_prompt(row, chat, wrap, read_tools(tools), read_values(row.get("chat_template_kwargs")))
    except ValueError as error:
        raise ValueError(f"teacher_prompt: {error}") from None
    plan.pair["teacher_prompt"], plan.shown = found


def with_both_forms(
    row: Mapping[str, Any], tokenizer: "PreTrainedTokenizerBase | None", wrap: bool | None = None
) -> dict[str, Any]:
    """A pair that has token ids, with what its teacher was shown in words and in tokens where it has one of the two.

    Args:
        row: with `prompt` and `prompt_ids`.
        tokenizer: of its ids; without one the row stays as it is.
        wrap: whether a bare text was asked as a user's turn; None: as the row's own prompt was, which its ids tell.

    Raises:
        ValueError: a text that cannot be asked, or of which it cannot be told how.
    """
    words, ids = (row.get(name) for name in ("teacher_prompt", "teacher_prompt_ids"))
    if tokenizer is None or (words is None) is (ids is None):
        return dict(row)
    if ids is not None:
        return {**row, "teacher_prompt": str(tokenizer.decode(ids))}
    tools, values = read_tools(row.get("tools")), read_values(row.get("chat_template_kwargs"))
    try:
        if isinstance(words, str) and wrap is None:
            wrap = _was_asked_as_chat(row, tokenizer, tools, values)
        asked, _ = teachers_prompt(row, chat_of(tokenizer), wrap, tools, values)
        return {**row, "teacher_prompt": asked, "teacher_prompt_ids": encode_prompt(asked, tokenizer, tools, values)}
    except ValueError as error:
        raise ValueError(f"teacher_prompt: {error}") from None


def _was_asked_as_chat(row: Mapping[str, Any], tokenizer: "PreTrainedTokenizerBase", tools: Any, values: Any) -> bool:
    """Whether the tokens of a row's own prompt are those of a chat, or of the bare text."""
    prompt = row["prompt"]
    if not isinstance(prompt, str):
        return True
    if tokenizer.chat_template is None:
        return False
    for chat in (True, False):
        asked = as_prompt(prompt, tokenizer, chat, tools, values)
        if encode_prompt(asked, tokenizer, *((tools, values) if chat else ())) == list(row["prompt_ids"]):
            return chat
    raise ValueError(
        "whether it was asked as a chat cannot be told, because this tokenizer makes other tokens than prompt_ids of the row's own "
        "prompt; give teacher_prompt_ids, or messages."
    )
