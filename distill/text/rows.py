"""Rows of text to tokens, many at once: prompts, completions and conversations as pairs."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distill.text.chat import OPEN, Chat, chat_of
from distill.text.conversations import Part, Plan, Talk, one_row, text_behind, told, turn_plan
from distill.text.encode import as_prompt, eos_id
from distill.text.ends import end_of_row
from distill.text.messages import Messages, read_messages, read_tools, read_values, without_nulls
from distill.text.results import in_order_of_calls
from distill.text.shown import check_shown
from distill.text.teacher_prompts import add_teachers_prompt
from distill.text.traces import fit_trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TURNS = ("last", "all", "each")
SAYS_A_ROW = (
    "messages", "prompt", "completion", "tools", "functions", "system", "chat_template_kwargs", "teacher_prompt",
)  # fmt: skip


def encode_rows(
    rows: Sequence[Mapping[str, Any]],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    chat: bool | None = None,
    turns: str = "last",
    ignore: Collection[str] = (),
    filled: bool = False,
) -> list[list[dict[str, Any]] | ValueError]:
    """Rows of text as pairs with token ids, each with the tokens of its own prompt as it would be asked.

    A row has `prompt` and `completion`, texts or messages, or `messages`, a whole conversation that ends with the assistant. Beside
    them it may have `tools` (JSON schemas of functions), `system` (the system's words) and `chat_template_kwargs` (the template's
    variables), all of which go to the chat template, as all fields of messages do (`distill.text.messages`). What the template
    does not show is refused by its name (`distill.text.shown`).

    A completion that is a *text* is taken as it is; one that is a *turn* is what the template writes for that turn behind the
    generation prompt, up to and with the token that ends it: what is generated when the conversation is asked. Where the template
    loses the trace of a turn (DeepSeek-R1), its text is taken as it is, too. Only the assistant's turns carry loss, and of them
    none that is marked with `weight: 0`, `train: false` or `loss: false`; where a template marks the assistant's words
    (`{% generation %}`), only marked tokens and the ends of turns.

    `turns="last"`: the last turn is the completion, all before it the prompt. `"each"`: one pair for each of the assistant's turns,
    as if the conversation had ended there. `"all"`: one pair, the completion reaching from the first of these turns to the end of the
    last, with a `loss_mask`; it is exactly the pairs of `"each"` in one row, and refused where a template shows a turn otherwise
    once the conversation goes on.

    `teacher_prompt`, a text or messages, is what the teacher was shown in place of all that stands before the completion; it becomes
    tokens as the prompt does (`distill.text.teacher_prompts`).

    Args:
        rows: many at once (a thousand): their texts are tokenised together.
        tokenizer: the student's.
        chat: what becomes of a prompt that is text, as in `as_prompt`.
        turns: `"last"`, `"all"` or `"each"`.
        ignore: fields of messages that are left out on purpose.
        filled: keys with null in tools and calls were filled in by Arrow and are no keys.

    Returns:
        For each row its pairs, as dicts of `prompt`, `completion`, `prompt_ids`, `completion_ids`, `finish_reason`, `token_source`,
        and where there is something to say `loss_mask`, `tools`, `message` (the turn itself, if it is more than a text),
        `teacher_prompt` and `teacher_prompt_ids`; or the ValueError that refuses the row.

    Raises:
        ValueError: no such choice of turns; a tokenizer without EOS or end of turn.

    Example:
        >>> [[pair]] = encode_rows([{"prompt": "What is rain?", "completion": "Water."}], tokenizer)
    """
    if turns not in TURNS:
        raise ValueError(f"turns is {turns!r}, expected one of {TURNS}.")
    known = chat_of(tokenizer)
    found: list[list[Plan] | ValueError] = []
    for row in rows:
        try:
            said = without_nulls(row) if filled else row
            plans = list(_plans(said, known, chat, turns, ignore))
            add_teachers_prompt(plans, said, known, chat, said.get("tools") or _older_functions(said))
            found.append(plans)
        except ValueError as error:
            found.append(error)
    _encode([plan for plans in found if isinstance(plans, list) for plan in plans], known)
    return [_pairs(plans) if isinstance(plans, list) else plans for plans in found]


def _plans(
    row: Mapping[str, Any], chat: Chat, wrap: bool | None, turns: str, ignore: Collection[str]
) -> Iterator[Plan]:
    if row.get("loss_mask") is not None:
        raise ValueError(
            "a loss_mask beside text: it is one of tokens, which are only made now. Mark turns with weight 0 or 1, or give prompt_ids "
            "and completion_ids with it."
        )
    tools, older = read_tools(row.get("tools")), _older_functions(row)
    if tools and older and tools != older:
        raise ValueError("tools and functions differ; keep one of them.")
    tools = tools or older
    values = read_values(row.get("chat_template_kwargs"))
    if "completion" in row and "prompt" not in row:
        raise ValueError("a completion without a prompt.")
    if isinstance(row.get("completion"), str):
        yield _text_plan(row, chat, wrap, end_of_row(row.get("finish_reason"), False), tools, values, ignore)
        return
    messages, marks, first = _conversation(row, ignore)
    finish_reason = end_of_row(row.get("finish_reason"), "tool_calls" in messages[-1])
    if chat.tokenizer.chat_template is None:
        raise ValueError(
            "The row has messages, but this tokenizer has no chat template; give plain prompt and completion."
        )
    messages = in_order_of_calls(chat, messages, tools, values)
    check_shown(chat, messages, tools, values)
    talk = Talk(chat, messages, chat.marked_messages(messages), tools, chat.marked(tools), chat.marked(values))
    spoken = [i for i in range(first, len(messages)) if messages[i]["role"] == "assistant"]
    trained = [i for i in spoken if marks[i] is not False]
    if turns == "last":
        if first and len(spoken) > 1:
            raise ValueError(
                f"The completion has {len(spoken)} turns of the assistant; turns='last' would train on one of them only. Choose "
                "turns='all' or 'each'."
            )
        if trained and trained[-1] != len(messages) - 1:
            raise ValueError(
                "The last turn is marked as not to be trained on, and turns='last' trains on no other. Choose turns='all' or 'each' for "
                "the turns before it."
            )
        trained = trained[-1:]
    for i in trained:
        if not (messages[i]["content"] or messages[i].keys() - {"role", "content"}):
            raise ValueError(
                f"message {i}, an assistant's turn, says nothing, so there is nothing to learn from it; mark it with weight 0."
            )
    if not trained:
        raise ValueError(
            "No turn that could carry loss is left: those of the assistant are marked as not to be trained on."
        )
    if trained[0] == 0:
        raise ValueError(
            "The conversation begins with the assistant's turn, which has no prompt; begin with the user's, or mark it with weight 0."
        )
    # a cut is the last turn's; one that is not trained on leaves those before it whole
    cut = len(messages) - 1 if finish_reason == "length" and trained[-1] == len(messages) - 1 else -1
    if turns == "all" and len(trained) > 1:
        yield one_row(talk, trained, cut)
        return
    for i in trained:
        yield turn_plan(talk, i, finish_reason if i == len(messages) - 1 else "stop")


def _text_plan(
    row: Mapping[str, Any], chat: Chat, wrap: bool | None, finish_reason: str, tools: Any, values: Any, ignore: Any
) -> Plan:
    prompt: Any = row["prompt"]
    completion: str = row["completion"]
    pair: dict[str, Any]
    if not completion:
        raise ValueError("the completion is empty, so there is nothing to learn from this pair; remove it.")
    if row.get("system") or (isinstance(prompt, str) and tools):
        prompt = _with_system(as_prompt(prompt, chat.tokenizer, True, tools, values), row.get("system"))
    if not isinstance(prompt, str) and ignore:
        prompt = [{name: value for name, value in message.items() if name not in ignore} for message in prompt]
    if isinstance(prompt, str) and wrap is not True:  # as_prompt says the same, but asks the tokenizer each time
        prompt = [{"role": "user", "content": prompt}] if wrap is None and chat.has_template else prompt
    else:
        prompt = as_prompt(prompt, chat.tokenizer, wrap, tools, values)
    if isinstance(prompt, str):
        if values:
            raise ValueError("chat_template_kwargs beside a plain prompt, which no template sees; remove them.")
        text, opened, pair = chat.marked(prompt), prompt.rstrip().endswith(OPEN), {"prompt": prompt}
    else:
        if tools or values:
            check_shown(chat, prompt, tools, values)
        text = chat.render(chat.marked_messages(prompt), chat.marked(tools), values=chat.marked(values))
        opened, pair = text.rstrip().endswith(OPEN), {"prompt": prompt, **told(tools, values)}
    # a trace that was written under another prompt may have one <think> too many or too few for this one
    said = fit_trace(completion, opened=opened, finish_reason=finish_reason)
    pair |= {"completion": said, "finish_reason": finish_reason}
    return text_behind(pair, text, said, chat, is_chat=not isinstance(prompt, str))


def _encode(plans: list[Plan], chat: Chat) -> None:
    """Token ids of all plans, put into their pairs."""
    prompts = chat.encode([plan.prompt for plan in plans])
    single = [plan.parts[0].text for plan in plans if plan.begins_text]
    behind = [part.text for plan in plans if not plan.begins_text for part in plan.parts]
    singles, behinds = iter(chat.encode(single)), iter(chat.encode_after(behind))
    wholes = iter(chat.encode([plan.whole for plan in plans if plan.whole is not None]))
    shown = iter(chat.encode([plan.shown for plan in plans if plan.shown is not None]))
    for plan, prompt in zip(plans, prompts, strict=True):
        prompt_ids = prompt if plan.chat else chat.before_text + prompt
        ids: list[int] = []
        mask: list[int] = []
        pair = plan.pair
        for part in plan.parts:
            found = next(singles if plan.begins_text else behinds)
            ids += found
            try:
                mask += _loss(part, found, chat)
            except ValueError as error:
                pair["error"] = error
        if plan.eos:
            ids.append(eos_id(chat.tokenizer))
            mask.append(1)
        pair |= {"prompt_ids": prompt_ids, "completion_ids": ids, "token_source": "text"}
        if 0 in mask:
            pair["loss_mask"] = mask
        if plan.shown is not None:
            before = chat.before_text if isinstance(pair["teacher_prompt"], str) else []
            pair["teacher_prompt_ids"] = before + next(shown)
            if not pair["teacher_prompt_ids"]:
                pair["error"] = ValueError(
                    "the teacher_prompt has no token; a model needs at least one to continue from."
                )
        if plan.whole is not None and next(wholes) != prompt_ids + ids:
            pair["error"] = ValueError(
                "The tokens of the conversation are others than those of its turns one by one. Give one row a turn: turns='each'."
            )
        elif not prompt_ids:
            pair["error"] = ValueError(
                f"The prompt {pair['prompt']!r} has no token; a model needs at least one to continue from."
            )
        elif pair.get("loss_mask") and 1 not in mask:
            pair["error"] = ValueError("The chat template marks no word of the turns that are to be trained on.")


def _loss(part: Part, ids: list[int], chat: Chat) -> list[int]:
    """0 or 1 for each token of a part: what the template marks, where it marks something."""
    if not part.loss or part.marks is None:
        return [int(part.loss)] * len(ids)
    covered = [False] * len(part.text)
    for start, stop in part.marks:
        covered[max(start, 0) : max(stop, 0)] = [True] * len(covered[max(start, 0) : max(stop, 0)])
    if all(covered):
        return [1] * len(ids)
    places = chat.spans(part.text)
    if len(places) != len(ids):
        raise ValueError(
            "A turn of which the template marks only a part has text that looks like a control token, so which of its tokens are marked "
            "cannot be said; remove that text."
        )
    return [int(any(covered[start:stop])) for start, stop in places]


def _pairs(plans: list[Plan]) -> list[dict[str, Any]] | ValueError:
    return next((plan.pair["error"] for plan in plans if "error" in plan.pair), [plan.pair for plan in plans])


def _conversation(row: Mapping[str, Any], ignore: Collection[str]) -> tuple[Messages, list[bool | None], int]:
    """The messages of a row, their marks, and where those begin that may carry loss."""
    first = 0
    if "completion" in row:
        prompt = row["prompt"]
        prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        read_messages(prompt, ignore)
        given, first = [*prompt, *row["completion"]], len(prompt)
    else:
        given = row["messages"]
    messages, marks = read_messages(given, ignore)
    if row.get("system"):
        before = len(messages)
        messages = _with_system(messages, row["system"])
        if len(messages) > before:
            marks, first = [None, *marks], first + 1 if first else 0
    if messages[-1]["role"] != "assistant" or len(messages) < 2:
        raise ValueError(
            f"The conversation has the roles {', '.join(m['role'] for m in messages)}; it must have two messages or more "
            "and end with the assistant's."
        )
    return messages, marks, first


def _with_system(messages: Any, system: Any) -> Messages:
    if not system:
        return list(messages)
    if not isinstance(system, str):
        raise ValueError(f"system must be text, not {str(system)[:60]!r}.")
    if messages and messages[0].get("role") == "system":
        if messages[0].get("content") != system:
            raise ValueError(
                "The row has a column system, and messages that begin with another system's turn; keep one of them."
            )
        return list(messages)
    return [{"role": "system", "content": system}, *messages]


def _older_functions(row: Mapping[str, Any]) -> Any:
    """`functions`, as OpenAI's API had them before `tools`: a list, or its JSON as text.

    Raises:
        ValueError: something else, which no template would see.
    """
    functions = read_tools(row.get("functions"), "functions")
    if functions is None:
        return None
    if not all("name" in one or "function" in one for one in functions):
        raise ValueError(
            f"functions must be a list of functions with a name, not {str(functions)[:60]!r}; rename the column if it is something else."
        )
    return [one if "function" in one else {"type": "function", "function": one} for one in functions]
