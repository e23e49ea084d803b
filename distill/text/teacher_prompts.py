"""Teacher's prompts: what a teacher is shown in place of a row's prompt, as it would be asked."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distill.text.chat import Chat, chat_of
from distill.text.conversations import Plan
from distill.text.encode import as_prompt, encode_prompt
from distill.text.messages import Prompt, read_tools, read_values

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EMPTY = "it is an empty text; give null where the teacher was shown the prompt itself."


def teachers_prompt(
    words: Prompt, system: Any, chat: Chat, wrap: bool | None, tools: Any = None, values: Any = None
) -> tuple[Prompt, str]:
    """A `teacher_prompt` as it is asked, and what the template writes for it.

    It goes the way of the row's own prompt: a bare text is one user turn, the row's tools and the template's variables are given
    beside it, and its system text stands before it unless it begins with a system turn of its own.

    Args:
        words: the `teacher_prompt`.
        system: the row's system text, if it has one.
        chat: of the tokenizer.
        wrap: what becomes of a bare text, as in `as_prompt`.
        tools, values: of the row.

    Raises:
        ValueError: an empty text; see `as_prompt`; variables of a template beside plain text.
    """
    if words == "":
        raise ValueError(EMPTY)
    prompt = words
    if system or (isinstance(prompt, str) and tools):
        prompt = behind_system(as_prompt(prompt, chat.tokenizer, True, tools, values), system)
    prompt = as_prompt(prompt, chat.tokenizer, wrap, tools, values)
    if not isinstance(prompt, str):
        return prompt, chat.render(chat.marked_messages(prompt), chat.marked(tools), values=chat.marked(values))
    if values:
        raise ValueError("chat_template_kwargs beside a plain text, which no template sees; remove them.")
    return prompt, chat.marked(prompt)


def behind_system(prompt: Prompt, system: str | None) -> Prompt:
    """A teacher's prompt behind the system text that the student has, too; its own system turn stands in place of that.

    Args:
        prompt: a bare text becomes a user's turn.
        system: none leaves the prompt as it is.
    """
    if not system or has_own_system(prompt):
        return prompt
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return [{"role": "system", "content": system}, *turns]


def has_own_system(prompt: Prompt) -> bool:
    """Whether it begins with a system turn."""
    return not isinstance(prompt, str) and bool(prompt) and prompt[0].get("role") in ("system", "developer")


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
            "completion, each with its own, or take the column teacher_prompt away."
        )
    (plan,) = plans
    try:
        beside = read_tools(tools), read_values(row.get("chat_template_kwargs"))
        found = teachers_prompt(row["teacher_prompt"], row.get("system"), chat, wrap, *beside)
    except ValueError as error:
        raise ValueError(f"teacher_prompt: {error}") from None
    plan.pair["teacher_prompt"], plan.shown = found


def with_shown_ids(
    row: Mapping[str, Any], tokenizer: "PreTrainedTokenizerBase | None", wrap: bool | None = None
) -> dict[str, Any]:
    """A pair that has token ids, with those of what its teacher was shown where it says that in words alone.

    The other way round nothing is made: a chat decoded into one text would be another prompt wherever it is asked again.

    Args:
        row: with `prompt` and `prompt_ids`.
        tokenizer: of its ids; without one the row stays as it is.
        wrap: whether a bare text was asked as a user's turn; None: as the row's own prompt was, which its ids tell.

    Raises:
        ValueError: a text that cannot be asked, or of which it cannot be told how.
    """
    words = row.get("teacher_prompt")
    if tokenizer is None or words is None or row.get("teacher_prompt_ids") is not None:
        return dict(row)
    tools, values = read_tools(row.get("tools")), read_values(row.get("chat_template_kwargs"))
    try:
        if words == "":
            raise ValueError(EMPTY)
        system = None if has_own_system(words) else row.get("system")
        if (isinstance(words, str) and wrap is None) or system:
            told, system = how_it_was_asked(row, tokenizer, tools, values)
            wrap = told if wrap is None else wrap
        asked, _ = teachers_prompt(words, system, chat_of(tokenizer), wrap, tools, values)
        return {**row, "teacher_prompt": asked, "teacher_prompt_ids": encode_prompt(asked, tokenizer, tools, values)}
    except ValueError as error:
        raise ValueError(f"teacher_prompt: {error}") from None


def how_it_was_asked(
    row: Mapping[str, Any], tokenizer: "PreTrainedTokenizerBase", tools: Any, values: Any
) -> tuple[bool, str | None]:
    """Whether the tokens of a row's own prompt are those of a chat or of the bare text, and its system text if they have that, too.

    A column `system` beside token ids may be anything; it was shown only where the ids are those of a prompt behind it.
    """
    prompt, system = row["prompt"], row.get("system")
    if isinstance(prompt, str) and tokenizer.chat_template is None:
        return False, None
    system = system if isinstance(system, str) and system else None
    ways: list[tuple[bool, str | None]] = [(True, None), *([(False, None)] if isinstance(prompt, str) else [])]
    if system and not (has_own_system(prompt) and prompt[0].get("content") != system):
        ways.insert(0, (True, system))  # first: messages that begin with it are the same with it and without
    for chat, before in ways:
        asked = as_prompt(behind_system(prompt, before), tokenizer, chat, tools, values)
        if encode_prompt(asked, tokenizer, *((tools, values) if chat else ())) == list(row["prompt_ids"]):
            return chat, before
    which = "whether it was asked as a chat" + (", and behind its system text," if row.get("system") else "")
    raise ValueError(
        f"{which} cannot be told, because this tokenizer makes other tokens than prompt_ids of the row's own prompt; give "
        "teacher_prompt_ids, or messages with all that was shown, a system turn among them if there was one."
    )
