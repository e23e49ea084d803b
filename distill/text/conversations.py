"""Turns of a conversation: what a template writes for each, how it ends, and which of it carries loss."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill.text.chat import OPEN, WORD, Chat
from distill.text.messages import Messages
from distill.text.traces import completion_text, fit_trace

_ONE_ROW_A_TURN = "Give one row a turn, each ending with that turn: turns='each'."


@dataclass
class Part:
    """A text behind the prompt. `marks`: from where to where in it the template marks words; None: loss everywhere or nowhere."""

    text: str
    loss: bool
    marks: list[tuple[int, int]] | None = None


@dataclass
class Plan:
    """A pair before its texts are tokens."""

    pair: dict[str, Any]
    prompt: str
    parts: list[Part]
    chat: bool = True
    eos: bool = False  # put it behind the last part
    begins_text: bool = False  # the first part is encoded as a text by itself
    whole: str | None = None  # prompt and parts, if they must give the same tokens together
    shown: str | None = None  # what the teacher is shown in place of the prompt


@dataclass
class Talk:
    """A conversation with what goes to the template beside it; `marked` has borders around control tokens in texts."""

    chat: Chat
    messages: Messages
    marked: Messages
    tools: list[dict[str, Any]] | None
    marked_tools: Any
    values: Mapping[str, Any] | None

    def asked(self, turn: int) -> str:
        return self.chat.render(self.marked[:turn], self.marked_tools, values=self.values)

    def ended(self, turn: int) -> tuple[str, list[tuple[int, int]] | None]:
        return self.chat.render_ended(self.marked[: turn + 1], self.marked_tools, self.values)


def _rendered_turn(talk: Talk, turn: int) -> tuple[str, str, str | None, list[tuple[int, int]] | None] | None:
    """What the template writes before a turn, for it, to end it, and where it marks words in it; None if it hides something."""
    asked, (whole, places) = talk.asked(turn), talk.ended(turn)
    start = len(asked) if whole.startswith(asked) else _start_of_last(talk, turn, asked, whole)
    if start is None:
        return None
    said, end = talk.chat.split_end(whole[start:]) or (whole[start:], None)
    message = talk.marked[turn]
    texts = [message["content"], message.get("reasoning_content", "")]
    texts += [call.get("function", call)["name"] for call in message.get("tool_calls", ())]
    if not all(text.strip() in said for text in texts):
        return None
    marks = None if places is None else [(first - start, last - start) for first, last in places]
    return asked, said, end, marks


def _start_of_last(talk: Talk, turn: int, asked: str, whole: str) -> int | None:
    """Where a turn begins in a conversation of which the template shows what came before otherwise once the turn is said (gpt-oss).

    Behind the last generation prompt before the first place that another turn would change.
    """
    header = asked.removeprefix(talk.chat.render(talk.marked[:turn], talk.marked_tools, ended=True, values=talk.values))
    other = {name: WORD if isinstance(value, str) and value else value for name, value in talk.marked[turn].items()}
    other |= {"role": talk.marked[turn]["role"], "tool_calls": [{"function": {"name": WORD, "arguments": {}}}]}
    if "tool_calls" not in talk.marked[turn]:
        del other["tool_calls"]
    changed = talk.chat.render([*talk.marked[:turn], other], talk.marked_tools, ended=True, values=talk.values)
    same = next((i for i, (one, two) in enumerate(zip(whole, changed, strict=False)) if one != two), len(whole))
    found = whole.rfind(header, 0, same)
    return found + len(header) if found > 0 and header and header != asked else None


def turn_plan(talk: Talk, turn: int, finish_reason: str) -> Plan:
    message, chat = talk.messages[turn], talk.chat
    pair = {"prompt": talk.messages[:turn], "finish_reason": finish_reason, **told(talk.tools, talk.values)}
    rendered = _rendered_turn(talk, turn)
    if rendered is None:
        return _turn_as_text(talk, turn, pair)
    asked, said, end, marks = rendered
    pair["completion"] = message["content"] if message["content"] == said else _shown_text(said, chat)
    if message.keys() - {"role", "content"}:
        pair["message"] = json.dumps(message, ensure_ascii=False)
    if finish_reason != "stop":
        end = ""
    part = Part(said + (end or ""), True, None if marks is None else [*marks, (len(said), len(said) + len(end or ""))])
    return Plan(pair, asked, [part], eos=end is None)


def _turn_as_text(talk: Talk, turn: int, pair: dict[str, Any]) -> Plan:
    """A turn that the template does not show as it is said: words and a trace are taken as text, anything else is refused."""
    message, chat = talk.messages[turn], talk.chat
    asked = talk.asked(turn)
    reasoning = message.get("reasoning_content", "")
    if more := sorted(message.keys() - {"role", "content", "reasoning_content"}):
        raise ValueError(
            f"The chat template does not show message {turn}, an assistant's turn with {', '.join(more)}, behind its generation "
            "prompt as it is said, so it cannot be trained on. Use a template that does."
        )
    if reasoning and OPEN not in chat.template(talk.tools):
        raise ValueError(f"The chat template does not show reasoning_content of message {turn}, and knows no {OPEN}.")
    opened = asked.rstrip().endswith(OPEN)
    said = completion_text(reasoning, message["content"], opened=opened) if reasoning else message["content"]
    pair["completion"] = fit_trace(said, opened=opened, finish_reason=pair["finish_reason"])
    if not pair["completion"]:
        raise ValueError("the completion is empty, so there is nothing to learn from this pair; remove it.")
    return text_behind(pair, asked, pair["completion"], chat)


def one_row(talk: Talk, trained: list[int], cut: int) -> Plan:
    whole, _ = talk.ended(trained[-1])
    parts: list[Part] = []
    place = 0
    for turn in trained:
        rendered = _rendered_turn(talk, turn)
        asked, said, end, marks = rendered or ("", "", None, None)
        if rendered is None or not whole.startswith(asked + said + (end or "")):
            raise ValueError(
                f"The chat template shows message {turn}, an assistant's turn, otherwise than it was asked for or said (it may "
                f"take traces out of earlier turns), so it cannot be trained on within this conversation. {_ONE_ROW_A_TURN}"
            )
        if end is None:
            raise ValueError(
                f"The chat template ends message {turn}, an assistant's turn, with no control token, so a student trained on it "
                f"would not learn to stop. Use a template that does, or turns='each', which adds the EOS."
            )
        if parts:
            parts.append(Part(whole[place : len(asked)], False))
        else:
            first = asked
        if turn == cut:
            end = ""
        place = len(asked) + len(said) + len(end)
        parts.append(Part(said + end, True, None if marks is None else [*marks, (len(said), len(said) + len(end))]))
    pair = {
        "prompt": talk.messages[: trained[0]],
        "completion": "".join(_shown_text(part.text, talk.chat) for part in parts),
        "finish_reason": "stop" if cut < 0 else "length",
        **told(talk.tools, talk.values),
    }
    return Plan(pair, first, parts, whole=whole[:place])


def text_behind(pair: dict[str, Any], prompt: str, said: str, chat: Chat, is_chat: bool = True) -> Plan:
    stopped = pair["finish_reason"] == "stop"
    end = chat.end if stopped and is_chat else None
    part = Part(chat.marked(said, own=True) + (end or ""), True)
    return Plan(pair, prompt, [part], is_chat, eos=stopped and end is None, begins_text=True)


def told(tools: Any, values: Any) -> dict[str, Any]:
    """What the template was given beside the messages, for the pair."""
    given = {"tools": tools, "chat_template_kwargs": values}
    return {name: json.dumps(value, ensure_ascii=False) for name, value in given.items() if value}


def _shown_text(text: str, chat: Chat) -> str:
    """A turn's text for people: without special tokens, but for the tags of a trace and those that were characters."""
    return chat.special_or_bordered.sub(lambda found: found[1] or "", text)
