"""Results of calls: each answers a call, and where the template goes by their order, they are put into it."""

from collections.abc import Mapping, Sequence
from typing import Any

from distill.text.chat import Chat
from distill.text.messages import RESULTS, Messages

_ID = "qzdist123"  # nine letters, as Mistral's templates demand of an id


def in_order_of_calls(
    chat: Chat, messages: Messages, tools: Sequence[Any] | None = None, values: Mapping[str, Any] | None = None
) -> Messages:
    """The messages, results of several calls at once in the order of the calls, unless the template shows which call each answers.

    Raises:
        ValueError: a result of no call; calls of which some have no result, or two with one id, where the template does not show ids.
    """
    ordered = list(messages)
    for i, message in enumerate(messages):
        calls, end = message.get("tool_calls", ()), i + 1
        while calls and end < len(messages) and messages[end]["role"] in RESULTS:
            end += 1
        if end > i + 1:
            told = _indices(i, calls, messages[i + 1 : end])
            if len(calls) > 1 and not (None not in told and _shows_ids(chat, messages, i, tools, values)):
                ordered[i + 1 : end] = _ordered(i, calls, messages[i + 1 : end], told)
    return ordered


def _indices(i: int, calls: Sequence[Mapping[str, Any]], results: Messages) -> list[int | None]:
    """Which call each result says it answers; None where it says nothing, or no call has an id."""
    asked = [call.get("id") for call in calls]
    told = [result.get("tool_call_id") for result in results]
    if not any(one is not None for one in asked):
        return [None] * len(results)
    for number, one in enumerate(told, i + 1):
        if one is not None and one not in asked:
            raise ValueError(
                f"Message {number} is the result of the call {one!r} (tool_call_id), but the calls of message {i} are {asked}; "
                "mend the id, or leave the row out."
            )
    return [None if one is None else asked.index(one) for one in told]


def _ordered(i: int, calls: Sequence[Mapping[str, Any]], results: Messages, told: list[int | None]) -> Messages:
    several = len(calls)
    if told == [None] * several:
        return results  # they can only be meant in this order
    ids = [call.get("id") for call in calls]
    if (
        None in told
        or len(set(ids)) < several
        or sorted(one for one in told if one is not None) != list(range(several))
    ):
        raise ValueError(
            f"Message {i} has {several} calls with the ids {ids}, and the results behind it answer "
            f"{[result.get('tool_call_id') for result in results]}; the template does not show ids, so there must be one result for each "
            "call, with its own tool_call_id, or all of them without and in the order of the calls."
        )
    return [results[told.index(n)] for n in range(several)]


def _shows_ids(chat: Chat, messages: Messages, i: int, tools: Any, values: Any) -> bool:
    """Whether the template writes the id of a call and of its result."""
    known = ("ids", tools is not None, repr(sorted((values or {}).items())))
    if known not in chat.shown and ("no", *known) not in chat.shown:
        old = messages[i]["tool_calls"][0].get("id")
        calls = [{**messages[i]["tool_calls"][0], "id": _ID}, *messages[i]["tool_calls"][1:]]
        rest = [{**m, "tool_call_id": _ID} if m.get("tool_call_id") == old else m for m in messages[i + 1 :]]
        text = chat.render(
            [*messages[:i], {**messages[i], "tool_calls": calls}, *rest], tools, ended=True, values=values
        )
        chat.shown.add(known if text.count(_ID) > 1 else ("no", *known))
    return known in chat.shown
